"""The flags of `scripts/prepare_folder.py`."""

import argparse
from collections.abc import Sequence

from .preparing import add_annotation_options, preparation_parser


# Those of data/transforms.py.
MODALITIES = ("dermoscopy", "oct", "fundus", "ultrasound", "histology")


def parse(arguments: Sequence[str], description: str | None = None) -> argparse.Namespace:
    """Ends the process after a mistake."""
    parser = preparation_parser(description)
    add_annotation_options(parser)
    add = parser.add_argument
    add("--mask-values", help="pixel values and their classes, e.g. 0=background,255=lesion")
    add("--label-names", help="image-level classes in order, e.g. melanoma,nevus")
    add("--table", help="the table of labels, where the folder holds several")
    add(
        "--merge-masks",
        action="store_true",
        help="unite several masks of one image, e.g. a_mask.png and a_mask_1.png",
    )
    add(
        "--modality",
        help=f"kind of the images, one word; training knows {', '.join(MODALITIES)} and augments by it",
    )
    return parser.parse_args(arguments)
