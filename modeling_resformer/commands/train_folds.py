r"""Train and test on every fold of a dataset in turn, and pool what every case was answered by a model that never saw it.

    python scripts/train_folds.py --folds 5 --output_dir runs/folds --recipe small_cpu --dataset data/mine

All splits of the dataset are pooled and its cases dealt out to folds: whole cases (patients, volumes), near-duplicates in one
fold, image-level labels and vendors in their share, by --seed. Each fold is tested once; of the others a part selects, as
large as the dataset's own validation split is beside its training split, and the rest is learned from. Every other argument
goes to `scripts/train.py`, which runs once a fold; on every GPU of a machine:

    python scripts/train_folds.py --launcher "accelerate launch" --output_dir runs/folds ...

The same command goes on after a kill: finished folds are kept, an interrupted one resumes from its last checkpoint; other
settings are refused. Into the output folder go

    folds.csv                            case, fold, group of near-duplicates, stratum
    fold-0/, fold-1/, ...                an ordinary run of train.py each, with its manifest of splits, fold_0_of_5.csv
    results.json, per_case.csv,          all cases, each as its own fold's model answered it, scored as one
    report.png, samples.png
    folds.json, folds.md, folds.tex      mean and standard deviation over the folds; with the package booktabs

`scripts/predict.py --model runs/folds` predicts with the mean of all folds' models, and `scripts/push_to_hub.py --folds
runs/folds` puts the pooled scores into the card of another model of the same data.

The exit status is 1 where a fold failed; the others are trained and tabulated all the same.
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
    add("--folds", type=int, default=5, help="how many (default: 5)")
    add("--output_dir", type=Path, required=True, metavar="FOLDER", help="of the runs, pooled results and tables")
    parser.also("--output_dir", "--output")
    add("--launcher", default=None, help='command in place of python, such as "accelerate launch"')
    add("--no-leakage-check", action="store_true", help="look for no near-duplicates, and keep none together")
    add("--fractions", action="store_true", help="write 0.882 in the tables in place of 88.2")
    add("--decimals", type=int, default=1, help="decimals of a percentage in the tables")
    given, passed_on = parser.parse_known_args(arguments)
    if given.folds < 2:
        parser.error(f"--folds is {given.folds}; expected 2 or more")
    for flag in ("--splits", "--push_to_hub"):
        if any(plain(one).split("=")[0] == plain(flag) for one in passed_on):
            parser.error(f"{flag} is no flag for folds; expected it with scripts/train.py alone")
    return given, passed_on


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 where a fold failed, or 130 after Ctrl-C."""
    given, passed_on = parse(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from ..errors import BadInputError
    from ..training.fold_runs import train_folds
    from ..training.progress import quieten_libraries
    from ..training.seeds import Style

    quieten_libraries()
    launcher = [sys.executable] if given.launcher is None else shlex.split(given.launcher)
    style = Style(percent=not given.fractions, decimals=given.decimals)
    try:
        failed, tables = train_folds(
            given.folds, given.output_dir, launcher, passed_on, style, not given.no_leakage_check
        )
    except BadInputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from the last checkpoint\n")
        return 130
    sys.stdout.write(tables)
    if failed:
        sys.stderr.write(f"error: fold {', '.join(map(str, failed))} failed; the same command tries again.\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
