"""What a cell costs: parameters, multiplications, time and memory, measured before anything is trained.

One forward pass and one training step are measured by the clock that training uses (`training/image_cost.py`): the time of the
CPU on a CPU, so that other programs do not count, and the wall's on a GPU.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..data.prepared import load_prepared
from ..errors import BadInputError
from ..files import write_whole
from ..training.arguments import parse_arguments
from ..training.preflight import Plan, make_plan, make_workload, measure_here, run_measurement, scale
from ..training.run_record import RunClock
from ..training.trainer import ResFormerTrainer
from ..training.training_run import make_trainer
from .grid import Cell, Grid


FILE = "costs.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cost:
    """Of one row on one dataset.

    Attributes:
        parameters: of the model.
        gmac: multiply-accumulates of one image in 1e9, as torch counts them for convolutions and matrix products.
        milliseconds: of one image forward.
        step_milliseconds: of one training step on one image.
        memory: bytes that training takes beyond the process itself; None where it was not measured.
        seconds_an_epoch: of training and validation.
        seconds: of the whole training.
    """

    parameters: int
    gmac: float
    milliseconds: float
    step_milliseconds: float
    memory: int | None
    seconds_an_epoch: float
    seconds: float


class CostBook:
    """The costs of a grid's cells, kept in `costs.json` so that each row is measured once.

    Args:
        grid: whose cells they are.
        data: prepared folder by source.
        output: folder of the file.
    """

    def __init__(self, grid: Grid, data: Mapping[str, Path], output: Path) -> None:
        self.grid, self.data, self.path = grid, data, output / FILE
        found = json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}
        self.known = {key: Cost(**one) for key, one in found.items()}

    def of(self, cell: Cell) -> Cost:
        """That of a cell, measured if it is not known yet.

        Raises:
            BadInputError: its model cannot be built, or one image is too much.
        """
        recipe = {name: value for name, value in self.grid.recipe(cell).items() if name not in ("seed", "mask_share")}
        told = json.dumps([cell.dataset, recipe], sort_keys=True)
        key = f"{cell.dataset}-{cell.row}-{sha256(told.encode()).hexdigest()[:12]}"
        if key not in self.known:
            self.known[key] = measure_cost(
                recipe, self.data[self.grid.source(cell.dataset)], self.path.parent, self.grid.tiny
            )
            lines = {name: asdict(one) for name, one in self.known.items()}
            write_whole(self.path, json.dumps(lines, indent=2) + "\n")
        return self.known[key]


def measure_cost(recipe: Mapping[str, Any], data: Path, scratch: Path, quick: bool) -> Cost:
    """Builds the trainer of a recipe, and measures its model.

    Args:
        recipe: flags of scripts/train.py.
        data: the prepared folder.
        scratch: a folder to put the recipe into.
        quick: in this process, without memory and with hardly a repetition.
    """
    file = scratch / ".recipe.json"
    write_whole(file, json.dumps(dict(recipe)))
    model_args, data_args, training = parse_arguments(
        ["--recipe", str(file), "--dataset", str(data), "--output_dir", str(scratch)]
    )
    file.unlink()
    if model_args.cpu_threads is not None:
        torch.set_num_threads(model_args.cpu_threads)
    prepared = data_args.choice.applied_to(load_prepared(data_args.dataset, data_args.splits), training.seed)
    data_args = data_args.with_augmentation(prepared.modality)
    trainer = make_trainer(model_args, data_args, training, prepared, RunClock())
    plan, workload = make_plan(trainer), replace(make_workload(trainer), cpu_time=training.device.type == "cpu")
    gmac = multiplications(trainer)
    measurement = (measure_here if quick else run_measurement)(workload)
    found = {stage.name: stage for stage in measurement.stages}
    if "step" not in found:
        raise BadInputError(f"the cost of {recipe} cannot be measured: {measurement.problem}")
    estimate = scale(plan, measurement.stages)
    return Cost(
        plan.parameters,
        gmac,
        1000 * found["forward"].seconds,
        1000 * found["step"].seconds,
        estimate.memory,
        seconds_an_epoch(plan, measurement.stages),
        estimate.seconds,
    )


def seconds_an_epoch(plan: Plan, stages: Sequence[Any]) -> float:
    """Training and validation of one."""
    evaluated = round(plan.evaluated_images / plan.epochs) if plan.epochs else 0
    return scale(replace(plan, epochs=1, training_images=plan.images, evaluated_images=evaluated), stages).seconds


def multiplications(trainer: ResFormerTrainer) -> float:
    """GMAC of one image."""
    size = trainer.processing_class.size
    model, was = trainer.model, trainer.model.training
    pixels = torch.zeros(1, model.config.num_channels, size["height"], size["width"], device=trainer.args.device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(pixel_values=pixels)
    model.train(was)
    return round(counter.get_total_flops() / 2e9, 3)


def epochs_within(cpu_minutes: float, cost: Cost) -> float:
    """How many epochs fit into a time, rounded down to hundredths, of which there is one at least."""
    return max(1, int(100 * 60 * cpu_minutes / cost.seconds_an_epoch)) / 100


def describe_costs(grid: Grid, cells: Sequence[Cell], costs: CostBook) -> str:
    """What the whole grid will take, and a line for each row."""
    lines, whole = [], 0.0
    for cell in cells:
        cost = costs.of(cell)
        seconds = cost.seconds
        if grid.cpu_minutes is not None:
            seconds = epochs_within(grid.cpu_minutes, cost) * cost.seconds_an_epoch
        whole += seconds
        lines.append(
            f"{cell.name}: {cost.parameters / 1e6:.2f} M parameters, {cost.gmac:.2f} GMAC, "
            f"{cost.milliseconds:.0f} ms an image, about {seconds / 60:.1f} min"
        )
    return "\n".join(
        [
            *lines,
            f"{len(cells)} cell{'' if len(cells) == 1 else 's'}, about {whole / 3600:.1f} hours of one process in all.",
        ]
    )
