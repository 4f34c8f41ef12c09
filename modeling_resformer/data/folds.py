"""Folds of a prepared dataset: each case is tested once, near-duplicates lie in one fold, labels in their share.

`folds.csv` says who lies where, for whoever wants to check it or to use the same folds elsewhere:

    case_id,fold,near_duplicates,stratum
    ISIC_0000001,3,,nevus
    ISIC_0000002,0,17,melanoma          with all others of the group 17

`fold_0_of_5.csv` in the folder of each run is what that fold makes of it, a manifest of splits: its own cases are tested, of
the others a part selects, and the rest is learned from. The cases of the split `unlabelled` stay there.
"""

import csv
import io
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..errors import BadInputError
from ..escaping import safe_cell
from .columns import class_names
from .label_tables import read_table, whole_number
from .prepared import PreparedDataset
from .splits import carve, deal


logger = logging.getLogger(__name__)

COLUMNS = ("case_id", "fold", "near_duplicates", "stratum")
VALIDATION_FRACTION = 0.1  # of what is not tested, where the dataset has no validation split to go by
LARGEST_SHARE = 0.5  # of the cases of one fold; a larger group of near-duplicates is hardly one


@dataclass(frozen=True)
class Folds:
    """Who is tested when.

    Attributes:
        number: of folds, numbered from 0.
        seed: of the draws.
        strata: case id -> what folds and validation hold their share of.
        groups: cases that look alike and stay together, each in one group at most.
        fold_of: case id -> the fold that tests it.
        validation_fraction: of the cases that a fold does not test.
        unlabelled: cases that take part in no fold.
    """

    number: int
    seed: int
    strata: Mapping[str, tuple[str, ...]]
    groups: Sequence[Sequence[str]]
    fold_of: Mapping[str, int]
    validation_fraction: float
    unlabelled: Sequence[str]

    @classmethod
    def of(cls, prepared: PreparedDataset, number: int, seed: int, groups: Sequence[Sequence[str]] = ()) -> "Folds":
        """The folds of a dataset, whatever its own splits; the same ones for the same seed and groups.

        Raises:
            BadInputError: there are too few cases.
        """
        strata = case_strata(prepared)
        unlabelled = prepared.dataset["unlabelled"]["case_id"] if "unlabelled" in prepared.dataset else []
        return cls(
            number=number,
            seed=seed,
            strata=strata,
            groups=groups,
            fold_of=deal(strata, number, seed, groups),
            validation_fraction=validation_fraction(prepared),
            unlabelled=sorted(set(unlabelled) - set(strata)),
        )

    @property
    def group_of(self) -> dict[str, int]:
        """Case id -> number of its group, of the cases that have one."""
        return {case_id: number for number, group in enumerate(self.groups) for case_id in group}

    def splits(self, fold: int) -> dict[str, str]:
        """Case id -> split in one fold."""
        rest = {case_id: "train" for case_id, one in self.fold_of.items() if one != fold}
        drawn = len({self.group_of.get(case_id, case_id) for case_id in rest})
        fraction = max(self.validation_fraction, 1 / drawn)  # at least one case, or group, is there to select by
        learned = carve(rest, self.strata, {"validation": fraction}, self.seed, self.groups)
        return dict.fromkeys(self.fold_of, "test") | learned | dict.fromkeys(self.unlabelled, "unlabelled")

    def table(self) -> str:
        """The content of `folds.csv`, ordered by case."""
        group_of = self.group_of
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for case_id, fold in sorted(self.fold_of.items()):
            stratum = " ".join(self.strata[case_id])
            writer.writerow([safe_cell(case_id), fold, group_of.get(case_id, ""), safe_cell(stratum)])
        return text.getvalue()


def case_strata(prepared: PreparedDataset) -> dict[str, tuple[str, ...]]:
    """Case id -> its image-level labels, or its mask classes where the dataset has no labels, its vendor, and what it lacks."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, rows in prepared.dataset.items():
        if name == "unlabelled":
            continue
        labels, masks = (class_names(rows.features, column) for column in ("class_labels", "mask_classes"))
        kept, names = ("class_labels", labels) if labels else ("mask_classes", masks)
        vendors = rows["vendor"] if "vendor" in rows.features else [None] * len(rows)
        columns = (rows["case_id"], rows[kept], rows["mask_classes"], vendors)
        for case_id, present, mask, vendor in zip(*columns, strict=True):
            found[case_id].update(names[index] for index in present or ())
            found[case_id].update(["(no label)"] if present is None and labels else [])
            found[case_id].update(["(no mask)"] if mask is None and len(masks) > 1 else [])
            found[case_id].update([f"vendor:{vendor}"] if vendor is not None else [])
    return {case_id: tuple(sorted(stratum)) for case_id, stratum in found.items()}


def validation_fraction(prepared: PreparedDataset) -> float:
    """The share of cases that the dataset's own splits select by, of those that they do not test."""
    cases = {
        name: len(set(prepared.dataset[name]["case_id"]))
        for name in ("train", "validation")
        if name in prepared.dataset
    }
    return cases["validation"] / sum(cases.values()) if len(cases) == 2 else VALIDATION_FRACTION


def find_groups(prepared: PreparedDataset, number: int) -> list[list[str]]:
    """The groups of cases that look alike, of all splits but `unlabelled`. Every image is read once.

    Args:
        prepared: the dataset.
        number: of folds, by which a group may be too large.

    Raises:
        BadInputError: ImageHash is not installed, or a group would fill most of a fold.
    """
    if find_spec("imagehash") is None:
        raise BadInputError(
            'near-duplicates are found by ImageHash, which is not installed; pip install "modeling-resformer[data]", or '
            "say --no-leakage-check"
        )
    from .leakage import compare, linked_cases

    splits = {name: rows for name, rows in prepared.dataset.items() if name != "unlabelled"}
    groups = linked_cases(compare(splits))
    cases = len({case_id for rows in splits.values() for case_id in rows["case_id"]})
    largest = max(map(len, groups), default=0)
    if largest > max(2, LARGEST_SHARE * cases / number):
        raise BadInputError(
            f"{largest} of {cases} cases hang together as near-duplicates, too many for one of {number} folds; where "
            "all images look alike the check finds what is none: say --no-leakage-check"
        )
    logger.info("near-duplicates: %d groups of %d cases, each kept in one fold", len(groups), sum(map(len, groups)))
    return groups


def read_groups(table: Path) -> list[list[str]]:
    """The groups of near-duplicates that a `folds.csv` names, in the order of their numbers.

    Raises:
        BadInputError: it is no such table.
    """
    groups: dict[int, list[str]] = defaultdict(list)
    for row in read_table(table, required=COLUMNS):
        if row["near_duplicates"]:
            number = whole_number(row["near_duplicates"])
            if number is None:
                raise BadInputError(
                    f"{table}: near_duplicates holds what is no number; run scripts/train_folds.py again"
                )
            groups[number].append(str(row["case_id"]))
    return [groups[number] for number in sorted(groups)]
