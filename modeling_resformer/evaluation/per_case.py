"""`per_case.csv`, or `per_case.parquet`: a line for every image, from which whatever the tables report can be recomputed.

Columns, those of the model's task only:

- `case_id`, `slice_index`, and the column that results are grouped by, e.g. `vendor`;
- for every mask class `tp_`, `fp_`, `fn_`, `tn_` (pixels), `dice_`, `jaccard_`, and, where the size of a pixel is known
  in mm3, `volume_true_` and `volume_predicted_` (mm3 of this slice);
- for every image-level class `probability_` and `label_` (1 present, 0 absent).

An empty field is unknown or undefined.
"""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ..errors import BadInputError
from ..escaping import safe_cell, stored_cell
from ..files import whole_file
from ..metrics.counts import Counts
from ..metrics.scores import dice, jaccard
from .answers import Classes, ScoredRows
from .evaluation import Evaluation


FORMATS = ("csv", "parquet")

Fields = dict[str, float | int | str | None]


def write_per_case(evaluation: Evaluation, folder: Path) -> None:
    """Write `per_case.csv`, or `.parquet`, beside and renamed."""
    lines, suffix = per_case_lines(evaluation), evaluation.scoring.per_case_format
    with whole_file(folder / f"per_case.{suffix}") as partial:
        if suffix == "parquet":
            datasets.Dataset.from_list(lines).to_parquet(str(partial))
            return
        with partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(lines[0]))
            writer.writeheader()
            writer.writerows({name: safe_cell(value) for name, value in line.items()} for line in lines)


def read_per_case(folder: Path, classes: Classes, names: Mapping[str, Sequence[Any]]) -> ScoredRows:
    """The rows that `write_per_case` wrote of an evaluation, exact to the last digit; their cases are not numbered.

    Args:
        folder: with `per_case.csv` or `per_case.parquet`.
        classes: of the model.
        names: `case_id` and `slice_index` of the N rows that were evaluated.

    Raises:
        BadInputError: there is no such file, or it tells of other rows or classes.
    """
    lines = _read_lines(folder)
    told = [(line.get("case_id"), int(line.get("slice_index") or 0)) for line in lines]
    if told != list(zip(names["case_id"], names["slice_index"], strict=True)):
        raise BadInputError(f"{folder}: per_case.* tells of other rows than were tested; evaluate that model again")
    try:
        counts = _read_counts(lines, classes.masks) if f"tp_{classes.masks[0]}" in lines[0] else None
        known = classes.labels and f"probability_{classes.labels[0]}" in lines[0]
        probabilities = _read_columns(lines, "probability", classes.labels, math.nan) if known else None
        labels = _read_columns(lines, "label", classes.labels, -100) if known else None
    except KeyError as error:
        raise BadInputError(f"{folder}: per_case.* has no column {error}; evaluate that model again") from error
    annotated = np.zeros(len(lines), dtype=bool)
    annotated |= False if counts is None else (counts.annotated > 0).any(axis=1)
    annotated |= False if labels is None else (labels >= 0).any(axis=1)
    unnumbered = np.zeros(len(lines), dtype=np.int64)
    return ScoredRows(np.arange(len(lines)), unnumbered, annotated, counts, probabilities, labels)


def _read_lines(folder: Path) -> list[dict[str, Any]]:
    found = next((path for kind in FORMATS if (path := folder / f"per_case.{kind}").is_file()), None)
    if found is None:
        raise BadInputError(f"{folder}: has no per_case.csv or per_case.parquet; evaluate that model again")
    if found.suffix == ".parquet":
        return datasets.Dataset.from_parquet(str(found), keep_in_memory=True).to_list()
    with found.open(encoding="utf-8", newline="") as file:
        return [{name: stored_cell(value or "") for name, value in line.items()} for line in csv.DictReader(file)]


def _read_counts(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Counts:
    parts = (_read_columns(lines, part, names, math.nan) for part in Counts._fields)
    return Counts(*(part.astype(np.int64) for part in parts))


def _read_columns(lines: Sequence[Mapping[str, Any]], what: str, names: Sequence[str], empty: float) -> np.ndarray:
    """(N, len(names)) float64 of the columns `what_NAME`."""
    columns = [[line[f"{what}_{name}"] for line in lines] for name in names]
    return np.array([[empty if value in (None, "") else float(value) for value in column] for column in columns]).T


def per_case_lines(evaluation: Evaluation) -> list[Fields]:
    """One dict of columns for every image."""
    rows, classes, names = evaluation.rows, evaluation.classes, evaluation.names
    parts = [[dict(zip(names, values, strict=True)) for values in zip(*names.values(), strict=True)]]
    if rows.counts is not None:
        parts += _mask_fields(rows.counts, rows.pixel_volumes, classes.masks)
    if rows.probabilities is not None:
        labels = zip(rows.probabilities, rows.class_labels, strict=True)
        parts.append([_label_fields(*pair, classes.labels) for pair in labels])
    return [{name: part[name] for part in of_row for name in part} for of_row in zip(*parts, strict=True)]


def _mask_fields(counts: Counts, volumes: np.ndarray | None, class_names: Sequence[str]) -> list[list[Fields]]:
    """Counts and scores of every image, and where there are (N,) volumes of a pixel, those of the classes besides."""
    dices, jaccards, annotated = dice(counts), jaccard(counts), counts.annotated > 0
    rows = range(len(annotated))
    scored = [_score_fields(Counts(*(part[i] for part in counts)), dices[i], jaccards[i], class_names) for i in rows]
    if volumes is None:
        return [scored]
    true, predicted = counts.tp + counts.fn, counts.tp + counts.fp
    return [scored, [_volume_fields(true[i], predicted[i], annotated[i], volumes[i], class_names) for i in rows]]


def _score_fields(counts: Counts, dices: np.ndarray, jaccards: np.ndarray, class_names: Sequence[str]) -> Fields:
    """Counts and scores of one image, (S,) each, by column name."""
    fields: Fields = {}
    for c, name in enumerate(class_names):
        fields |= {f"{part}_{name}": int(values[c]) for part, values in counts._asdict().items()}
        fields |= {f"dice_{name}": _none_if_nan(dices[c]), f"jaccard_{name}": _none_if_nan(jaccards[c])}
    return fields


def _volume_fields(
    true: np.ndarray, predicted: np.ndarray, annotated: np.ndarray, pixel_volume: float, class_names: Sequence[str]
) -> Fields:
    """mm3 of the foreground classes in one image; None where the pixel's size is unknown or nothing was annotated."""
    fields: Fields = {}
    for c, name in list(enumerate(class_names))[1:]:
        for what, pixels in (("true", true[c]), ("predicted", predicted[c])):
            fields[f"volume_{what}_{name}"] = _none_if_nan(pixels * pixel_volume) if annotated[c] else None
    return fields


def _label_fields(probabilities: Iterable[float], labels: Iterable[float], class_names: Sequence[str]) -> Fields:
    """Probabilities and labels of one image, K each, by column name."""
    fields: Fields = {}
    for probability, label, name in zip(probabilities, labels, class_names, strict=True):
        fields |= {f"probability_{name}": float(probability), f"label_{name}": int(label) if label >= 0 else None}
    return fields


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
