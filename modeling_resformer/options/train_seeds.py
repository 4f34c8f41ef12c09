"""The flags of `scripts/train_seeds.py`; all others are for `scripts/train.py`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..flags import Parser, plain


def parse(arguments: Sequence[str], description: str | None = None) -> tuple[argparse.Namespace, list[str]]:
    """The script's own arguments, and those for train.py. Ends the process after a mistake."""
    parser = Parser(description, allow_abbrev=False)
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", required=True, help="one run each")
    add("--output_dir", type=Path, required=True, metavar="FOLDER", help="of the runs and tables")
    parser.also("--output_dir", "--output")
    add("--launcher", default=None, help='command in place of python, such as "accelerate launch"')
    add("--fractions", action="store_true", help="write 0.882 in the tables in place of 88.2")
    add("--decimals", type=int, default=1, help="decimals of a percentage in the tables")
    given, passed_on = parser.parse_known_args(arguments)
    if any(plain(flag).split("=")[0] == "--seed" for flag in passed_on):
        parser.error("--seed is given by --seeds")
    return given, passed_on
