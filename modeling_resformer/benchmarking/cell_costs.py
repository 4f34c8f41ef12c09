"""What a cell costs: parameters, multiplications, time and memory, measured before anything is trained.

A forward pass and training steps on whole batches are measured in a process of their own (`training/image_cost.py`), the fastest
of several: by the time of the CPU on a CPU, so that other programs count little, and by the wall's clock on a GPU. A budget of
time is turned into a number of epochs by these, so that a run can be repeated; what it took stands in `cell.json`.
"""

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..data.prepared import load_prepared
from ..errors import BadInputError, NonFiniteLossError, one_line
from ..files import write_whole
from ..training.arguments import parse_arguments
from ..training.image_cost import Stage, Workload, clock_of
from ..training.preflight import Plan, make_plan, make_workload, measure_here, reading_seconds, run_measurement
from ..training.run_record import RunClock
from ..training.trainer import ResFormerTrainer
from ..training.training_run import make_trainer
from .grid import Cell, Grid


FILE = "costs.json"
TIMEOUT_SECONDS = 3600.0  # of one measurement: a machine that does other things may be slow
# Other libraries complain as they like, and one row that cannot be run is no reason to stop the others.
ROW_ERRORS = (ValueError, TypeError, RuntimeError, OSError, ImportError, NonFiniteLossError)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cost:
    """Of one row on one dataset.

    Attributes:
        parameters: of the model.
        gmac: multiply-accumulates of one image in 1e9, as torch counts them for convolutions and matrix products.
        milliseconds: of one image forward.
        step_milliseconds: of one training step, by image of the batch.
        memory: bytes that training takes beyond the process itself; None where it was not measured.
        epoch_seconds: of learning once from every image.
        validation_seconds: of one evaluation of the validation split.
        seconds: of the whole training.
    """

    parameters: int
    gmac: float
    milliseconds: float
    step_milliseconds: float
    memory: int | None
    epoch_seconds: float
    validation_seconds: float
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
        self.known = self._read()

    def _read(self) -> dict[str, Cost]:
        found = json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}
        return {key: Cost(**one) for key, one in found.items()}

    def of(self, cell: Cell) -> Cost:
        """That of a cell, measured if it is not known yet.

        Raises:
            BadInputError: its model cannot be built, or one image is too much.
        """
        recipe = {name: value for name, value in self.grid.recipe(cell).items() if name not in ("seed", "mask_share")}
        told = json.dumps([cell.dataset, recipe], sort_keys=True)
        key = f"{cell.dataset}-{cell.row}-{sha256(told.encode()).hexdigest()[:12]}"
        if key not in self.known:
            folder = self.data[self.grid.source(cell.dataset)]
            cost = measure_cost(recipe, folder, self.path.parent, self.grid.tiny)
            # Another process may share the grid: what it measured first holds for both.
            self.known = {**self.known, key: cost, **self._read()}
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
    trainer = trainer_of(recipe, data, scratch)
    plan, workload = make_plan(trainer), workload_of(trainer)
    plan = replace(plan, data_seconds=reading_seconds(trainer, clock_of(workload)))
    workload = replace(workload, batch=plan.batch)
    gmac = multiplications(trainer)
    measurement = measure_here(workload) if quick else run_measurement(workload, TIMEOUT_SECONDS)
    found = {stage.name: stage for stage in measurement.stages}
    if "step_of_batch" not in found:
        raise BadInputError(f"the cost of {recipe} cannot be measured: {measurement.problem}")
    return cost_of(plan, found, gmac, len(trainer.eval_dataset))


def trainer_of(recipe: Mapping[str, Any], data: Path, scratch: Path) -> ResFormerTrainer:
    """See `measure_cost`; nothing is measured yet."""
    file = scratch / f".recipe-{os.getpid()}.json"
    write_whole(file, json.dumps(dict(recipe)))
    model_args, data_args, training = parse_arguments(
        ["--recipe", str(file), "--dataset", str(data), "--output_dir", str(scratch)]
    )
    file.unlink()
    if model_args.cpu_threads is not None:
        torch.set_num_threads(model_args.cpu_threads)
    prepared = data_args.choice.applied_to(load_prepared(data_args.dataset, data_args.splits), training.seed)
    data_args = data_args.with_augmentation(prepared.modality)
    return make_trainer(model_args, data_args, training, prepared, RunClock())


def workload_of(trainer: ResFormerTrainer) -> Workload:
    """What is measured of it: by the time of the CPU on a CPU."""
    return replace(make_workload(trainer), cpu_time=trainer.args.device.type == "cpu")


def cost_of(plan: Plan, stages: Mapping[str, Stage], gmac: float, validation_images: int) -> Cost:
    """From stages by their names."""
    forward, batch = stages["forward"], stages["step_of_batch"]
    step = batch.seconds / plan.batch
    # A further copy of the weights is their average, which the measuring process does not keep.
    held = 4 * plan.parameters * plan.averaged
    waits = 0.0 if plan.workers else plan.data_seconds
    learning, validating = step + waits, forward.seconds + waits
    return Cost(
        parameters=plan.parameters,
        gmac=gmac,
        milliseconds=1000 * forward.seconds,
        step_milliseconds=1000 * step,
        memory=None if batch.peak is None else batch.peak - (stages["start"].peak or 0) + held,
        epoch_seconds=plan.images * learning,
        validation_seconds=validation_images * validating,
        seconds=plan.training_images * learning + plan.evaluated_images * validating,
    )


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
    """How many epochs fit into a time with a validation after each begun one, rounded down to hundredths, of which there is
    one at least."""
    validations = 1
    while True:
        fitting = (60 * cpu_minutes - validations * cost.validation_seconds) / cost.epoch_seconds
        if fitting <= validations:
            # Where one validation more leaves less than a whole epoch more, the last whole one is what fits.
            return max(1, int(100 * max(fitting, validations - 1))) / 100
        validations += 1


def seconds_of(grid: Grid, cost: Cost) -> float:
    """Of a cell's training."""
    if grid.cpu_minutes is None:
        return cost.seconds
    epochs = epochs_within(grid.cpu_minutes, cost)
    return epochs * cost.epoch_seconds + math.ceil(epochs) * cost.validation_seconds


def describe_costs(grid: Grid, cells: Sequence[Cell], costs: CostBook) -> str:
    """What the whole grid will take, and a line for each row; one that cannot be built or measured says so."""
    lines, whole = [], 0.0
    for cell in cells:
        try:
            cost = costs.of(cell)
        except (BadInputError, *ROW_ERRORS) as error:
            lines.append(f"{cell.name}: {one_line(error)}")
            continue
        seconds = seconds_of(grid, cost)
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
