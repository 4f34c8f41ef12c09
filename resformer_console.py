"""The console command `resformer`. A module of its own, since to import one of the package brings torch, which takes seconds."""

import runpy
from importlib.util import find_spec
from pathlib import Path


def main() -> int:
    """Returns the exit status."""
    package = Path(find_spec("modeling_resformer").origin).parent  # found, and not imported
    return runpy.run_path(str(package / "commands" / "launch.py"))["console"]()
