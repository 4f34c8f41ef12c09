"""The figures of finished arms as `results.json` and `README.md`: every arm, and paired differences between arms."""

import argparse
import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modeling_resformer.data.prepared import PreparedDataset
from modeling_resformer.metrics.scores import area_under_curve


SAMPLES, LEVEL = 2000, 0.95
README = """\
# Partly labelled images: dropped, or used?

Many collections hold images with a mask but no diagnosis, and images with a diagnosis but no mask. The paper leaves
open how to train on them (arXiv 2412.00351). Here an unlabelled task costs an image exactly nothing, so they can be
used as they are. This compares using them with dropping them.

- `full_rows_only`: the {full:.0%} of the {train} training images that keep both mask and diagnosis;
- `partly_labelled`: those, {mask_only:.0%} with the mask only and {label_only:.0%} with the diagnosis only;
- `all_labels`: all of them with both, the upper reference.

A seed draws which images keep what. {validation} validation images select by lowest validation loss and {test} test
images are held out, all fully labelled. Every arm takes {max_steps} steps of {batch_size} images at {image_size}
pixels, so `full_rows_only` sees each of its few images more often. Class weights are counted anew in what an arm has.
Intervals are {level:.0%}, bootstrapped over images.

{table}

All arms are scored on the same test images, so differences are paired: `partly_labelled` minus the other arm, images
resampled together. An interval that holds 0 shows no difference, and it covers the choice of test images only, neither
that of the training images nor the luck of a run ({seeds}).

{differences}

```bash
{command}
```

On one CPU thread: {times}. Everything that was scored is in `results.json`.
"""


def write_report(options: argparse.Namespace, prepared: PreparedDataset, arms: Sequence[str], folder: Path) -> None:
    """Write both files from `arm.json`, `results.json` and `per_case.csv` of every arm and seed.

    Args:
        options: of `run.py`.
        prepared: the undivided dataset.
        arms: names; the second is compared with the others.
        folder: made where it does not exist.
    """
    names = prepared.mask_classes[1:], prepared.class_labels
    runs = [read_run(options.output / f"seed{seed}" / arm, arm, seed) for seed in options.seeds for arm in arms]
    differences = []
    for seed in options.seeds:
        of_seed = {run["arm"]: options.output / f"seed{seed}" / run["arm"] for run in runs if run["seed"] == seed}
        tables = {arm: read_rows(path / "per_case.csv") for arm, path in of_seed.items()}
        for arm in (arms[0], arms[2]):
            found = paired_differences(tables[arms[1]], tables[arm], *names)
            differences.append({"seed": seed, "minus": arm, **found})
    folder.mkdir(parents=True, exist_ok=True)
    results = {"runs": runs, "differences": differences, "interval": {"level": LEVEL, "samples": SAMPLES}}
    replace(folder / "results.json", json.dumps(results, indent=2, allow_nan=False) + "\n")
    replace(folder / "README.md", as_text(options, prepared, runs, differences))


def read_run(folder: Path, arm: str, seed: int) -> dict:
    facts = json.loads((folder / "arm.json").read_text())
    facts["settings"]["dataset"] = Path(facts["settings"]["dataset"]).name
    results = json.loads((folder / "results.json").read_text())
    return {"arm": arm, "seed": seed, **facts, "losses": results["losses"], "model": results["model"]}


def read_rows(path: Path) -> dict[str, np.ndarray]:
    """The columns of `per_case.csv` by name, rows in the order of case and slice."""
    with open(path, newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: (row["case_id"], int(row["slice_index"])))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def numbers(table: dict[str, np.ndarray], name: str) -> np.ndarray:
    """A column as floats, NaN where the field is empty."""
    return np.array([float(value or "nan") for value in table[name]])


