"""RETOUCH volumes (your own copy) to an Arrow dataset of B-scans with a report.

All three vendors, split by the published list (4 test and 2 validation volumes a vendor), two processes:

    python scripts/prepare_retouch.py --source RETOUCH --output outputs/retouch --num-proc 2

One vendor, with the training part of the paper's Table 1 (no validation part), stored at 512 x 512:

    python scripts/prepare_retouch.py --source RETOUCH --output outputs/cirrus --vendor cirrus \
        --validation-volumes 0 --image-size 512

A draw of one's own, by volume, stratified by vendor and fluids:

    python scripts/prepare_retouch.py --source RETOUCH --output outputs/retouch_7 \
        --test-fraction 0.2 --validation-fraction 0.1 --seed 7

Only some slices annotated, the others marked by code 255 in the reference, or listed in a table:

    python scripts/prepare_retouch.py --source RETOUCH --output outputs/retouch --unannotated-code 255
    python scripts/prepare_retouch.py --source RETOUCH --output outputs/retouch --annotated-slices annotated.csv
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from modeling_resformer.data.preparing import add_annotation_options, annotation_arguments, preparation_parser, run
from modeling_resformer.data.retouch import VENDORS, Retouch


CARD = Path(__file__).parents[1] / "hub_cards" / "dataset_card_retouch.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after one line on stderr that names the bad input."""
    parser = preparation_parser(__doc__, CARD)
    add_annotation_options(parser)
    parser.add_argument("--vendor", choices=["all", *(vendor.lower() for vendor in VENDORS)], default="all")
    parser.add_argument(
        "--validation-volumes", type=int, default=2, help="volumes a vendor that the published split validates on"
    )
    parser.add_argument(
        "--agreement-allows-sharing",
        action="store_true",
        help="I state that my agreement with the organisers allows a private, gated copy on the Hub",
    )
    parser.set_defaults(gated=True)
    options = parser.parse_args(argv)
    return run(
        lambda arguments: Retouch(
            config_name=options.vendor,
            validation_volumes=options.validation_volumes,
            **annotation_arguments(options),
            **arguments,
        ),
        options,
    )


if __name__ == "__main__":
    sys.exit(main())
