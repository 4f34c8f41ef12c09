"""What a run leaves behind: `results.json`, `per_case.csv`, and the same figures as a table on screen.

`results.json`:

    {"split": "test", "images": 14, "cases": 14, "mask_resolution": "as stored in the dataset",
     "interval": {"level": 0.95, "samples": 1000, "resampled": "cases"},
     "losses": {"loss": ..., "segmentation_loss": ..., "classification_loss": ...},
     "model": {"dice": {"value": ..., "low": ..., "high": ..., "n": ...}, "dice_lesion": {...}, ..., "auc": {...}},
     "baselines": {"everything_lesion": {"dice": {...}, ...}, "mean_training_mask": {...}, "otsu_threshold": {...}},
     "thresholds": {"melanoma": 0.5, ...}}

The names are those of `metrics/scores.py`. A value that the data leave undefined is null. A model of one task has that
task's loss and scores only; the baselines are masks, learned from the training part, and need both.
"""

import csv
import io
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets

from ..metrics.baselines import baseline_counts, summarise_training_masks
from ..metrics.counts import Counts
from ..metrics.scores import Bootstrap, Score, dice, jaccard, segmentation_scores
from .compute_metrics import EvaluationMetrics
from .rows import EvaluationRows
from .trainer import ResFormerTrainer


logger = logging.getLogger(__name__)

TABLE_SCORES = (
    "dice",
    "jaccard",
    "dice_present",
    "jaccard_present",
    "dice_volume",
    "false_positive_rate_empty",
    "accuracy",
    "sensitivity",
    "specificity",
    "auc",
    "calibration_error",
)


def evaluate_split(
    trainer: ResFormerTrainer, dataset: datasets.DatasetDict, split: str, folder: Path, bootstrap: Bootstrap
) -> None:
    """Evaluate one part on all processes; the main one leaves `results.json` and `per_case.csv` and logs the table.

    Args:
        trainer: its `compute_metrics` is an `EvaluationMetrics`.
        dataset: the prepared dataset, whose training part the baselines learn from.
        split: the part to evaluate.
        folder: made where it does not exist.
        bootstrap: how intervals are made.
    """
    trainer.evaluate(EvaluationRows(dataset[split]), metric_key_prefix=split)
    if not trainer.is_world_process_zero():
        return
    results = summarise(trainer.compute_metrics, dataset, split, bootstrap)
    folder.mkdir(parents=True, exist_ok=True)
    write_results(results, folder / "results.json")
    write_per_case(trainer.compute_metrics, dataset[split], folder / "per_case.csv")
    logger.info("%d %s images\n%s\nwritten to %s", results["images"], split, format_table(results), folder)


def summarise(
    metrics: EvaluationMetrics, dataset: datasets.DatasetDict, split: str, bootstrap: Bootstrap
) -> dict[str, Any]:
    """The content of `results.json` for the rows that an evaluation of `split` has just seen.

    The baselines learn from the training part and predict the same rows at the same resolution.
    """
    rows, config = metrics.rows, metrics.config
    results = {
        "split": split,
        "images": len(rows.row_index),
        "cases": len(set(rows.case_index.tolist())),
        "mask_resolution": "as stored in the dataset" if rows.has_masks else None,
        "interval": {"level": bootstrap.level, "samples": bootstrap.samples, "resampled": "cases"},
        "losses": metrics.losses(),
        "model": _as_dicts(metrics.scores(bootstrap)),
        "baselines": _baselines(metrics, dataset, split, bootstrap),
    }
    if rows.has_labels:
        results["thresholds"] = dict(zip(config.image_class_names, metrics.thresholds, strict=True))
    return results


