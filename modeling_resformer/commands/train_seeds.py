r"""Train the same run with several seeds, and tabulate mean and standard deviation.

    python scripts/train_seeds.py --seeds 0 1 2 3 4 --output_dir runs/isic2017 \
        scripts/recipes/isic2017_recommended.json --dataset data/isic2017 --bf16

Every other argument goes to `scripts/train.py`, which runs once a seed, in `OUTPUT_DIR/seed_N`; on every GPU of a machine:

    python scripts/train_seeds.py --seeds 0 1 2 --launcher "accelerate launch" --output_dir runs/isic2017 ...

The same command goes on after a kill: finished seeds are kept, an interrupted one resumes from its last checkpoint. Into
the output folder go `seeds.json`, and the tables `seeds.md` and `seeds.tex` (with the package booktabs), a row for every
class and for every vendor where the dataset has vendors.

The exit status is 1 where a seed failed; the others are trained and tabulated all the same.
"""

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ..flags import Parser, plain


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command's own arguments, and those for train.py. Ends the process after a mistake."""
    parser = Parser(__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", required=True, help="one run each")
    add("--output_dir", type=Path, required=True, metavar="FOLDER", help="of the runs and tables")
    parser.also("--output_dir", "--output")
    add("--launcher", default=None, help='command in place of python, such as "accelerate launch"')
    add("--fractions", action="store_true", help="write 0.882 in the tables in place of 88.2")
    add("--decimals", type=int, default=1, help="decimals of a percentage in the tables")
    given, passed_on = parser.parse_known_args(arguments)
    if any(plain(flag).split("=")[0] == "--seed" for flag in passed_on):
        parser.error("--seed is given by --seeds")
    return given, passed_on


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 where a seed failed."""
    given, passed_on = parse(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from ..errors import BadInputError
    from ..training.seed_runs import train_seeds
    from ..training.seeds import Style

    launcher = [sys.executable] if given.launcher is None else shlex.split(given.launcher)
    style = Style(percent=not given.fractions, decimals=given.decimals)
    try:
        failed, tables = train_seeds(given.seeds, given.output_dir, launcher, passed_on, style)
    except BadInputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(tables)
    if failed:
        sys.stderr.write(f"error: seed {', '.join(map(str, failed))} failed; the same command tries again.\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
