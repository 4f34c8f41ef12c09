"""What are images worth that carry a mask or a diagnosis, but not both? Three runs on one dataset compare.

    python benchmarks/partly_labelled/run.py --dataset data/isic2017 --output runs/partly_labelled --max_steps 1500

A seed divides the training cases: a fifth keeps mask and labels, two fifths keep the mask only, two fifths the labels
only. Validation and test parts stay whole. Three arms train by `scripts/train.py` and the `recipe.json` beside this
file, for the same number of steps and so on the same number of images, each on one CPU thread:

    full_rows_only   the fifth alone: what is left for a method that needs both annotations of every image
    partly_labelled  all images, each with the annotation that it kept
    all_labels       all images with both annotations: the upper reference

A second call passes over arms that are finished and starts an interrupted one anew. When all are finished, the figures
go to `results.json` and `README.md` in the folder --report. One step of 12 images at 96 pixels takes about 0.7 s of
one thread.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, Image, disable_progress_bars
from report import write_report

from modeling_resformer.data.prepared import load_prepared
from modeling_resformer.errors import BadInputError


ARMS = ("full_rows_only", "partly_labelled", "all_labels")
HERE = Path(__file__).resolve().parent
TRAIN = ("-m", "modeling_resformer.commands.train")


def divide(case_ids: Sequence[str], full: float, mask_only: float, seed: int) -> dict[str, set[str]]:
    """Cases by what their images keep: `both`, `mask`, and `labels` for the rest. A pure function of its arguments."""
    cases = np.random.default_rng(seed).permutation(sorted(set(case_ids)))
    first, second = round(full * len(cases)), round((full + mask_only) * len(cases))
    return {"both": set(cases[:first]), "mask": set(cases[first:second]), "labels": set(cases[second:])}


def partly_labelled(rows: Dataset, kept: dict[str, set[str]]) -> Dataset:
    """The same rows, each without the annotation that its case does not keep. No image is encoded again."""

    def strip(row: dict) -> dict:
        if row["case_id"] in kept["mask"]:
            return {"class_labels": None, "class_labels_unknown": []}
        return {"mask": None, "mask_classes": None} if row["case_id"] in kept["labels"] else {}

    undecoded = rows.features.copy()
    undecoded["image"] = undecoded["mask"] = Image(decode=False)
    return rows.cast(undecoded).map(strip, features=undecoded, load_from_cache_file=False).cast(rows.features)


def training_part(arm: str, rows: Dataset, kept: dict[str, set[str]]) -> Dataset:
    if arm == "full_rows_only":
        return rows.select([i for i, case in enumerate(rows["case_id"]) if case in kept["both"]])
    return partly_labelled(rows, kept) if arm == "partly_labelled" else rows


def describe(rows: Dataset) -> dict[str, int]:
    """How many rows there are, and how many of them have a mask, and labels."""
    masks, labels = rows["mask_classes"], rows["class_labels"]
    with_mask, with_labels = (sum(value is not None for value in column) for column in (masks, labels))
    return {"rows": len(rows), "masks": with_mask, "labels": with_labels}


def run_arm(arm: str, seed: int, dataset: DatasetDict, kept: dict[str, set[str]], options: argparse.Namespace) -> None:
    """Train and evaluate one arm, unless that is done; `arm.json` is written last and says that it is."""
    folder = options.output / f"seed{seed}" / arm
    settings = {"dataset": str(options.dataset.resolve()), "seed": seed}
    settings |= {name: getattr(options, name) for name in ("max_steps", "full", "mask_only")}
    settings["recipe"] = json.loads(options.recipe.read_text())
    if (folder / "arm.json").is_file():
        if json.loads((folder / "arm.json").read_text())["settings"] != settings:
            raise BadInputError(f"{folder} holds an arm of other settings; give another --output or remove it.")
        sys.stdout.write(f"{folder}: finished before\n")
        return
    shutil.rmtree(folder, ignore_errors=True)
    part = training_part(arm, dataset["train"], kept)
    DatasetDict({**dataset, "train": part}).save_to_disk(str(folder / "dataset"))
    started = time.time()
    train(folder, seed, options)
    shutil.rmtree(folder / "dataset")
    arm_facts = {"settings": settings, "training_part": describe(part), "seconds": round(time.time() - started)}
    (folder / "arm.json.partial").write_text(json.dumps(arm_facts, indent=2))
    (folder / "arm.json.partial").replace(folder / "arm.json")
    sys.stdout.write(f"{folder}: {arm_facts['training_part']}, {arm_facts['seconds']} s\n")


def train(folder: Path, seed: int, options: argparse.Namespace) -> None:
    every = str(max(options.max_steps // 10, 1))
    flags = ["--dataset", str(folder / "dataset"), "--output_dir", str(folder), "--seed", str(seed), "--use_cpu"]
    flags += ["--max_steps", str(options.max_steps), "--eval_steps", every, "--logging_steps", every]
    with open(folder / "train.log", "w") as log:
        command = [sys.executable, *TRAIN, str(options.recipe), *flags]
        finished = subprocess.run(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if finished.returncode:
        raise BadInputError(f"{folder / 'train.log'}: training ended with status {finished.returncode}; see there.")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", type=Path, required=True, help="folder that scripts/prepare_*.py wrote")
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--report", type=Path, help="folder for results.json and README.md; default --output")
    parser.add_argument("--max_steps", type=int, default=1500, help="optimiser steps of every arm")
    parser.add_argument("--full", type=float, default=0.2, help="share of the training cases with both annotations")
    parser.add_argument("--mask_only", type=float, default=0.4, help="share with masks only; the rest has labels only")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the division and of training")
    parser.add_argument("--recipe", type=Path, default=HERE / "recipe.json")
    options = parser.parse_args(arguments)
    if min(options.full, options.mask_only, 1 - options.full - options.mask_only) <= 0:
        parser.error("--full and --mask_only are shares above 0 that leave some rows with labels only")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    disable_progress_bars()
    try:
        prepared = load_prepared(options.dataset)
        rows = prepared.dataset["train"]
        for seed in options.seeds:
            kept = divide(rows["case_id"], options.full, options.mask_only, seed)
            for arm in ARMS:
                run_arm(arm, seed, prepared.dataset, kept, options)
        report = options.report or options.output
        write_report(options, prepared, ARMS, report)
    except BadInputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"written to {report}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