def statistics(
    table: dict[str, np.ndarray], mask_classes: Sequence[str], labels: Sequence[str], weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Dice, Jaccard and AUC of one arm for (R, N) row weights, each (R,)."""
    scores = {}
    for name in ("dice", "jaccard"):
        values = np.stack([numbers(table, f"{name}_{mask_class}") for mask_class in mask_classes])
        known = ~np.isnan(values)
        means = (weights @ np.where(known, values, 0).T) / (weights @ known.T)
        scores[name] = means.mean(axis=1)
    for label in labels:
        probabilities, true = numbers(table, f"probability_{label}"), numbers(table, f"label_{label}")
        scores[f"auc_{label}"] = area_under_curve(probabilities, true, weights)
    areas = np.ma.masked_invalid([scores[f"auc_{label}"] for label in labels])
    scores["auc"] = areas.mean(axis=0).filled(np.nan)
    return scores


def paired_differences(
    one: dict[str, np.ndarray], other: dict[str, np.ndarray], mask_classes: Sequence[str], labels: Sequence[str]
) -> dict[str, dict[str, float]]:
    """One minus the other by score, with an interval: whole cases are drawn, the same for both; None if undefined."""
    cases, case_of = np.unique(one["case_id"], return_inverse=True)
    drawn = np.random.default_rng(0).multinomial(len(cases), np.full(len(cases), 1 / len(cases)), size=SAMPLES)
    weights = np.concatenate([np.ones((1, len(case_of))), drawn[:, case_of]])
    first, second = (statistics(table, mask_classes, labels, weights) for table in (one, other))
    tail = (1 - LEVEL) / 2
    found = {}
    for name in first:
        difference = first[name] - second[name]
        drawn_ones = difference[1:][~np.isnan(difference[1:])]
        ends = np.quantile(drawn_ones, [tail, 1 - tail]).tolist() if len(drawn_ones) else [None, None]
        value = None if np.isnan(difference[0]) else float(difference[0])
        found[name] = {"value": value, "low": ends[0], "high": ends[1]}
    return found


def as_text(
    options: argparse.Namespace, prepared: PreparedDataset, runs: Sequence[dict], differences: Sequence[dict]
) -> str:
    recipe = json.loads(options.recipe.read_text())
    scores = ["dice", "jaccard", "auc", *(f"auc_{label}" for label in prepared.class_labels)]
    arms = [
        [run["arm"], run["seed"], run["training_part"]["masks"], run["training_part"]["labels"]]
        + [figure(run["model"][name]) for name in scores]
        for run in runs
    ]
    pairs = [
        [entry["minus"], entry["seed"], *(figure(entry[name], signed=True) for name in scores)]
        for entry in differences
    ]
    seconds = ", ".join(f"`{run['arm']}` (seed {run['seed']}) {run['seconds'] / 60:.1f} min" for run in runs)
    seeds = " ".join(map(str, options.seeds))
    return README.format(
        **{name: len(prepared.dataset[name]) for name in ("train", "validation", "test")},
        full=options.full,
        mask_only=options.mask_only,
        label_only=1 - options.full - options.mask_only,
        max_steps=options.max_steps,
        batch_size=recipe["per_device_train_batch_size"],
        image_size=recipe["image_size"],
        level=LEVEL,
        table=as_table(["arm", "seed", "masks", "labels", *scores], arms),
        differences=as_table(["partly_labelled minus", "seed", *scores], pairs),
        seeds="one seed" if len(options.seeds) == 1 else f"{len(options.seeds)} seeds",
        command=f"python benchmarks/partly_labelled/run.py --dataset data/{options.dataset.name} "
        f"--output runs/partly_labelled \\\n    --max_steps {options.max_steps} --full {options.full} "
        f"--mask_only {options.mask_only} --seeds {seeds}",
        times=seconds,
    )


def as_table(header: Sequence[str], rows: Sequence[Sequence]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def figure(score: dict[str, float | None], signed: bool = False) -> str:
    """The value with its interval, or a dash where the data leave it undefined."""
    value, low, high = (score[name] for name in ("value", "low", "high"))
    if value is None:
        return "-"
    form = "+.3f" if signed else ".3f"
    return f"{value:{form}}" if low is None else f"{value:{form}} ({low:{form}} to {high:{form}})"


def replace(path: Path, text: str) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
