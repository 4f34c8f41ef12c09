"""What a run leaves behind: `results.json`, `per_case.csv`, and the same figures as a table on screen.

`results.json`:

    {"split": "test", "images": 14, "cases": 14, "unannotated": 0,
     "mask_resolution": "as stored in the dataset" or "native, from the source's own masks" or null,
     "interval": {"level": 0.95, "samples": 1000, "resampled": "cases"},
     "losses": {"loss": ..., "segmentation_loss": ..., "classification_loss": ...},
     "model": {"dice": {"value": ..., "low": ..., "high": ..., "n": ...}, "dice_lesion": {...}, ..., "auc": {...}},
     "baselines": {"everything_lesion": {"dice": {...}, ...}, "mean_training_mask": {...}, "otsu_threshold": {...}},
     "left_out_of_means": ["PED"],
     "group_by": "vendor" or null,
     "groups": {"Cirrus": {"images": ..., "cases": ..., "unannotated": ..., "model": {...}, "baselines": {...},
                           "left_out_of_means": []}, ...},
     "absent_classes": ["PED"],
     "warnings": ["..."],
     "thresholds": {"melanoma": 0.5, ...},
     "auc_classes": ["melanoma", "seborrheic_keratosis"],
     "decisions": {"melanoma": {"tp": ..., "fp": ..., "fn": ..., "tn": ...}, ...},
     "reliability": {"melanoma": [{"low": 0.0, "high": 0.1, "n": ..., "mean_probability": ..., "share_present": ...},
                                  ... ten bins], ...}}

- The names of scores and what they mean stand in `metrics/scores.py`; `n` is what a score was computed from. A value that
  the data leave undefined is null, and so are the ends of an interval that fewer than five cases would carry, or that would
  have no width since all samples drawn agree.
  `volume_difference` is there where rows tell the size of a voxel.
- `images` and `cases` are those with any annotation that the model's heads are scored on, of the whole or of a group;
  `unannotated` is the number of the split's images besides, which no figure counts, `volume_difference` neither.
- `groups` holds the same scores for the rows of each value of the column `group_by`, `unknown` for rows without one;
  it is `{}` where there is no such column.
- `left_out_of_means` are the foreground classes that no scored mask holds: no mean of Dice or Jaccard over classes counts them,
  of the model or of a baseline, of the whole or of a group; their own figures stay, and `volume_difference` and
  `false_positive_rate_empty` count what is predicted of them.
- `absent_classes` never occur in this split, so that scores which need them are null.
- `warnings` say in sentences what weighs on all figures: fewer than ten cases, in all or in a group.
- A model of one task has that task's loss and scores only: without image-level classes there are no `thresholds`,
  `auc_classes`, `decisions` (rows by class at the thresholds) and `reliability`.
- The baselines are masks, learned from the training split, and need both.
"""

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ..data.rows import EvaluationRows
from ..errors import BadInputError
from ..files import write_whole
from ..metrics.baselines import baseline_counts, summarise_training_masks
from ..metrics.calibration import reliability
from ..metrics.counts import Counts, label_counts
from ..metrics.scores import Bootstrap, Score, figure, occurring, segmentation_scores
from ..training.trainer import ResFormerTrainer
from .evaluation_metrics import EvaluationMetrics
from .per_case import per_case_lines, write_per_case
from .raw_masks import RawMaskRows
from .row_statistics import RowStatistics


logger = logging.getLogger(__name__)

TABLE_SCORES = (
    "dice",
    "jaccard",
    "dice_present",
    "jaccard_present",
    "dice_volume",
    "volume_difference",
    "false_positive_rate_empty",
    "accuracy",
    "sensitivity",
    "specificity",
    "auc",
    "calibration_error",
)
DEFAULT_GROUP = "vendor"
FEW_CASES = 10  # below which no figure is more than an impression
NAMED_GROUPS = 5


