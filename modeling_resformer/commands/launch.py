"""Starts a command, by `resformer NAME` or by `scripts/NAME.py`: run by its path, since to import the package takes seconds."""

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType


PACKAGE = Path(__file__).resolve().parents[1]
WITHOUT_IMPORTS = (
    "resformer_without_imports"  # the package, where only the modules named are run and not its __init__.py
)
NAMES = (
    *("predict", "train", "evaluate", "train_seeds", "train_folds", "reproduce"),
    *("prepare_folder", "prepare_isic2017", "prepare_retouch", "check_leakage"),
    *("push_to_hub", "export", "make_page", "serve", "gpu_check"),
)


def launch(script: str) -> None:
    """Ends the process as the command of that name does.

    The script's folder leaves `sys.path`: in it lies an `evaluate.py`, which is not the package of that name.

    Args:
        script: path of the file that Python runs.
    """
    folder = Path(script).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != folder]
    sys.exit(start(Path(script).stem, sys.argv[1:]))


def console() -> int:
    """`resformer NAME ...`; returns the exit status."""
    names = {name.replace("_", "-"): name for name in NAMES}
    listed = "\n".join(f"  {name:18}{summary(of)}" for name, of in names.items())
    parser = argparse.ArgumentParser(
        prog="resformer",
        usage="%(prog)s COMMAND [flags]",
        description=f"One model that segments and diagnoses medical images.\n\ncommands:\n{listed}",
        epilog="resformer COMMAND --help shows the flags of one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version())
    parser.add_argument("command", metavar="COMMAND", help=argparse.SUPPRESS)
    name, arguments = sys.argv[1:2], sys.argv[2:]
    given = parser.parse_args(name).command.replace("_", "-")
    if given not in names:
        close = difflib.get_close_matches(given, names, n=1)
        parser.error(f"there is no command {given}; " + (f"did you mean {close[0]}?" if close else "see --help"))
    sys.argv[:] = [f"resformer {given}", *arguments]  # the first is what argparse calls the program
    return start(names[given], arguments)


def start(name: str, arguments: Sequence[str]) -> int:
    """Runs a command; `--help` or a mistake in the flags ends the process before the imports, which take seconds."""
    try:
        load(f"commands.{name}").parse(arguments)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return import_module(f"modeling_resformer.commands.{name}").main(arguments)


def version() -> str:
    """Of the package, as setup.py reads it."""
    text = (PACKAGE / "configuration_resformer.py").read_text(encoding="utf-8")
    return re.search(r'__version__ = "(.+?)"', text)[1]


def summary(name: str) -> str:
    """The first line of a command's help."""
    return load(f"commands.{name}").__doc__.strip().splitlines()[0]


def load(name: str) -> ModuleType:
    """A module of the package that needs the standard library alone, without the imports of the package above it."""
    if WITHOUT_IMPORTS not in sys.modules:
        package = ModuleType(WITHOUT_IMPORTS)
        package.__path__ = [str(PACKAGE)]
        sys.modules[WITHOUT_IMPORTS] = package
    return import_module(f"{WITHOUT_IMPORTS}.{name}")
