r"""ISIC 2017, as downloaded, to an Arrow dataset with a report.

The sample that comes with the repository, at 128 x 128:

    python scripts/prepare_isic2017.py --source examples/isic2017_sample --output outputs/isic2017_sample \
        --splits examples/isic2017_sample/split.csv --image-size 128

The whole archive, images stored at the recipe's size, two processes:

    python scripts/prepare_isic2017.py --source ISIC2017 --output outputs/isic2017 --image-size 224 --num-proc 2

Only the training split at hand: hold out a tenth of it, seeded and stratified by diagnosis:

    python scripts/prepare_isic2017.py --source ISIC2017 --output outputs/isic2017 --validation-fraction 0.1
"""

import argparse
import sys
from collections.abc import Sequence

from .preparation_flags import preparation_parser, run_preparation


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Ends the process after a mistake."""
    return preparation_parser(__doc__).parse_args(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after one line on stderr that names the bad input."""
    given = parse(sys.argv[1:] if argv is None else argv)
    from ..data.isic2017 import Isic2017

    return run_preparation(lambda arguments: Isic2017(**arguments), given, "dataset_card_isic2017.md")


if __name__ == "__main__":
    sys.exit(main())
