"""The flags of `scripts/prepare_isic2017.py`."""

import argparse
from collections.abc import Sequence

from .preparing import preparation_parser


def parse(arguments: Sequence[str], description: str | None = None) -> argparse.Namespace:
    """Ends the process after a mistake."""
    return preparation_parser(description).parse_args(arguments)
