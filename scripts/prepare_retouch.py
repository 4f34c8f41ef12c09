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

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path


if __name__ == "__main__":  # before the slow imports
    OPTIONS = Path(__file__).resolve().parents[1] / "modeling_resformer" / "options"
    runpy.run_path(str(OPTIONS / "launch.py"))["launch"](__file__, __doc__)

from modeling_resformer.data.preparing import annotation_arguments, run
from modeling_resformer.data.retouch import Retouch
from modeling_resformer.options.prepare_retouch import parse


CARD = Path(__file__).parents[1] / "hub_cards" / "dataset_card_retouch.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after one line on stderr that names the bad input."""
    options = parse(sys.argv[1:] if argv is None else argv, __doc__)
    options.card = CARD
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
