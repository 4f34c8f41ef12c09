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
from collections.abc import Iterable, Sequence
from pathlib import Path

import datasets
import numpy as np

from ..files import whole_file
from ..metrics.counts import Counts
from ..metrics.scores import dice, jaccard
from .evaluation_metrics import EvaluationMetrics


FORMATS = ("csv", "parquet")

Fields = dict[str, float | int | str | None]


def per_case_lines(
    metrics: EvaluationMetrics,
    rows: datasets.Dataset,
    group_by: str | None = None,
    pixel_volume: np.ndarray | None = None,
) -> list[Fields]:
    """One dict of columns for every image.

    Args:
        metrics: after the evaluation.
        rows: the split that was evaluated.
        group_by: a column of it to carry along.
        pixel_volume: (N,) mm3 of one pixel of the scored masks, NaN where unknown.
    """
    seen, config = metrics.rows, metrics.config
    columns = ["case_id", "slice_index", *([group_by] if group_by else [])]
    parts: list[Iterable[Fields]] = [rows.select(seen.row_index).select_columns(columns)]
    if seen.has_masks:
        volumes = np.full(len(seen.row_index), np.nan) if pixel_volume is None else pixel_volume
        counts = (seen.counts.take([i]) for i in range(len(volumes)))
        parts.append(_mask_fields(c, config.mask_class_names) for c in counts)
        if pixel_volume is not None:
            counts = (seen.counts.take([i]) for i in range(len(volumes)))
            pairs = zip(counts, volumes, strict=True)
            parts.append(_volume_fields(c, float(volume), config.mask_class_names) for c, volume in pairs)
    if seen.has_labels:
        labels = zip(seen.probabilities, seen.class_labels, strict=True)
        parts.append(_label_fields(*pair, config.image_class_names) for pair in labels)
    return [{name: part[name] for part in of_row for name in part} for of_row in zip(*parts, strict=True)]


def write_per_case(lines: Sequence[Fields], path: Path) -> None:
    """Write the lines as the suffix of `path` says, beside and renamed."""
    with whole_file(path) as partial:
        if path.suffix == ".parquet":
            datasets.Dataset.from_list(list(lines)).to_parquet(str(partial))
            return
        with partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)


def _mask_fields(counts: Counts, class_names: Sequence[str]) -> Fields:
    """Counts and scores of one image, (1, S), by column name."""
    fields: Fields = {}
    dices, jaccards = dice(counts), jaccard(counts)
    for c, name in enumerate(class_names):
        fields |= {f"{part}_{name}": int(values[0, c]) for part, values in counts._asdict().items()}
        fields |= {f"dice_{name}": _none_if_nan(dices[0, c]), f"jaccard_{name}": _none_if_nan(jaccards[0, c])}
    return fields


def _volume_fields(counts: Counts, pixel_volume: float, class_names: Sequence[str]) -> Fields:
    """mm3 of the foreground classes in one image; None where the pixel's size is unknown or nothing was annotated."""
    fields: Fields = {}
    for c, name in list(enumerate(class_names))[1:]:
        known = counts.annotated[0, c] > 0
        true, predicted = counts.tp[0, c] + counts.fn[0, c], counts.tp[0, c] + counts.fp[0, c]
        for what, pixels in (("true", true), ("predicted", predicted)):
            fields[f"volume_{what}_{name}"] = _none_if_nan(pixels * pixel_volume) if known else None
    return fields


def _label_fields(probabilities: Iterable[float], labels: Iterable[float], class_names: Sequence[str]) -> Fields:
    """Probabilities and labels of one image, K each, by column name."""
    fields: Fields = {}
    for probability, label, name in zip(probabilities, labels, class_names, strict=True):
        fields |= {f"probability_{name}": float(probability), f"label_{name}": int(label) if label >= 0 else None}
    return fields


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
