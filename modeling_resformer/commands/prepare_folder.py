r"""One's own folder (`images/`, `masks/`, a table of labels) to an Arrow dataset with a report.

The table's column class_labels names the classes; a fifth of the patients is held out, a tenth validates:

    python scripts/prepare_folder.py --source scans --output outputs/scans \
        --mask-values 0=background,255=lesion --test-fraction 0.2 --validation-fraction 0.1

One table column per class with 0, 1 or nothing, given splits, images stored at 224 x 224:

    python scripts/prepare_folder.py --source scans --output outputs/scans --mask-values 0=background,1=cyst,2=tumour \
        --label-names benign,malignant --splits splits.csv --image-size 224
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


# Those of data/transforms.py.
MODALITIES = ("dermoscopy", "oct", "fundus", "ultrasound", "histology")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Ends the process after a mistake."""
    parser = preparation_parser(__doc__)
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


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after one line on stderr that names the bad input."""
    given = parse(sys.argv[1:] if argv is None else argv)
    from ..data.multitask_folder import MultiTaskFolder, parse_mask_values, parse_modality

    def make_builder(arguments: dict[str, Any]) -> MultiTaskFolder:
        return MultiTaskFolder(
            mask_values=None if given.mask_values is None else parse_mask_values(given.mask_values),
            label_names=None if given.label_names is None else given.label_names.split(","),
            table=given.table,
            merge_masks=given.merge_masks,
            modality=None if given.modality is None else parse_modality(given.modality),
            **annotation_arguments(given),
            **arguments,
        )

    return run_preparation(make_builder, given, "dataset_card_folder.md")


if __name__ == "__main__":
    sys.exit(main())