@dataclass(frozen=True)
class Scoring:
    """How a split is scored and what is written of it.

    Attributes:
        bootstrap: how intervals are made.
        group_by: column whose values get scores of their own; None takes `vendor` where the dataset has it.
        per_case_format: `csv` or `parquet`.
    """

    bootstrap: Bootstrap
    group_by: str | None = None
    per_case_format: str = "csv"

    def column(self, rows: datasets.Dataset) -> str | None:
        """The column to group by.

        Raises:
            BadInputError: the dataset has no such column, or it holds lists or images.
        """
        columns = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Value)]
        if self.group_by is None:
            return DEFAULT_GROUP if DEFAULT_GROUP in columns else None
        if self.group_by not in columns:
            raise BadInputError(f"--group_by {self.group_by}: no such column; expected one of {columns}.")
        return self.group_by


def evaluate_split(
    trainer: ResFormerTrainer,
    dataset: datasets.DatasetDict,
    split: str,
    folder: Path,
    scoring: Scoring,
    rows: EvaluationRows | None = None,
) -> dict[str, Any] | None:
    """Evaluate one split on all processes; the main one leaves `results.json` and `per_case.csv` and logs the table.

    Args:
        trainer: its `compute_metrics` is an `EvaluationMetrics`.
        dataset: the prepared dataset, whose training split the baselines learn from.
        split: the split to evaluate.
        folder: made where it does not exist.
        scoring: how.
        rows: of that split; `RawMaskRows` to score at the source's own size.

    Returns:
        The content of `results.json`; None on the other processes.
    """
    rows = EvaluationRows(dataset[split]) if rows is None else rows
    trainer.evaluate(rows, metric_key_prefix=split)
    if not trainer.is_world_process_zero():
        return None
    results = summarise(trainer.compute_metrics, dataset, split, rows, scoring)
    lines = per_case_lines(
        trainer.compute_metrics, rows.rows, scoring.column(rows.rows), pixel_volumes(rows, trainer.compute_metrics)
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_results(results, folder / "results.json")
    write_per_case(lines, folder / f"per_case.{scoring.per_case_format}")
    if results["absent_classes"]:
        absent = ", ".join(results["absent_classes"])
        logger.warning("%s never occur in the %s split: scores that need them are left out.", absent, split)
    for warning in results["warnings"]:
        logger.warning("%s", warning)
    scored = f"{results['images']} {split} images{besides(results)}"
    logger.info("%s\n%s\nwritten to %s", scored, format_table(results), folder)
    return results


def summarise(
    metrics: EvaluationMetrics, dataset: datasets.DatasetDict, split: str, rows: EvaluationRows, scoring: Scoring
) -> dict[str, Any]:
    """The content of `results.json` for the rows that an evaluation has just seen.

    The baselines learn from the training split and predict the same rows at the same resolution.
    """
    seen = metrics.rows
    baselines = _baselines(metrics, dataset, rows)
    volumes = pixel_volumes(rows, metrics)
    everything = np.ones(len(seen.row_index), dtype=bool)
    groups = {
        name: {
            **_numbers(seen, chosen),
            **_scores(metrics, baselines, volumes, chosen, scoring.bootstrap),
        }
        for name, chosen in _groups(rows.rows, seen.row_index, scoring)
    }
    numbers = _numbers(seen, everything)
    return {
        "split": split,
        **numbers,
        "mask_resolution": _mask_resolution(rows) if seen.has_masks else None,
        "interval": {"level": scoring.bootstrap.level, "samples": scoring.bootstrap.samples, "resampled": "cases"},
        "losses": metrics.losses(),
        **_scores(metrics, baselines, volumes, everything, scoring.bootstrap),
        "group_by": scoring.column(rows.rows),
        "groups": groups,
        "absent_classes": _absent_classes(metrics),
        "warnings": list(_warnings(numbers["cases"], groups)),
        **(_decisions(metrics) if seen.has_labels else {}),
    }


def pixel_volumes(rows: EvaluationRows, metrics: EvaluationMetrics) -> np.ndarray | None:
    """(N,) mm3 of one pixel of the scored masks of the rows seen, NaN where unknown; None where all are.

    In-plane spacing and distance of the slices both come with the rows; those of images have no third dimension.
    """
    table = rows.rows.select(metrics.rows.row_index)
    if not metrics.rows.has_masks or "slice_spacing" not in table.column_names:
        return None
    missing = (np.nan, np.nan)
    area = np.array([spacing or missing for spacing in table["spacing"]], dtype=np.float64).prod(axis=1)
    if isinstance(rows, RawMaskRows):
        area *= rows.area_ratios(metrics.rows.row_index)
    volumes = area * np.array(table["slice_spacing"], dtype=np.float64)
    return None if np.isnan(volumes).all() else volumes


def besides(part: Mapping[str, Any]) -> str:
    """How many more images the results, or a group of them, left out, to go on after their number; empty where none."""
    more = part.get("unannotated", 0)
    return f" ({more} more {'is' if more == 1 else 'are'} not annotated)" if more else ""


def write_results(results: Mapping[str, Any], path: Path) -> None:
    """Write `results.json`."""
    write_whole(path, json.dumps(results, indent=2, allow_nan=False) + "\n")


def format_table(results: Mapping[str, Any]) -> str:
    """The main scores of the model, those the data define, with n and interval, beside the baselines; then by group."""
    model, baselines = results["model"], results["baselines"]
    lines = [["score", "n", "model", f"{results['interval']['level']:.0%} interval", *baselines]]
    names = [*TABLE_SCORES, *(name for name in model if name.startswith("auc_"))]
    for name in names:
        if name not in model or not model[name]["n"]:
            continue
        value, low, high, n = (model[name][key] for key in ("value", "low", "high", "n"))
        others = [_figure(scores[name]["value"]) if name in scores else "" for scores in baselines.values()]
        interval = "-" if low is None else f"{figure(low)} to {figure(high)}"
        lines.append([name, str(n), _figure(value), interval, *others])
    text = _align(lines)
    if left_out := results.get("left_out_of_means"):
        text += f"\nMeans of Dice and Jaccard leave out what no true mask here holds: {', '.join(left_out)}."
    if groups := results.get("groups"):
        text += "\n\n" + _align(_group_lines(groups, results["group_by"]))
    return text


def _numbers(seen: RowStatistics, chosen: np.ndarray) -> dict[str, int]:
    """Images and cases among the chosen rows that have any annotation, and the images that have none."""
    scored = chosen & seen.annotated
    return {
        "images": int(scored.sum()),
        "cases": len(np.unique(seen.case_index[scored])),
        "unannotated": int(chosen.sum() - scored.sum()),
    }


def _scores(
    metrics: EvaluationMetrics,
    baselines: Mapping[str, Counts],
    volumes: np.ndarray | None,
    chosen: np.ndarray,
    bootstrap: Bootstrap,
) -> dict[str, dict[str, Any]]:
    """Scores of the model and of the baselines for some of the rows."""
    cases, names = metrics.rows.case_index[chosen], metrics.config.mask_class_names
    volumes_chosen = None if volumes is None else volumes[chosen]
    return {
        "model": _as_dicts(metrics.scores(bootstrap, volumes, chosen)),
        "baselines": {
            name: _as_dicts(segmentation_scores(counts.take(chosen), cases, names, volumes_chosen, bootstrap))
            for name, counts in baselines.items()
        },
        "left_out_of_means": _left_out(metrics, chosen),
    }


def _baselines(metrics: EvaluationMetrics, dataset: datasets.DatasetDict, rows: EvaluationRows) -> dict[str, Counts]:
    """Mask counts by baseline; none for a model without masks or a dataset without a training split."""
    if not metrics.rows.has_masks or "train" not in dataset:
        return {}
    ignore_index, num_classes = metrics.config.semantic_loss_ignore_index, len(metrics.config.mask_class_names)
    masks = (row["mask"] for row in dataset["train"].select_columns("mask") if row["mask"] is not None)
    training = summarise_training_masks(masks, num_classes, ignore_index)
    return baseline_counts((rows[int(i)] for i in metrics.rows.row_index), training, ignore_index)


def _groups(rows: datasets.Dataset, row_index: np.ndarray, scoring: Scoring) -> Iterator[tuple[str, np.ndarray]]:
    """Value and (N,) rows that have it, by ascending value; nothing without a column to group by."""
    column = scoring.column(rows)
    if column is None:
        return
    values = np.array(["unknown" if value is None else str(value) for value in rows.select(row_index)[column]])
    for value in sorted(set(values.tolist())):
        yield value, values == value


def _decisions(metrics: EvaluationMetrics) -> dict[str, Any]:
    """What results say of image-level classes besides scores."""
    rows, names = metrics.rows, metrics.config.image_class_names
    counts = label_counts(rows.probabilities >= np.array(metrics.thresholds), rows.class_labels)
    pairs = zip(names, rows.probabilities.T, rows.class_labels.T, strict=True)
    return {
        "thresholds": dict(zip(names, metrics.thresholds, strict=True)),
        "auc_classes": list(metrics.auc_classes),
        "decisions": {
            name: {part: int(values[:, k].sum()) for part, values in counts._asdict().items()}
            for k, name in enumerate(names)
        },
        "reliability": {
            name: [_without_nan(asdict(bin_)) for bin_ in reliability(probabilities, true)]
            for name, probabilities, true in pairs
        },
    }


def _absent_classes(metrics: EvaluationMetrics) -> list[str]:
    """Foreground and image-level classes that no row of the split has."""
    rows, config, absent = metrics.rows, metrics.config, []
    if rows.has_masks:
        pixels = (rows.counts.tp + rows.counts.fn).sum(axis=0)
        absent += [name for name, number in zip(config.mask_class_names[1:], pixels[1:], strict=True) if not number]
    if rows.has_labels:
        present = (rows.class_labels == 1).any(axis=0)
        absent += [name for name, some in zip(config.image_class_names, present, strict=True) if not some]
    return list(dict.fromkeys(absent))


def _left_out(metrics: EvaluationMetrics, chosen: np.ndarray) -> list[str]:
    """Foreground classes that none of the chosen rows' true masks holds."""
    if not metrics.rows.has_masks:
        return []
    found = occurring(metrics.rows.counts.take(chosen))[1:]
    return [name for name, some in zip(metrics.config.mask_class_names[1:], found, strict=True) if not some]


def _warnings(cases: int, groups: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What to say of too few cases, in all or in a group."""
    if cases < FEW_CASES:
        counted = "1 case was" if cases == 1 else f"{cases} cases were"
        yield f"Only {counted} scored: with fewer than {FEW_CASES}, no figure is more than an impression."
        return
    few = [f"{name} ({group['cases']})" for name, group in groups.items() if group["cases"] < FEW_CASES]
    if few:
        more = f" and {len(few) - NAMED_GROUPS} more" if len(few) > NAMED_GROUPS else ""
        yield (
            f"Fewer than {FEW_CASES} cases were scored of {', '.join(few[:NAMED_GROUPS])}{more}: "
            "no figure of such a group is more than an impression."
        )


def _mask_resolution(rows: EvaluationRows) -> str:
    return "native, from the source's own masks" if isinstance(rows, RawMaskRows) else "as stored in the dataset"


def _group_lines(groups: Mapping[str, Mapping[str, Any]], group_by: str) -> list[list[str]]:
    """One line a group, one column a score that any of them defines."""
    names = [name for name in TABLE_SCORES if any(group["model"].get(name, {}).get("n") for group in groups.values())]
    some_left_out = any(group.get("left_out_of_means") for group in groups.values())
    some_unannotated = any(group.get("unannotated") for group in groups.values())
    besides_them = ["not annotated"] if some_unannotated else []
    lines = [[group_by, "images", "cases", *besides_them, *names, *(["left out of means"] if some_left_out else [])]]
    for value, group in groups.items():
        figures = [_figure(group["model"].get(name, {}).get("value")) for name in names]
        left_out = [", ".join(group["left_out_of_means"]) or "-"] if some_left_out else []
        numbers = [str(group[key]) for key in ("images", "cases", *(["unannotated"] if some_unannotated else []))]
        lines.append([value, *numbers, *figures, *left_out])
    return lines


def _align(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _as_dicts(scores: Mapping[str, Score]) -> dict[str, dict[str, float | int | None]]:
    return {name: _without_nan(asdict(score)) for name, score in scores.items()}


def _without_nan(fields: Mapping[str, float | int]) -> dict[str, float | int | None]:
    return {key: None if math.isnan(value) else value for key, value in fields.items()}


def _figure(value: float | None) -> str:
    return "-" if value is None else figure(value)
