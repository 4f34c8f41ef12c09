"""The flags of `scripts/gpu_check.py`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..flags import Parser, add_output


def parse(arguments: Sequence[str], description: str | None = None) -> argparse.Namespace:
    """Ends the process after a mistake."""
    parser = Parser(description)
    add = parser.add_argument
    add_output(parser, type=Path, required=True, help="folder for DEVICE.json")
    add("--device", default="cuda", help="cuda, cuda:1, ... or cpu")
    add("--tiny", action="store_true", help="a small model at 48 pixels")
    add("--compile", action="store_true", help="also check torch.compile")
    add("--side", type=int, default=224, help="of the images, in pixels")
    add("--batch-sizes", type=int, nargs="+", default=[8, 32, 64], help="to measure; 0 for none")
    add("--seconds", type=float, default=2.0, help="for each measurement at least")
    add("--cpu-threads", type=int, help="threads of torch on the CPU (torch's choice)")
    return parser.parse_args(arguments)
