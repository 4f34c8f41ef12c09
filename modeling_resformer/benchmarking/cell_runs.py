"""Cells of a grid, run one after the other by the trainer of scripts/train.py.

Of a finished cell `cells/NAME` keeps what tables and figures are made from, and what can be committed:

    results.json, per_case.csv, run.json     as scripts/train.py writes them
    shown/CASE_SLICE.png                     the predicted index masks of the test images that figures show
    cell.json                                {"cell": ..., "recipe": ..., "cpu_seconds": ..., "cost": {...},
                                              "mask_classes": [...], "class_labels": [...]}, written last

Trainings happen in `work/NAME`, resume from their own checkpoints, and are deleted once their cell is finished.
"""

import json
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.prepared import PreparedDataset, load_prepared
from ..errors import named_write_failure, one_line
from ..files import LOCK, fcntl, hold, write_whole
from ..training.arguments import EvaluationArguments, parse_arguments
from ..training.building import build_collator, build_image_processor, build_metrics, load_model
from ..training.seed_runs import TRAIN
from ..training.seeds import is_finished
from ..training.trainer import ResFormerTrainer
from ..training.training_run import train
from .cell_costs import ROW_ERRORS, Cost, CostBook, epochs_within
from .grid import Cell, Grid


try:
    import resource
except ImportError:  # Windows
    resource = None

KEPT = ("results.json", "per_case.csv", "run.json")
SHOWN_IMAGES = 4
SHOWN_SIDE = 192  # pixels of the longer side
RECORD = "cell.json"

logger = logging.getLogger(__name__)


def cell_folder(output: Path, cell: Cell) -> Path:
    return output / "cells" / cell.name


def is_kept(output: Path, cell: Cell) -> bool:
    """Whether a cell is finished."""
    return (cell_folder(output, cell) / RECORD).is_file()


def run_cells(
    grid: Grid,
    cells: Sequence[Cell],
    data: Mapping[str, Path],
    output: Path,
    costs: CostBook,
    launcher: Sequence[str] | None,
    keep_models: bool = False,
) -> list[Cell]:
    """Runs every cell that is not finished; returns those that failed, of which each said why.

    Several processes may share a grid: each takes the next cell that none of them has.

    Args:
        grid: whose cells they are.
        cells: in the order to run them in.
        data: prepared folder by source.
        output: see the top.
        costs: of every cell, measured before.
        launcher: what starts a module by `-m`, such as Python or `accelerate launch`; None trains in this process.
        keep_models: leave the trainings where they are.
    """
    failed = []
    for number, cell in enumerate(cells, start=1):
        with taken(output, cell) as is_mine:
            if not is_mine or is_kept(output, cell):
                continue
            logger.info("== %d of %d: %s", number, len(cells), cell.name)
            if not run_cell(grid, cell, data[grid.source(cell.dataset)], output, costs, launcher):
                failed.append(cell)
            elif not keep_models:
                shutil.rmtree(output / "work" / cell.name, ignore_errors=True)
    return failed


@contextmanager
def taken(output: Path, cell: Cell) -> Iterator[bool]:
    """Whether a cell is this process's for a block; a killed process has none."""
    lock = output / "work" / f".{cell.name}{LOCK}"
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = hold(lock)
    try:
        yield held is not None or fcntl is None
    finally:
        if held is not None:
            lock.unlink(missing_ok=True)
            os.close(held)


def run_cell(
    grid: Grid, cell: Cell, data: Path, output: Path, costs: CostBook, launcher: Sequence[str] | None
) -> bool:
    """Trains one and keeps what tables need; whether that went well. Why not is logged."""
    try:
        cost = costs.of(cell)
        recipe = sized_recipe(grid, cell, cost)
        if not train_cell(recipe, data, output / "work" / cell.name, launcher):
            return False
    except (subprocess.CalledProcessError, *ROW_ERRORS) as error:
        logger.error("%s failed: %s", cell.name, one_line(error))
        return False
    with named_write_failure(output, "--output"):
        keep(output, cell, recipe, data, cost)
    return True


def sized_recipe(grid: Grid, cell: Cell, cost: Cost) -> dict[str, Any]:
    """A cell's recipe; with a budget of time, for as many epochs as fit into it, to a hundredth of one."""
    recipe = grid.recipe(cell)
    if grid.cpu_minutes is None:
        return recipe
    return {**recipe, "num_train_epochs": epochs_within(grid.cpu_minutes, cost)}


