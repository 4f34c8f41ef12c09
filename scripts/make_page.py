"""`resformer make-page` from a checkout; it stands in modeling_resformer/commands/make_page.py."""

import runpy
from pathlib import Path


if __name__ == "__main__":
    COMMANDS = Path(__file__).resolve().parents[1] / "modeling_resformer" / "commands"
    runpy.run_path(str(COMMANDS / "launch.py"))["launch"](__file__)
