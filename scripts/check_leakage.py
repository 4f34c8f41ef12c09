"""Does a prepared dataset, or a pair of them, share cases or images between its splits?

The splits of one dataset; the list and an image of the pairs go to outputs/leakage:

    python scripts/check_leakage.py outputs/isic2017 --output outputs/leakage

A training set against somebody else's test set, as a gate that exits with status 3 when anything leaks:

    python scripts/check_leakage.py outputs/mine outputs/theirs --output outputs/leakage --fail
"""

import logging
import runpy
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path


if __name__ == "__main__":  # before the slow imports
    OPTIONS = Path(__file__).resolve().parents[1] / "modeling_resformer" / "options"
    runpy.run_path(str(OPTIONS / "launch.py"))["launch"](__file__, __doc__)

from datasets.utils.logging import set_verbosity_error

from modeling_resformer.data.leakage import (
    Match,
    find_matches,
    match_sheet,
    prepared_splits,
    write_matches,
)
from modeling_resformer.data.prepared import load_prepared
from modeling_resformer.errors import BadInputError
from modeling_resformer.options.check_leakage import LEAKED, parse


SHOWN = 20


def describe(matches: Sequence[Match]) -> str:
    """Returns the counts and the first pairs, as lines."""
    counts = Counter(("leak" if match.is_leak else "within one split", match.kind) for match in matches)
    lines = [f"{where}: {count} x {kind}" for (where, kind), count in counts.items()] or ["nothing is shared"]
    for match in matches[:SHOWN]:
        pair = (f"{place.split} {place.case_id} [{place.slice_index}]" for place in (match.first, match.second))
        lines.append(f"  {match.kind} ({match.distance} bits): {' = '.join(pair)}")
    if len(matches) > SHOWN:
        lines.append(f"  ... and {len(matches) - SHOWN} more in leakage.csv")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, 1 after an error line, or 3 when something leaks and --fail is given."""
    arguments = parse(sys.argv[1:] if argv is None else argv, __doc__)
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
    sys.stdout.write(describe(matches))
    return LEAKED if arguments.fail and any(match.is_leak for match in matches) else 0


if __name__ == "__main__":
    sys.exit(main())
