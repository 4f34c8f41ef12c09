"""One's own folder (`images/`, `masks/`, a table of labels) to an Arrow dataset with a report.

The table's column class_labels names the classes; a fifth of the patients is held out, a tenth validates:

    python scripts/prepare_folder.py --source scans --output outputs/scans \
        --mask-values 0=background,255=lesion --test-fraction 0.2 --validation-fraction 0.1

One table column per class with 0, 1 or nothing, given splits, pictures stored at 224 x 224:

    python scripts/prepare_folder.py --source scans --output outputs/scans --mask-values 0=background,1=cyst,2=tumour \
        --label-names benign,malignant --splits splits.csv --image-size 224
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modeling_resformer.data.multitask_folder import MultiTaskFolder, parse_mask_values, parse_modality
from modeling_resformer.data.preparing import add_annotation_options, annotation_arguments, preparation_parser, run
from modeling_resformer.data.transforms import AUGMENTATIONS


CARD = Path(__file__).parents[1] / "hub_cards" / "dataset_card_folder.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after one line on stderr that names the bad input."""
    parser = preparation_parser(__doc__, CARD)
    add_annotation_options(parser)
    parser.add_argument("--mask-values", help="pixel values and their classes, e.g. 0=background,255=lesion")
    parser.add_argument("--label-names", help="image-level classes in order, e.g. melanoma,nevus")
    parser.add_argument("--table", help="the table of labels, where the folder holds several")
    parser.add_argument(
        "--merge-masks",
        action="store_true",
        help="unite several masks of one picture, e.g. a_mask.png and a_mask_1.png",
    )
    parser.add_argument(
        "--modality",
        help=f"kind of the pictures, one word; training knows {', '.join(AUGMENTATIONS)} and augments by it",
    )
    options = parser.parse_args(argv)

    def make_builder(arguments: dict[str, Any]) -> MultiTaskFolder:
        return MultiTaskFolder(
            mask_values=None if options.mask_values is None else parse_mask_values(options.mask_values),
            label_names=None if options.label_names is None else options.label_names.split(","),
            table=options.table,
            merge_masks=options.merge_masks,
            modality=None if options.modality is None else parse_modality(options.modality),
            **annotation_arguments(options),
            **arguments,
        )

    return run(make_builder, options)


if __name__ == "__main__":
    sys.exit(main())
