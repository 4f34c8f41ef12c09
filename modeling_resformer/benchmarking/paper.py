"""The figures that the paper (arXiv 2412.00351) prints, and which of them contradict each other.

They stand in `scripts/grids/paper_results.csv`: table, row, group (vendor or dataset), metric, value. Tables are named by their
number, claims of the text about a table by that number with ` (text)`; a row `A over B` of the text is a difference. Shares are
percentages. What the paper calls DSC and JI is computed where the class occurs in the truth, `dice_present` and `jaccard_present`
here; Acc, Sen and Spe are micro-averages.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from ..errors import BadInputError
from ..shipped import shipped


FILE = "scripts/grids/paper_results.csv"
PRINTED = {
    "DSC": "dice_present",
    "JI": "jaccard_present",
    "Acc": "accuracy",
    "Sen": "sensitivity",
    "Spe": "specificity",
}
TEXT, GAIN, OVER, BEST_OTHER = " (text)", " gain", " over ", "the best other"
OURS = "Ours, "
ISIC2017 = "ISIC 2017"  # the group whose images have exactly one of three classes
ROUNDING = 0.05  # of a figure with one decimal


class Place(NamedTuple):
    """Where a figure stands."""

    table: str
    row: str
    group: str
    metric: str


@dataclass(frozen=True)
class Slip:
    """A row whose figures cannot all be right, and why."""

    table: str
    row: str
    group: str
    reason: str


@cache
def paper_figures() -> Mapping[Place, float]:
    """Every printed figure by its place, in the order of the file.

    Raises:
        BadInputError: the file is missing or damaged.
    """
    path = shipped(FILE)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {
                Place(*(line[name] for name in Place._fields)): float(line["value"]) for line in csv.DictReader(file)
            }
    except (OSError, KeyError, ValueError) as error:
        raise BadInputError(f"{path}: cannot be read ({error}); take the file of the repository again") from error


def rows_of(table: str, group: str | None = None) -> dict[str, dict[str, float]]:
    """The figures of a table by row and then by the score's name here; of one group where it is given."""
    found: dict[str, dict[str, float]] = {}
    for place, value in paper_figures().items():
        if place.table == table and group in (None, place.group):
            found.setdefault(place.row, {})[PRINTED[place.metric]] = value
    return found


def slips(figures: Mapping[Place, float] | None = None) -> list[Slip]:
    """The rows of tables and text that break an identity which any correct code passes, or contradict another place.

    - Accuracy lies between sensitivity and specificity.
    - With exactly one of three classes an image, Acc = (Sen + 2 Spe) / 3, whatever was predicted.
    - Dice = 2 J / (1 + J) of an image, so that of means J <= Dice <= 2 J / (1 + J), the function being concave.
    - What the text says of a table is what the table says.
    """
    figures = paper_figures() if figures is None else figures
    rows: dict[tuple[str, str, str], dict[str, float]] = {}
    for place, value in figures.items():
        rows.setdefault(place[:3], {})[place.metric] = value
    found = []
    for (table, row, group), values in rows.items():
        reasons = (
            _claim_reasons(table, row, group, values, figures) if table.endswith(TEXT) else _row_reasons(group, values)
        )
        found += [Slip(table, row, group, reason) for reason in reasons]
    return found


def _row_reasons(group: str, values: Mapping[str, float]) -> Iterator[str]:
    if {"Acc", "Sen", "Spe"} <= values.keys():
        accuracy, sensitivity, specificity = (values[name] for name in ("Acc", "Sen", "Spe"))
        low, high = sorted((sensitivity, specificity))
        if not low - 2 * ROUNDING <= accuracy <= high + 2 * ROUNDING:
            yield f"accuracy {accuracy} lies outside {low} to {high}"
        implied = (sensitivity + 2 * specificity) / 3
        if group == ISIC2017 and abs(accuracy - implied) > 2 * ROUNDING + 1e-9:
            yield f"accuracy {accuracy}, and sensitivity and specificity make {implied:.2f}"
    if {"DSC", "JI"} <= values.keys():
        low, most = values["JI"], 200 * values["JI"] / (100 + values["JI"])
        if not low - 2 * ROUNDING <= values["DSC"] <= most + 2 * ROUNDING:
            yield f"a mean Dice of {values['DSC']} needs a mean Jaccard other than {low}"


def _claim_reasons(
    table: str, row: str, group: str, values: Mapping[str, float], figures: Mapping[Place, float]
) -> Iterator[str]:
    number = table.removesuffix(TEXT)
    for metric, stated in values.items():
        name = metric.removesuffix(GAIN)
        column = {
            place.row: value
            for place, value in figures.items()
            if place[::2] == (number, group) and place.metric == name
        }
        there = _difference(row.split(OVER), column)
        if abs(stated - there) > 1e-9:
            yield f"the text says {name} {stated}, the table {there:.1f}"


def _difference(names: Sequence[str], column: Mapping[str, float]) -> float:
    """The figure of one row of a table's column, or of the first less that of the second."""
    if len(names) == 1:
        return column[names[0]]
    others = [value for row, value in column.items() if not row.startswith(OURS)]
    return round(column[names[0]] - (max(others) if names[1] == BEST_OTHER else column[names[1]]), 6)
