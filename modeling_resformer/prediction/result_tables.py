"""The tables of a run: which columns there are, and how they become CSV and Parquet."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from ..drawing import label_lines
from ..escaping import safe_cell
from .result_files import write_result


TYPES = {"text": pyarrow.string(), "integer": pyarrow.int64(), "number": pyarrow.float64(), "flag": pyarrow.bool_()}
SIGNIFICANT_DIGITS = 7  # of float32, in which the network computes

# Columns of every class, as {name: type}; the class name follows after an underscore.
IMAGE_CLASS_COLUMNS = {"score": "number", "label": "flag", "threshold": "number"}
SLICE_CLASS_COLUMNS = {
    "area_pixels": "integer",
    "area_share": "number",
    "mean_probability": "number",
    "lesion_count": "integer",
    "longest_diameter_pixels": "number",
    "area_mm2": "number",
    "longest_diameter_mm": "number",
}
VOLUME_CLASS_COLUMNS = {
    "voxels": "integer",
    "volume_mm3": "number",
    "slices_affected": "integer",
    "largest_slice": "integer",
    "largest_area_pixels": "integer",
    "largest_area_mm2": "number",
    "lesion_count": "integer",
}

Row = dict[str, Any]


@dataclass(frozen=True)
class ClassNames:
    """The class names of a checkpoint; a head it lacks has none.

    Attributes:
        mask: names of the foreground mask classes.
        image: names of the image-level classes.
        label_sets: whether answers have a `label_set` of these.
        trust: which of `distance` and `confidence` answers have, and `flags` and `doubt` with them.
    """

    mask: tuple[str, ...]
    image: tuple[str, ...]
    label_sets: bool = False
    trust: tuple[str, ...] = ()


def prediction_columns(classes: ClassNames, members: int = 1, dicom_seg: bool = False) -> dict[str, str]:
    """Columns of `predictions.csv`, one row per image or slice, as `members` models answer it.

    `source` (the input), `case_id`, `slice_index` (from 0), `height`, `width`, `spacing_row_mm`, `spacing_column_mm` (mm per
    pixel, empty where unknown); per image-level class `score_NAME` (sigmoid; softmax where classes exclude each other),
    `label_NAME` (whether the score reaches the threshold, or is the highest), `threshold_NAME` (empty there), and
    `in_label_set_NAME` where the checkpoint has label sets; `distance`, `confidence`, `flags` (codes with
    spaces between) and `doubt` (a sentence) where it tells how far to trust it; per foreground mask class `area_pixels_NAME`, `area_share_NAME` (0..1), `mean_probability_NAME` (softmax over its pixels, empty without
    any), `lesion_count_NAME` (8-connected), `longest_diameter_pixels_NAME`, `area_mm2_NAME`, `longest_diameter_mm_NAME` (both
    empty where the spacing is unknown); `mask`, `overlay` (files relative to the output folder), and `dicom_seg` where asked
    for; of an ensemble `models`, how many answers were averaged.
    """
    return {
        **{"source": "text", "case_id": "text", "slice_index": "integer", "height": "integer", "width": "integer"},
        **{"spacing_row_mm": "number", "spacing_column_mm": "number"},
        **per_class(IMAGE_CLASS_COLUMNS, classes.image),
        **(per_class({"in_label_set": "flag"}, classes.image) if classes.label_sets else {}),
        **trust_columns(classes),
        **per_class(SLICE_CLASS_COLUMNS, classes.mask),
        **({"mask": "text", "overlay": "text"} if classes.mask else {}),
        **({"dicom_seg": "text"} if dicom_seg else {}),
        **({"models": "integer"} if members > 1 else {}),
    }


def volume_columns(classes: ClassNames, members: int = 1, dicom_seg: bool = False) -> dict[str, str]:
    """Columns of `volumes.csv`, one row per volume, as `members` models answer it.

    `source`, `case_id`, `slices`, `height`, `width`, `spacing_slice_mm`, `spacing_row_mm`, `spacing_column_mm` (empty where
    unknown; a slice counts as thick as the distance to the next); per image-level class `highest_score_NAME`,
    `slices_labelled_NAME`; per foreground mask class `voxels_NAME`, `volume_mm3_NAME`, `slices_affected_NAME`,
    `largest_slice_NAME` (index from 0 of the slice with the largest area), `largest_area_pixels_NAME`,
    `largest_area_mm2_NAME`, `lesion_count_NAME` (26-connected); `mask`, `en_face`, `sheet` (files relative to the output folder),
    and `dicom_seg` where asked for; of an ensemble `models`.
    """
    return {
        **{"source": "text", "case_id": "text", "slices": "integer", "height": "integer", "width": "integer"},
        **{"spacing_slice_mm": "number", "spacing_row_mm": "number", "spacing_column_mm": "number"},
        **per_class({"highest_score": "number", "slices_labelled": "integer"}, classes.image),
        **per_class(VOLUME_CLASS_COLUMNS, classes.mask),
        **({"mask": "text", "en_face": "text", "sheet": "text"} if classes.mask else {}),
        **({"dicom_seg": "text"} if dicom_seg else {}),
        **({"models": "integer"} if members > 1 else {}),
    }


def trust_columns(classes: ClassNames) -> dict[str, str]:
    if not classes.trust:
        return {}
    return {**dict.fromkeys(classes.trust, "number"), "flags": "text", "doubt": "text"}


def per_class(columns: dict[str, str], names: Sequence[str]) -> dict[str, str]:
    return {f"{column}_{name}": kind for name in names for column, kind in columns.items()}


def said_of(row: Row, image_classes: Sequence[str]) -> list[str]:
    """Lines for below an image: the classes that a row of `predictions.csv` labels, with their scores."""
    scores = {name: row[f"score_{name}"] for name in image_classes}
    thresholds = {name: threshold for name in image_classes if (threshold := row[f"threshold_{name}"]) is not None}
    return label_lines(scores, [name for name in image_classes if row[f"label_{name}"]], thresholds)


def rounded(value: Any) -> Any:
    """A float to seven significant digits; anything else as it is."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}") if isinstance(value, float) else value


def printable(value: Any) -> Any:
    """Text in which bytes of a file's name that are not UTF-8 are written out, as `\\udcff`; anything else as it is."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def write_tables(stem: Path, columns: dict[str, str], rows: Iterable[Row]) -> list[Path]:
    """Writes `stem`.csv and `stem`.parquet with exactly `columns`; what a row lacks stays empty.

    In CSV a `'` stands before text that a spreadsheet program would run as a formula.

    Raises:
        OutputError: they cannot be written.
    """
    rows = [{name: printable(row.get(name)) for name in columns} for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: safe_cell(value) for name, value in row.items()} for row in rows)
    schema = pyarrow.schema([(name, TYPES[kind]) for name, kind in columns.items()])
    parquet = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), parquet)
    return [
        write_result(stem.with_suffix(".csv"), text.getvalue().encode()),
        write_result(stem.with_suffix(".parquet"), parquet.getvalue()),
    ]
