"""The flags of `scripts/check_leakage.py`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..flags import Parser, add_output


LEAKED = 3  # exit status


def parse(arguments: Sequence[str], description: str | None = None) -> argparse.Namespace:
    """Ends the process after a mistake."""
    parser = Parser(description)
    add = parser.add_argument
    add("datasets", type=Path, nargs="+", help="prepared folders")
    add_output(parser, type=Path, required=True, help="folder for leakage.csv and leakage.png")
    # The default is that of data/leakage.py, which says how it was chosen.
    add("--max-distance", type=int, default=38, help="bits of 256 that near-duplicates differ in (%(default)s)")
    add("--num-proc", type=int, default=1, help="processes")
    add("--fail", action="store_true", help=f"exit with status {LEAKED} when splits share anything")
    return parser.parse_args(arguments)
