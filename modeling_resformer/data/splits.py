"""Splits by case (volume, patient or image), never by slice: seeded, stratified, written as a manifest."""

import csv
import hashlib
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import BadInputError, Problems
from ..escaping import safe_cell
from .label_tables import by_spelling, read_table, shortened, spelling_key


SPLIT_NAMES = ("train", "validation", "test", "unlabelled")


def totals(splits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the splits of a `run.json` hold together: rows, cases, and images by class; the unlabelled one stays out."""
    summed: dict[str, Any] = {}
    for name, split in splits.items():
        if name == "unlabelled":
            continue
        for key, count in split.items():
            if isinstance(count, Mapping):
                known = summed.setdefault(key, {})
                summed[key] = {one: known.get(one, 0) + number for one, number in count.items()}
            else:
                summed[key] = summed.get(key, 0) + count
    return summed


def shuffled(case_ids: Iterable[str], seed: int) -> list[str]:
    """Returns the ids in an order that depends on the seed and each id alone: the same on every machine."""
    return sorted(case_ids, key=lambda case_id: hashlib.sha256(f"{seed}:{case_id}".encode()).digest())


def stratified_choice(strata: Mapping[str, Hashable], fraction: float, seed: int) -> set[str]:
    """Draws `round(fraction * n)` cases so that every stratum gives its share, to within one case.

    Args:
        strata: case id -> stratum (any value whose `repr` is stable, e.g. a tuple of labels).
        fraction: share of the cases to draw, 0 <= fraction < 1.
        seed: another seed draws other cases.
    """
    if not 0 <= fraction < 1:
        raise BadInputError(f"the fraction of a split is {fraction}, expected 0 <= fraction < 1")
    order = sorted(shuffled(strata, seed), key=lambda case_id: repr(strata[case_id]))
    total, count = len(order), round(fraction * len(order))
    # Systematic sampling: `count` picks at equal distances along the cases ordered by stratum.
    return {case_id for i, case_id in enumerate(order) if (i + 1) * count // total > i * count // total}


def carve(
    splits: Mapping[str, str],
    strata: Mapping[str, Hashable],
    fractions: Mapping[str, float],
    seed: int,
    groups: Iterable[Iterable[str]] = (),
) -> dict[str, str]:
    """Moves part of the training cases into new splits.

    Args:
        splits: case id -> split.
        strata: case id -> stratum; a tuple of labels where there are groups.
        fractions: new split -> share **of the training cases as they are now**, e.g. `{"validation": 0.1}`; with groups,
            of cases and groups alike.
        seed: of the draw.
        groups: cases that must go into the same split, each case in one group at most. A group is drawn as one, among
            groups of its size whose cases have the same labels together.
    """
    result = dict(splits)
    training = [case_id for case_id, split in splits.items() if split == "train" and any(fractions.values())]
    members = _units(training, groups)
    left = {first: _stratum(cases, strata) for first, cases in members.items()}
    total = len(left)
    for split, fraction in fractions.items():
        if not fraction:
            continue
        if split in splits.values():
            raise BadInputError(f"the source has a {split} split already; leave out the {split} fraction")
        if sum(fractions.values()) >= 1:
            raise BadInputError(f"the split fractions {dict(fractions)} leave no training cases; use smaller ones")
        for case_id in stratified_choice(left, fraction * total / max(len(left), 1), seed):
            result.update(dict.fromkeys(members[case_id], split))
            del left[case_id]
    return result


def deal(
    strata: Mapping[str, Hashable], number: int, seed: int, groups: Iterable[Iterable[str]] = ()
) -> dict[str, int]:
    """Deals cases out to folds like cards: of no stratum does a fold hold over one case, or group, more than another.

    Args:
        strata: case id -> stratum; a tuple of labels where there are groups.
        number: of folds, numbered from 0.
        seed: of the order within a stratum.
        groups: cases that must go into the same fold, as `carve` takes them.

    Raises:
        BadInputError: fewer than two folds, or more than there are cases and groups.
    """
    members = _units(strata, groups)
    if not 2 <= number <= len(members):
        raise BadInputError(
            f"--folds {number}: expected from 2 to {len(members)}, which is how many cases or groups of them there are"
        )
    of_units = {first: _stratum(cases, strata) for first, cases in members.items()}
    order = sorted(shuffled(of_units, seed), key=lambda first: repr(of_units[first]))
    return {case_id: i % number for i, first in enumerate(order) for case_id in members[first]}


def _units(case_ids: Iterable[str], groups: Iterable[Iterable[str]]) -> dict[str, list[str]]:
    """First case of a group -> its cases; a case of no group is a group of its own."""
    first_of = {case_id: min(group) for group in map(list, groups) for case_id in group}
    units: dict[str, list[str]] = {}
    for case_id in case_ids:
        units.setdefault(first_of.get(case_id, case_id), []).append(case_id)
    return units


def _stratum(cases: list[str], strata: Mapping[str, Hashable]) -> Hashable:
    if len(cases) == 1:
        return strata[cases[0]]
    return *sorted({label for case_id in cases for label in strata[case_id]}), len(cases)


def read_manifest(path: Path) -> dict[str, str]:
    """Reads a split manifest: CSV or JSON lines with the columns `case_id` and `split`.

    Raises:
        BadInputError: a missing column, an unknown split name, or a case that comes twice.
    """
    if not path.is_file():
        raise BadInputError(f"{path}: no such split manifest; write a CSV with the columns case_id,split")
    rows = read_table(path, required=("case_id", "split"))
    for row in rows:
        if row["split"] not in SPLIT_NAMES:
            raise BadInputError(
                f"{path}: split {shortened(repr(row['split']))} of {shortened(str(row['case_id']))}, expected "
                f"{', '.join(SPLIT_NAMES)}"
            )
    return dict(by_spelling(((str(row["case_id"]), row["split"]) for row in rows), str(path), Problems()).values())


def write_manifest(splits: Mapping[str, str], path: Path) -> None:
    """Writes case id -> split as CSV, ordered by case; `read_manifest` takes it back."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["case_id", "split"])
        writer.writerows([safe_cell(case_id), split] for case_id, split in sorted(splits.items()))


def apply_manifest(
    case_ids: Iterable[str], manifest: Mapping[str, str], path: Path, problems: Problems
) -> dict[str, str]:
    """Returns the manifest's split of each case; both sides must name the same cases, in any case of letters."""
    by_key = {spelling_key(case_id): (case_id, split) for case_id, split in manifest.items()}
    cases = {spelling_key(case_id): case_id for case_id in case_ids}
    for key in sorted(cases.keys() - by_key.keys()):
        problems.report(f"{path}: the manifest has no row for {shortened(cases[key])}; add one", cases[key])
    for key in sorted(by_key.keys() - cases.keys()):
        name = by_key[key][0]
        problems.report(f"{path}: the manifest names {shortened(name)}, which the source does not hold", name)
    return {case_id: by_key[key][1] for key, case_id in cases.items() if key in by_key}
