r"""Run a grid of models, datasets, variants and seeds, and write the paper's tables beside the paper's figures.

The grid `paper` is Tables 2 to 9: ours and rivals of other libraries under one protocol, on your own copies of the data:

    python scripts/reproduce.py paper --data isic2017=data/isic2017 --data retouch=data/retouch --output runs/paper

A rehearsal of every row in minutes on a CPU, on a sample of photographs and a phantom of OCT:

    python scripts/reproduce.py paper --budget tiny --output outputs/paper

What it will cost is told before anything is trained, and all that is told with --dry-run. Cells are trained one by one by
scripts/train.py; the same command goes on after a kill, and finished cells are kept. On several GPUs of a machine:

    python scripts/reproduce.py paper --launcher "accelerate launch" --data ... --output runs/paper
    CUDA_VISIBLE_DEVICES=1 python scripts/reproduce.py paper --data ... --output runs/paper

Several processes may share an output folder: each takes the next cell that no other has. Where they have no folder in common,
`--part 1/4` takes every fourth cell.

Into the output folder go `tables.md`, `tables.csv`, `tables.tex` (package booktabs), `analyses.md` and `figures/`, and
`cells/` with all that these are made from: --tables-only writes them again without data or models.

Scores are means over seeds with their standard deviation and intervals over cases; a star says that a line differs from the
table's reference (paired bootstrap over cases, Holm over the lines). What the paper prints has a column of its own, and
systems that nobody can run here have lines "as published, another protocol". docs/reproduce.md tells how a grid is written.

The exit status is 1 where a cell failed; the others are run and tabulated all the same.
"""

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ..flags import Parser, add_output


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Ends the process after a mistake."""
    parser = Parser(__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("grid", nargs="?", default="paper", help="JSON file, or a name in scripts/grids (default: paper)")
    add_output(parser, type=Path, required=True, metavar="FOLDER", help="of cells, tables and figures")
    add("--data", action="append", default=[], metavar="NAME=FOLDER", help="prepared dataset by its name in the grid")
    add("--budget", choices=["full", "tiny"], default="full", help="tiny rehearses every row (default: full)")
    add(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="tables, datasets, models, rows or cells; default all",
    )
    add("--seeds", type=int, nargs="+", default=[], help="default: those of the grid")
    add("--part", default="0/1", metavar="I/N", help="run every N-th cell from the I-th on, to share out by cell")
    add("--launcher", default=None, help='command in place of python, such as "accelerate launch"')
    add("--bootstrap-samples", type=int, default=1000, help="of intervals and tests (default: 1000)")
    add("--keep-models", action="store_true", help="leave the trained models in OUTPUT/work")
    add("--dry-run", action="store_true", help="only measure and tell what it would cost")
    add("--tables-only", action="store_true", help="run nothing; write tables of the cells that are there")
    given = parser.parse_args(arguments)
    pairs = [text.partition("=") for text in given.data]
    if any(not (name and folder) for name, _, folder in pairs):
        parser.error(f"--data is {given.data}; expected NAME=FOLDER")
    given.data = {name: Path(folder) for name, _, folder in pairs}
    first, _, number = given.part.partition("/")
    if not (first.isdigit() and number.isdigit() and int(first) < int(number)):
        parser.error(f"--part is {given.part}; expected I/N with I from 0 to N - 1")
    given.part = int(first), int(number)
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 after a mistake or where a cell failed, or 130 after Ctrl-C."""
    given = parse(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from ..benchmarking.grid import TINY, Grid
    from ..benchmarking.reproduction import reproduce
    from ..errors import BadInputError
    from ..training.progress import quieten_libraries

    quieten_libraries()
    in_this_process = given.budget == TINY and given.launcher is None
    launcher = [sys.executable] if given.launcher is None else shlex.split(given.launcher)
    try:
        failed = reproduce(
            Grid.read(given.grid, given.budget),
            given.output,
            given.data,
            seeds=given.seeds,
            only=given.only,
            share=given.part,
            launcher=None if in_this_process else launcher,
            samples=given.bootstrap_samples,
            keep_models=given.keep_models,
            dry_run=given.dry_run,
            tables_only=given.tables_only,
        )
    except BadInputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on\n")
        return 130
    if failed:
        names = ", ".join(cell.name for cell in failed)
        sys.stderr.write(f"error: {names} failed; the same command tries again.\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
