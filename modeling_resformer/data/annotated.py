"""Which pixels and slices somebody annotated: the others are kept for prediction, out of loss and scores."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadInputError, Problems
from .builder import PreparationConfig
from .label_tables import read_table, shortened, spelling_key, whole_number


@dataclass(eq=False)
class AnnotationConfig(PreparationConfig):
    """As `PreparationConfig`, for data of which only a part is annotated.

    Args:
        unannotated_code: value of mask pixels that nobody annotated; they are stored as 255.
        annotated_slices: table (`case_id,slice_index`) of the slices that count as annotated; None takes all.
    """

    unannotated_code: int | None = None
    annotated_slices: str | None = None


def read_annotated_slices(
    path: Path, slices: Iterable[tuple[str, Iterable[int]]], problems: Problems
) -> dict[str, set[int]]:
    """Reads the table `case_id,slice_index`, of which every line must name a slice of the source.

    Args:
        path: CSV or JSON lines.
        slices: (case id, slice indices) of the source; a case may come several times.
        problems: what happens to a line that names none of them.

    Returns:
        Case id, as the source spells it, -> indices, for every case of the source.

    Raises:
        BadInputError: no such file, a missing column, or an index that is no whole number.
    """
    if not path.is_file():
        raise BadInputError(
            f"{path}: no such list of annotated slices; write a CSV with the columns case_id,slice_index"
        )
    there: dict[str, set[int]] = {}
    for case_id, indices in slices:
        there.setdefault(case_id, set()).update(indices)
    spelled = {spelling_key(case_id): case_id for case_id in there}
    listed: dict[str, set[int]] = {case_id: set() for case_id in there}
    for row in read_table(path, required=("case_id", "slice_index")):
        name, index = str(row["case_id"]), whole_number(row["slice_index"])
        shown = shortened(name)
        if index is None:
            value = shortened(repr(row["slice_index"]))
            raise BadInputError(f"{path}: slice_index of {shown} is {value}, expected 0, 1, 2, ...")
        case_id = spelled.get(spelling_key(name))
        if case_id is None or index not in there[case_id]:
            what = f"case {shown}" if case_id is None else f"slice {index} of {shown}"
            problems.report(f"{path}: names {what}, which the source does not hold; correct the list", name)
        else:
            listed[case_id].add(index)
    return listed


def check_unannotated_code(value: int | None, classes: dict[int, str]) -> None:
    """Refuses a value that stands for a class already.

    Raises:
        BadInputError: naming the class.
    """
    if value in classes:
        raise BadInputError(
            f"--unannotated-code {value}: this value means {classes[value]}; give one that stands for no class"
        )
