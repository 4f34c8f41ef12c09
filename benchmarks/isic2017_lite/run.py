"""Train every cell of a grid, one after the other, and write what the validation split says of each.

    python benchmarks/isic2017_lite/run.py benchmarks/isic2017_lite/ablation.json --dataset data/isic2017 \
        --output runs/ablation

A grid is a JSON file: a recipe, flags for every row, and rows with flags of their own (null removes one; `config` is
joined). Each cell, a row with a seed, is a training of its own by scripts/train.py, and leaves one JSON file in the folder
`cells` beside the grid: nothing of it is run again, so that a grid goes on where it was stopped. Trainings resume from
their own checkpoints. Scores are those of the validation split at the epoch of lowest validation loss; the test split takes
no part in any choice, and is not kept.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from modeling_resformer import ResFormerConfig
from modeling_resformer.files import write_whole
from modeling_resformer.heads import TASKS


ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "scripts" / "recipes"


def recipe_of(grid: Mapping[str, Any], row: str, seed: int) -> dict[str, Any]:
    """One flat recipe for a cell."""
    recipe = json.loads((RECIPES / f"{grid['recipe']}.json").read_text(encoding="utf-8"))
    for flags in (grid["flags"], grid["rows"][row]["flags"]):
        recipe = {**recipe, **flags, "config": {**recipe.get("config", {}), **flags.get("config", {})}}
    return {**{name: value for name, value in recipe.items() if value is not None}, "seed": seed}


def run_cell(recipe: Mapping[str, Any], dataset: Path, output: Path) -> dict[str, Any]:
    """Trains, or goes on training, and returns what is kept of it."""
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / "recipe.json", json.dumps(recipe, indent=2))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    train = [sys.executable, str(ROOT / "scripts" / "train.py"), str(output.resolve() / "recipe.json")]
    places = ["--dataset", str(dataset.resolve()), "--output_dir", str(output.resolve() / "run")]
    train += [*places, "--resume_from_checkpoint", "true", "--save_total_limit", "1"]
    subprocess.run(train, check=True, cwd=ROOT)  # where a grid's paths begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"recipe": recipe, "cpu_minutes": round(seconds / 60, 2), **kept_of(output / "run", recipe)}


def kept_of(run: Path, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The validation scores of a finished run, its learning curve, parameters, multiplications and versions."""
    log = json.loads((run / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    curve = [{name: line[name] for name in line if name.startswith(("eval_", "epoch"))} for line in log]
    curve = [line for line in curve if "eval_loss" in line]
    best = min(curve, key=lambda line: line["eval_loss"])
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return {
        "validation": {name.removeprefix("eval_"): value for name, value in best.items()},
        "curve": [[line["epoch"], line["eval_loss"]] for line in curve],
        "parameters": record["model"]["parameters"],
        "gmac": gmac(run, recipe.get("task", "multi_task"), recipe["image_size"]),
        "libraries": record["libraries"],
        "code": record["code"],
    }


def gmac(run: Path, task: str, size: int) -> float:
    """Multiply-accumulates of one image in 1e9, as torch counts them for convolutions and matrix products."""
    from torch.utils.flop_counter import FlopCounterMode

    model = TASKS[task].model_class(ResFormerConfig.from_pretrained(run)).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(pixel_values=torch.zeros(1, 3, size, size))
    return round(counter.get_total_flops() / 2e9, 3)


def cells(grid: Mapping[str, Any], seeds: list[int], rows: list[str]) -> Iterator[tuple[str, int]]:
    """Every row with the first seed, then with the next."""
    for seed in seeds:
        for row in rows or grid["rows"]:
            yield row, seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
    parser.add_argument("--dataset", type=Path, required=True, help="Folder that prepare_isic2017.py wrote.")
    parser.add_argument(
        "--output", type=Path, required=True, help="Where the runs go; each can be deleted afterwards."
    )
    parser.add_argument("--seeds", type=int, nargs="+", help="Default: those of the grid.")
    parser.add_argument("--rows", nargs="+", default=[], help="Default: all.")
    arguments = parser.parse_args()
    grid = json.loads(arguments.grid.read_text(encoding="utf-8"))
    folder = arguments.grid.resolve().parent / "cells"
    folder.mkdir(exist_ok=True)
    for row, seed in cells(grid, arguments.seeds or grid["seeds"], arguments.rows):
        name = f"{arguments.grid.stem}-{row}-{seed}"
        if not (folder / f"{name}.json").is_file():
            kept = run_cell(recipe_of(grid, row, seed), arguments.dataset, arguments.output / name)
            write_whole(folder / f"{name}.json", json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
