r"""RETOUCH volumes (your own copy) to an Arrow dataset of B-scans with a report.

All three vendors, split by the published list (4 test and 2 validation volumes a vendor), two processes:

    python scripts/prepare_retouch.py --source RETOUCH --output outputs/retouch --num-proc 2

One vendor, with the training split of the paper's Table 1 (no validation split), stored at 512 x 512:

    python scripts/prepare_retouch.py --source RETOUCH --output outputs/cirrus --vendor cirrus \
        --validation-volumes 0 --image-size 512

A draw of one's own, by volume, stratified by vendor and fluids:

    python scripts/prepare_retouch.py --source RETOUCH --output outputs/retouch_7 \
        --test-fraction 0.2 --validation-fraction 0.1 --seed 7

Only some slices annotated, the others marked by code 255 in the reference, or listed in a table:

    python scripts/prepare_retouch.py --source RETOUCH --output outputs/retouch --unannotated-code 255
    python scripts/prepare_retouch.py --source RETOUCH --output outputs/retouch --annotated-slices annotated.csv
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from .preparation_flags import (
    add_annotation_options,
    annotation_arguments,
    preparation_parser,
    run_preparation,
)


VENDORS = ("cirrus", "spectralis", "topcon")  # those of data/retouch.py


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Ends the process after a mistake."""
    parser = preparation_parser(__doc__)
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


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after one line on stderr that names the bad input."""
    given = parse(sys.argv[1:] if argv is None else argv)
    from ..data.retouch import PHANTOM_SOURCE, Retouch
    from ..errors import BadInputError

    def make_builder(arguments: dict[str, Any]) -> Retouch:
        builder = Retouch(
            config_name=given.vendor,
            validation_volumes=given.validation_volumes,
            **annotation_arguments(given),
            **arguments,
        )
        if (given.parquet or given.push_to_hub) and builder.source_name == PHANTOM_SOURCE:
            raise BadInputError(
                f"{given.source}: a phantom is drawn anew by examples/oct_phantom.py and not passed on, so that nobody takes "
                "it for RETOUCH; leave --parquet and --push-to-hub out"
            )
        return builder

    return run_preparation(make_builder, given, "dataset_card_retouch.md")


if __name__ == "__main__":
    sys.exit(main())
