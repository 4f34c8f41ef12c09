"""What a script does before its own imports, which take seconds."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType


NAME = "resformer_without_imports"  # of the package, where only the modules named are run and not its __init__.py


def launch(script: str, description: str | None) -> None:
    """Takes the script's folder off `sys.path`, and ends the process here after `--help` or a mistake in the flags.

    In that folder lies an `evaluate.py`, which is not the package of that name.

    Args:
        script: path of the file that Python runs.
        description: its docstring.
    """
    folder = Path(script).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != folder]
    options = load(Path(script).stem)
    if options is None:
        return
    try:
        options.parse(sys.argv[1:], description)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


def load(name: str) -> ModuleType | None:
    """The options of a script, without the imports of the package above them; None where it has none here."""
    folder = Path(__file__).resolve().parent
    if not (folder / f"{name}.py").is_file():
        return None
    if NAME not in sys.modules:
        package = ModuleType(NAME)
        package.__path__ = [str(folder.parent)]
        sys.modules[NAME] = package
    return import_module(f"{NAME}.{folder.name}.{name}")
