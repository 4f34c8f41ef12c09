"""`results.json` of an evaluation, and the same figures as a table on screen:

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
     "subgroups": {"sex": {"groups": {"female": {"images": ..., "cases": ..., "unannotated": ..., "model": {...}}, ...},
                           "largest_gaps": {"dice": {"gap": ..., "highest": "male", "lowest": "female"}, ...}}, ...},
     "absent_classes": ["PED"],
     "warnings": ["..."],
     "trust": {"right": ..., "mean_confidence": ..., "auroc": ..., "errors_refused": {"wrong": ..., "dice": ...},
               "flags": {"unlike_training_images": ..., "low_confidence": ...}},
     "uncalibrated": {"model": {"calibration_error": {...}, "brier": ..., "mask_calibration_error": ...},
                      "reliability": {...}},
     "label_sets": {"level": 0.9, "thresholds": {"melanoma": 0.1, ...},
                    "model": {"coverage": {...}, "coverage_melanoma": {...}, ..., "size": {...}}},
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
- `subgroups` is there where columns were named for it (`--subgroups`); a number is put into one of three equal parts of the rows. The
  largest gap of a score is that between groups of ten cases or more.
- `left_out_of_means` are the foreground classes that no scored mask holds: no mean of Dice or Jaccard over classes counts them,
  of the model or of a baseline, of the whole or of a group; their own figures stay, and `volume_difference` and
  `false_positive_rate_empty` count what is predicted of them.
- `absent_classes` never occur in this split, so that scores which need them are null.
- `warnings` say in sentences what weighs on all figures: fewer than ten cases, in all or in a group.
- `uncalibrated` holds the scores that calibration moves as they would be without that of the model; it is not there where the
  model has none.
- `label_sets` is there where the model has them: `coverage` is the share of the classes present that are in the set of their
  image, `size` the mean number of classes in it (`metrics/label_sets.py`).
- `trust` is there where the model tells its confidence: the share of answers that are right in mask and labels, the mean
  confidence, how well it tells right from wrong, which share of the wrong answers and of the missing Dice goes with the tenth of
  the answers that it trusts least, and the share of images with each flag.
- `thresholds` is `{}` where each image has exactly one class and the highest score decides. There `sensitivity` is the share
  of images that are named rightly, and `balanced_accuracy` is its mean over classes; elsewhere there is none.
- A model of one task has that task's loss and scores only: without image-level classes there are no `thresholds`,
  `auc_classes`, `decisions` (rows by class at the thresholds, or by the highest score) and `reliability`.
- The baselines are masks, learned from the training split, and need both.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..files import write_whole
from ..metrics.calibration import ReliabilityBin
from ..metrics.score_table import SCORES
from ..metrics.scores import Score, figure
from .evaluation import Evaluation, PartScores, Uncalibrated, largest_gaps


logger = logging.getLogger(__name__)


def write_results(evaluation: Evaluation, folder: Path) -> None:
    """Write `results.json`, and log what of it can be read at a glance."""
    results = results_of(evaluation)
    write_whole(folder / "results.json", json.dumps(results, indent=2, allow_nan=False) + "\n")
    split = evaluation.split
    if evaluation.absent_classes:
        absent = ", ".join(evaluation.absent_classes)
        logger.warning("%s never occur in the %s split: scores that need them are left out.", absent, split)
    for warning in evaluation.warnings:
        logger.warning("%s", warning)
    everything = evaluation.everything
    scored = f"{everything.images} {split} images{everything.besides}"
    logger.info("%s\n%s\nwritten to %s", scored, format_table(results), folder)


def results_of(evaluation: Evaluation) -> dict[str, Any]:
    """The content of `results.json`."""
    bootstrap, everything = evaluation.scoring.bootstrap, evaluation.everything
    return {
        "split": evaluation.split,
        **_numbers(everything),
        "mask_resolution": evaluation.images.mask_resolution,
        "interval": {"level": bootstrap.level, "samples": bootstrap.samples, "resampled": "cases"},
        "losses": dict(evaluation.losses),
        **_scores(everything),
        "group_by": evaluation.group_by,
        "groups": {name: _numbers(part) | _scores(part) for name, part in evaluation.groups.items()},
        **({"subgroups": _subgroups(evaluation)} if evaluation.subgroups else {}),
        "absent_classes": list(evaluation.absent_classes),
        "warnings": list(evaluation.warnings),
        **({} if evaluation.uncalibrated is None else {"uncalibrated": _of_uncalibrated(evaluation.uncalibrated)}),
        **({} if evaluation.trust is None else {"trust": evaluation.trust}),
        **(_of_image_classes(evaluation) if evaluation.rows.probabilities is not None else {}),
    }


def _subgroups(evaluation: Evaluation) -> dict[str, Any]:
    return {
        column: {
            "groups": {name: _numbers(part) | {"model": _as_dicts(part.model)} for name, part in groups.items()},
            "largest_gaps": largest_gaps(groups),
        }
        for column, groups in evaluation.subgroups.items()
    }


def format_table(results: Mapping[str, Any]) -> str:
    """The main scores of the model, those the data define, with n and interval, beside the baselines; then by group."""
    model, baselines = results["model"], results["baselines"]
    lines = [["score", "n", "model", f"{results['interval']['level']:.0%} interval", *baselines]]
    names = [*(score.name for score in SCORES), *(name for name in model if name.startswith("auc_"))]
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
    for column, found in results.get("subgroups", {}).items():
        parts = {name: part | {"left_out_of_means": []} for name, part in found["groups"].items()}
        text += "\n\n" + _align(_group_lines(parts, column))
        for score, gap in found["largest_gaps"].items():
            text += f"\nlargest gap by {column}: {score} {gap['gap']:.3f}, {gap['highest']} over {gap['lowest']}"
    if groups := results.get("groups"):
        text += "\n\n" + _align(_group_lines(groups, results["group_by"]))
    return text


def _numbers(part: PartScores) -> dict[str, int]:
    return {"images": part.images, "cases": part.cases, "unannotated": part.unannotated}


def _scores(part: PartScores) -> dict[str, Any]:
    return {
        "model": _as_dicts(part.model),
        "baselines": {name: _as_dicts(scores) for name, scores in part.baselines.items()},
        "left_out_of_means": list(part.left_out_of_means),
    }


def _of_image_classes(evaluation: Evaluation) -> dict[str, Any]:
    """What results say of image-level classes besides scores."""
    classes = evaluation.classes
    sets = {}
    if classes.label_sets is not None:
        thresholds = dict(zip(classes.labels, classes.label_sets, strict=True))
        scores = _as_dicts(evaluation.label_sets)
        sets = {"label_sets": {"level": classes.label_set_level, "thresholds": thresholds, "model": scores}}
    return {
        **sets,
        "thresholds": classes.threshold_by_label,
        "auc_classes": list(classes.auc),
        "decisions": {name: dict(decided) for name, decided in evaluation.decisions.items()},
        "reliability": _reliability_lists(evaluation.reliability),
    }


def _of_uncalibrated(uncalibrated: Uncalibrated) -> dict[str, Any]:
    return {
        "model": _as_dicts(uncalibrated.scores),
        "reliability": _reliability_lists(uncalibrated.reliability),
    }


def _reliability_lists(reliability: Mapping[str, Sequence[ReliabilityBin]]) -> dict[str, list[dict[str, Any]]]:
    return {name: [_without_nan(asdict(one)) for one in bins] for name, bins in reliability.items()}


def _group_lines(groups: Mapping[str, Mapping[str, Any]], group_by: str) -> list[list[str]]:
    """One line a group, one column a score that any of them defines."""
    defined = {name for group in groups.values() for name, score in group["model"].items() if score["n"]}
    names = [score.name for score in SCORES if score.name in defined]
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
