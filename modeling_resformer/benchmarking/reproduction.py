"""A whole grid: its data, its cells, and the tables and figures that come of them."""

import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..data.prepared import is_prepared
from ..errors import BadInputError, named_write_failure
from ..files import check_writable, write_whole
from ..metrics.scores import Bootstrap
from .analyses import analyses_markdown
from .cell_costs import CostBook, describe_costs
from .cell_runs import is_kept, run_cells
from .forward_times import time_rows
from .free_baselines import restricted, run_baselines
from .grid import Cell, Grid
from .table_figures import draw_figures
from .table_files import table_latex, table_markdown, tables_csv
from .table_lines import parts_of


ROOT = Path(__file__).resolve().parents[2]
# How the rehearsal's data are made, by the name of the prepared folder; {0} is where they go.
SAMPLES = {
    "isic2017": [
        "scripts/prepare_isic2017.py --source examples/isic2017_sample --splits examples/isic2017_sample/split.csv "
        "--image-size 96 --output {0}"
    ],
    "retouch": [
        "examples/oct_phantom.py --output {0}_raw --volumes-per-vendor 5 --slices 8",
        "scripts/prepare_retouch.py --source {0}_raw --splits {0}_raw/splits.csv --output {0}",
    ],
}
TINY_NOTE = (
    "**A rehearsal**: two steps of training on a sample of photographs and a phantom of OCT. Its figures say that the way from "
    "data to tables is whole, and nothing about any network.\n"
)

logger = logging.getLogger(__name__)


def reproduce(
    grid: Grid,
    output: Path,
    data: Mapping[str, Path],
    *,
    seeds: Sequence[int] = (),
    only: Sequence[str] = (),
    share: tuple[int, int] = (0, 1),
    launcher: Sequence[str] | None = None,
    samples: int = 1000,
    keep_models: bool = False,
    dry_run: bool = False,
    tables_only: bool = False,
) -> list[Cell]:
    """Runs what of a grid is not finished, and writes its tables and figures.

    Args:
        grid: to run.
        output: of cells, tables and figures.
        data: prepared folder by source.
        seeds, only: see `Grid.cells`; default all.
        share: this process's part of the cells, and of how many.
        launcher: see `run_cells`.
        samples: of the bootstrap.
        keep_models: see `run_cells`.
        dry_run: only tell what it would cost.
        tables_only: run nothing, and write the tables of what is there.

    Returns:
        The cells that failed.

    Raises:
        BadInputError: data are missing, a row cannot be built, or the folder cannot be written.
    """
    check_writable(output, "--output")
    output.mkdir(parents=True, exist_ok=True)
    if tables_only:
        write_reproduction(grid, output, {}, samples)
        return []
    data = found_data(grid, output, data)
    cells = list(grid.cells(seeds, only))[share[0] :: share[1]]
    left = [cell for cell in cells if not is_kept(output, cell)]
    costs = CostBook(grid, data, output)
    logger.info(
        "%d of %d cells are finished.\n%s", len(cells) - len(left), len(cells), describe_costs(grid, left, costs)
    )
    if dry_run:
        return []
    failed = run_cells(grid, left, data, output, costs, launcher, keep_models)
    run_baselines(grid, data, output, samples)
    if not grid.tiny:
        time_rows(grid, data, output)
    write_reproduction(grid, output, data, samples)
    return failed


def found_data(grid: Grid, output: Path, given: Mapping[str, Path]) -> dict[str, Path]:
    """The prepared folder of every source; those of a rehearsal that are not given are made.

    Raises:
        BadInputError: one is missing.
    """
    found = dict(given)
    for source in grid.sources:
        if source not in found and grid.tiny:
            found[source] = output / "data" / source
            if not is_prepared(found[source]):
                make_sample(source, found[source])
        if source not in found:
            raise BadInputError(
                f"--data: the grid needs {source}; expected --data {source}=FOLDER, which scripts/prepare_*.py wrote"
            )
    return found


def make_sample(source: str, folder: Path) -> None:
    """Raises `BadInputError` where there is no checkout, or it failed."""
    if not (ROOT / "examples").is_dir():
        raise BadInputError("--budget tiny takes its data from examples/, which a checkout has; or give --data")
    folder.parent.mkdir(parents=True, exist_ok=True)
    for command in SAMPLES[source]:
        words = command.split()
        try:
            subprocess.run([sys.executable, *(word.format(folder.resolve()) for word in words)], cwd=ROOT, check=True)
        except subprocess.CalledProcessError as error:
            raise BadInputError(f"{words[0]} failed; what went wrong stands above") from error


def write_reproduction(grid: Grid, output: Path, data: Mapping[str, Path], samples: int) -> None:
    """Writes tables.md, tables.csv, tables.tex, analyses.md and figures/ from the cells that are there."""
    parts = parts_of(grid, output, Bootstrap(samples))
    if not parts:
        logger.warning("%s: no cell is finished, so there are no tables.", output)
        return
    title = f"# {grid.settings['title']}\n\n" + (f"{TINY_NOTE}\n" if grid.tiny else "")
    with named_write_failure(output, "--output"):
        write_whole(output / "tables.md", title + "\n".join(map(table_markdown, parts)))
        write_whole(output / "tables.csv", tables_csv(parts))
        write_whole(output / "tables.tex", "\n".join(map(table_latex, parts)))
        write_whole(output / "analyses.md", analyses_markdown(parts))
        shown = {
            part.dataset: restricted(grid, part.dataset, data[grid.source(part.dataset)]) for part in parts if data
        }
        drawn = draw_figures(grid, parts, shown, output)
    names = ["tables.md", "tables.csv", "tables.tex", "analyses.md", *(path.relative_to(output) for path in drawn)]
    logger.info("Written to %s: %s", output, ", ".join(map(str, names)))
