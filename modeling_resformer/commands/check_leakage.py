"""Does a prepared dataset, or a pair of them, share cases or images between its splits?

The splits of one dataset; the list and an image of the pairs go to outputs/leakage:

    python scripts/check_leakage.py outputs/isic2017 --output outputs/leakage

A training set against somebody else's test set, as a gate that exits with status 3 when anything leaks:

    python scripts/check_leakage.py outputs/mine outputs/theirs --output outputs/leakage --fail
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ..flags import Parser, add_output


LEAKED = 3  # exit status


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Ends the process after a mistake."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("datasets", type=Path, nargs="+", help="prepared folders")
    add_output(parser, type=Path, required=True, help="folder for leakage.csv and leakage.png")
    # The default is that of data/leakage.py, which says how it was chosen.
    add("--max-distance", type=int, default=38, help="bits of 256 that near-duplicates differ in (%(default)s)")
    add("--num-proc", type=int, default=1, help="processes")
    add("--fail", action="store_true", help=f"exit with status {LEAKED} when splits share anything")
    return parser.parse_args(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, 1 after an error line, or 3 when something leaks and --fail is given."""
    arguments = parse(sys.argv[1:] if argv is None else argv)
    from datasets.utils.logging import set_verbosity_error

    from ..data.leakage import describe_matches, find_matches, match_sheet, prepared_splits, write_matches
    from ..data.prepared import load_prepared
    from ..errors import BadInputError

    set_verbosity_error()
    logging.getLogger("PIL").setLevel(logging.ERROR)
    try:
        splits = prepared_splits({str(path): load_prepared(path).dataset for path in arguments.datasets})
    except BadInputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    matches = find_matches(splits, arguments.max_distance, arguments.num_proc)
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_matches(matches, arguments.output / "leakage.csv")
    match_sheet(matches, splits).save(arguments.output / "leakage.png")
    sys.stdout.write(describe_matches(matches))
    return LEAKED if arguments.fail and any(match.is_leak for match in matches) else 0


if __name__ == "__main__":
    sys.exit(main())