def train_cell(recipe: Mapping[str, Any], data: Path, work: Path, launcher: Sequence[str] | None) -> bool:
    """Trains, or goes on training; whether it is finished. Its CPU time is added up in `cpu_seconds.json`.

    Raises:
        what training raises, one of `ROW_ERRORS`, or `CalledProcessError`.
    """
    run, file = work / "run", work / "recipe.json"
    if is_finished(run):
        return True
    work.mkdir(parents=True, exist_ok=True)
    if file.is_file():  # the number of epochs of a run that goes on is the one that it began with
        recipe = json.loads(file.read_text(encoding="utf-8"))
    else:
        write_whole(file, json.dumps(recipe, indent=2) + "\n")
    flags = ["--dataset", str(data), "--output_dir", str(run), "--resume_from_checkpoint", "true"]
    before, spent = _cpu_seconds(), cpu_seconds(work)
    try:
        if launcher is None:
            train(*parse_arguments(["--recipe", str(file), *flags]))
        else:
            subprocess.run([*launcher, *TRAIN, "--recipe", str(file), *flags], check=True)
    finally:
        write_whole(work / "cpu_seconds.json", json.dumps(spent + _cpu_seconds() - before) + "\n")
    return is_finished(run)


def cpu_seconds(work: Path) -> float:
    """What a training's starts have taken so far; those that were killed with this process are not counted."""
    file = work / "cpu_seconds.json"
    return float(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else 0.0


def _cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    if resource is None:
        return time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def keep(output: Path, cell: Cell, recipe: Mapping[str, Any], data: Path, cost: Cost) -> None:
    """Copies what tables need out of a finished training."""
    work, target = output / "work" / cell.name, cell_folder(output, cell)
    target.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copyfile(work / "run" / name, target / name)
    draw_shown(work, data, target / "shown")
    dataset = json.loads((target / "run.json").read_text(encoding="utf-8"))["dataset"]
    record = {
        "cell": asdict(cell),
        "recipe": dict(recipe),
        "cpu_seconds": round(cpu_seconds(work), 1),
        "cost": asdict(cost),
        **{name: dataset[name] for name in ("mask_classes", "class_labels")},
    }
    write_whole(target / RECORD, json.dumps(record, indent=2) + "\n")


def draw_shown(work: Path, data: Path, target: Path) -> None:
    """Predicts the masks of the images that figures show; nothing for a model without masks."""
    _, data_args, training = parse_arguments(
        ["--recipe", str(work / "recipe.json"), "--dataset", str(data), "--output_dir", str(work / "run")]
    )
    prepared = data_args.choice.applied_to(load_prepared(data_args.dataset, data_args.splits), training.seed)
    trainer = loaded_trainer(work / "run", prepared)
    if trainer.task.mask_logits is None:
        return
    target.mkdir(exist_ok=True)
    for name, row in shown_rows(prepared):
        mask = trainer.predict_mask(row["image"], fitted(row["image"].size)[::-1])
        Image.fromarray(mask.astype(np.uint8)).save(target / f"{name}.png")


def loaded_trainer(run: Path, prepared: PreparedDataset) -> ResFormerTrainer:
    """That of an evaluation, with the model of a finished training."""
    model, processor = load_model(str(run), None), build_image_processor(str(run))
    return ResFormerTrainer(
        model=model,
        args=EvaluationArguments(output=str(run)).as_training_arguments(),
        data_collator=build_collator(prepared, processor, model.config),
        processing_class=processor,
        compute_metrics=build_metrics(model, ()),
    )


def shown_rows(prepared: PreparedDataset) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Some rows of the test split by name, the same for every model: those with most classes, of different cases first."""
    test = prepared.dataset["test"]
    table = zip(test["case_id"], test["slice_index"], test["mask_classes"], strict=True)
    told = [(case, number, len(classes or ()), i) for i, (case, number, classes) in enumerate(table)]
    first: dict[str, tuple] = {}
    for one in sorted(told, key=lambda one: (-one[2], one[3])):
        first.setdefault(one[0], one)
    chosen = sorted(first.values(), key=lambda one: (-one[2], one[3]))
    step = max(1, len(chosen) // SHOWN_IMAGES)
    for case, number, _, i in chosen[::step][:SHOWN_IMAGES]:
        yield f"{case.replace('/', '_')}_{number or 0}", test[i]


def fitted(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a shown image."""
    scale = min(1.0, SHOWN_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
