r"""ISIC 2017, as downloaded, to an Arrow dataset with a report.

The sample that comes with the repository, at 128 x 128:

    python scripts/prepare_isic2017.py --source examples/isic2017_sample --output outputs/isic2017_sample \
        --splits examples/isic2017_sample/split.csv --image-size 128

The whole archive, images stored at the recipe's size, two processes:

    python scripts/prepare_isic2017.py --source ISIC2017 --output outputs/isic2017 --image-size 224 --num-proc 2

Only the training split at hand: hold out a tenth of it, seeded and stratified by diagnosis:

    python scripts/prepare_isic2017.py --source ISIC2017 --output outputs/isic2017 --validation-fraction 0.1
"""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path


if __name__ == "__main__":  # before the slow imports
    OPTIONS = Path(__file__).resolve().parents[1] / "modeling_resformer" / "options"
    runpy.run_path(str(OPTIONS / "launch.py"))["launch"](__file__, __doc__)

from modeling_resformer.data.isic2017 import Isic2017
from modeling_resformer.data.preparing import run
from modeling_resformer.options.prepare_isic2017 import parse


CARD = Path(__file__).parents[1] / "hub_cards" / "dataset_card_isic2017.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after one line on stderr that names the bad input."""
    options = parse(sys.argv[1:] if argv is None else argv, __doc__)
    options.card = CARD
    return run(lambda arguments: Isic2017(**arguments), options)


if __name__ == "__main__":
    sys.exit(main())
