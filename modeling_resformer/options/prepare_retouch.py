"""The flags of `scripts/prepare_retouch.py`."""

import argparse
from collections.abc import Sequence

from .preparing import add_annotation_options, preparation_parser


VENDORS = ("cirrus", "spectralis", "topcon")  # those of data/retouch.py


def parse(arguments: Sequence[str], description: str | None = None) -> argparse.Namespace:
    """Ends the process after a mistake."""
    parser = preparation_parser(description)
    add_annotation_options(parser)
    add = parser.add_argument
    add("--vendor", choices=["all", *VENDORS], default="all")
    add("--validation-volumes", type=int, default=2, help="volumes a vendor that the published split validates on")
    add(
        "--agreement-allows-sharing",
        action="store_true",
        help="I state that my agreement with the organisers allows a private, gated copy on the Hub",
    )
    parser.set_defaults(gated=True)
    return parser.parse_args(arguments)
