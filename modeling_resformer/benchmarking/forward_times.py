"""How long one image takes through the network of each row, all rows in turn.

What a cell costs is measured before it is begun, one row now and another an hour later, on a machine that does other things by
then. What tables and figures say of a network's time is measured again when cells are finished: row after row, round after
round, so that whatever else the machine does counts for all alike. It stands in `times.json`.
"""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from ..files import write_whole
from ..training.image_cost import Workload, forward_seconds
from ..training.run_record import describe_hardware
from .cell_costs import trainer_of, workload_of
from .cell_runs import is_kept
from .grid import Grid


FILE = "times.json"
ROUNDS = 5


def read_times(output: Path) -> dict[str, float]:
    """Milliseconds of one image by `name_of`; empty where nothing was measured."""
    file = output / FILE
    return json.loads(file.read_text(encoding="utf-8"))["milliseconds"] if file.is_file() else {}


def name_of(dataset: str, row: str) -> str:
    return f"{dataset}-{row}"


def time_rows(grid: Grid, data: Mapping[str, Path], output: Path, rounds: int = ROUNDS) -> None:
    """Measures every row of which a cell is finished, unless all of them were measured together before.

    Args:
        grid: that was run.
        data: prepared folder by source.
        output: of the cells; `times.json` goes there.
        rounds: of each the fastest repetition, of which the median is kept.
    """
    kept = {name_of(cell.dataset, cell.row): cell for cell in grid.cells((), ()) if is_kept(output, cell)}
    if kept.keys() <= read_times(output).keys():
        return
    workloads = {}
    for name, cell in kept.items():
        trainer = trainer_of(grid.recipe(cell), data[grid.source(cell.dataset)], output)
        workloads[name], hardware = workload_of(trainer), describe_hardware(trainer.args)
    # Rows that learn from other masks have the same network: it is measured once for all of them.
    networks = {told_of(workload): workload for workload in workloads.values()}
    spent: dict[str, list[float]] = {told: [] for told in networks}
    for _ in tqdm(range(rounds), desc="timing the rows"):
        for told, workload in networks.items():
            spent[told].append(forward_seconds(workload))
    found = {name: 1000 * statistics.median(spent[told_of(workload)]) for name, workload in workloads.items()}
    record = {"hardware": hardware, "rounds": rounds, "milliseconds": found}
    write_whole(output / FILE, json.dumps(record, indent=2) + "\n")


def told_of(workload: Workload) -> str:
    """The same text for the same network on images of the same size."""
    return json.dumps([workload.task, workload.config, workload.size], sort_keys=True, default=str)
