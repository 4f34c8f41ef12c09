r"""One's own folder (`images/`, `masks/`, a table of labels) to an Arrow dataset with a report.

The table's column class_labels names the classes; a fifth of the patients is held out, a tenth validates:

    python scripts/prepare_folder.py --source scans --output outputs/scans \
        --mask-values 0=background,255=lesion --test-fraction 0.2 --validation-fraction 0.1

One table column per class with 0, 1 or nothing, given splits, images stored at 224 x 224:

    python scripts/prepare_folder.py --source scans --output outputs/scans --mask-values 0=background,1=cyst,2=tumour \
        --label-names benign,malignant --splits splits.csv --image-size 224
"""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


if __name__ == "__main__":  # before the slow imports
    OPTIONS = Path(__file__).resolve().parents[1] / "modeling_resformer" / "options"
    runpy.run_path(str(OPTIONS / "launch.py"))["launch"](__file__, __doc__)

from modeling_resformer.data.multitask_folder import MultiTaskFolder, parse_mask_values, parse_modality
from modeling_resformer.data.preparing import annotation_arguments, run
from modeling_resformer.options.prepare_folder import parse


CARD = Path(__file__).parents[1] / "hub_cards" / "dataset_card_folder.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after one line on stderr that names the bad input."""
    options = parse(sys.argv[1:] if argv is None else argv, __doc__)
    options.card = CARD

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