def _baselines(
    metrics: EvaluationMetrics, dataset: datasets.DatasetDict, split: str, bootstrap: Bootstrap
) -> dict[str, dict[str, Any]]:
    """Mask scores by baseline; none for a model without masks or a dataset without a training part."""
    rows, names = metrics.rows, metrics.config.mask_class_names
    if not rows.has_masks or "train" not in dataset:
        return {}
    ignore_index = metrics.config.semantic_loss_ignore_index
    masks = (row["mask"] for row in dataset["train"].select_columns("mask") if row["mask"] is not None)
    training = summarise_training_masks(masks, len(names), ignore_index)
    pairs = dataset[split].select(rows.row_index).select_columns(["image", "mask"])
    return {
        name: _as_dicts(segmentation_scores(counts, rows.case_index, names, bootstrap=bootstrap))
        for name, counts in baseline_counts(pairs, training, ignore_index).items()
    }


def write_results(results: Mapping[str, Any], path: Path) -> None:
    """Write `results.json`."""
    replace_text(path, json.dumps(results, indent=2, allow_nan=False) + "\n")


def write_per_case(metrics: EvaluationMetrics, rows: datasets.Dataset, path: Path) -> None:
    """Write a CSV line for every image, keyed by `case_id` and `slice_index`: counts, scores, probabilities, labels.

    Whatever the tables report can be computed from these lines again. An empty field is unknown or undefined. A model
    of one task has that task's columns only.

    Args:
        metrics: after the evaluation.
        rows: the split that was evaluated.
        path: of the CSV file.
    """
    seen, config = metrics.rows, metrics.config
    keys = rows.select(seen.row_index).select_columns(["case_id", "slice_index"])
    columns: list[Iterable[Mapping[str, Any]]] = [keys]
    if seen.has_masks:
        columns.append(_mask_fields(seen.counts.take([i]), config.mask_class_names) for i in range(len(keys)))
    if seen.has_labels:
        labels = zip(seen.probabilities, seen.class_labels, strict=True)
        columns.append(_label_fields(*pair, config.image_class_names) for pair in labels)
    lines = [{name: part[name] for part in parts for name in part} for parts in zip(*columns, strict=True)]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(lines[0]))
    writer.writeheader()
    writer.writerows(lines)
    replace_text(path, text.getvalue())


def format_table(results: Mapping[str, Any]) -> str:
    """The main scores of the model, those the data define, with n and interval, beside the baselines."""
    model, baselines = results["model"], results["baselines"]
    lines = [["score", "n", "model", f"{results['interval']['level']:.0%} interval", *baselines]]
    for name in TABLE_SCORES:
        if name not in model or not model[name]["n"]:
            continue
        value, low, high, n = (model[name][key] for key in ("value", "low", "high", "n"))
        others = [_figure(scores[name]["value"]) if name in scores else "" for scores in baselines.values()]
        interval = "-" if low is None else f"{low:.3f} to {high:.3f}"
        lines.append([name, str(n), _figure(value), interval, *others])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def replace_text(path: Path, text: str) -> None:
    """Write beside and rename, so that a reader never meets half a file."""
    beside = path.with_name(path.name + ".partial")
    beside.write_text(text, encoding="utf-8", newline="")
    beside.replace(path)


def _as_dicts(scores: Mapping[str, Score]) -> dict[str, dict[str, float | int | None]]:
    return {name: {key: _none_if_nan(value) for key, value in asdict(score).items()} for name, score in scores.items()}


def _mask_fields(counts: Counts, class_names: Sequence[str]) -> dict[str, float | int | None]:
    """Counts and scores of one image, (1, S), by column name."""
    fields: dict[str, float | int | None] = {}
    dices, jaccards = dice(counts), jaccard(counts)
    for c, name in enumerate(class_names):
        fields |= {f"{part}_{name}": int(values[0, c]) for part, values in counts._asdict().items()}
        fields |= {f"dice_{name}": _none_if_nan(dices[0, c]), f"jaccard_{name}": _none_if_nan(jaccards[0, c])}
    return fields


def _label_fields(
    probabilities: Iterable[float], labels: Iterable[float], class_names: Sequence[str]
) -> dict[str, float | int | None]:
    """Probabilities and labels of one image, K each, by column name."""
    fields: dict[str, float | int | None] = {}
    for probability, label, name in zip(probabilities, labels, class_names, strict=True):
        fields |= {f"probability_{name}": float(probability), f"label_{name}": int(label) if label >= 0 else None}
    return fields


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
