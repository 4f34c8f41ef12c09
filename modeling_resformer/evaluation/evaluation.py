"""Everything that is known after the evaluation of a split, computed once: what is written of it is written from this alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np

from ..data.rows import EvaluationRows
from ..errors import BadInputError
from ..metrics.calibration import ReliabilityBin, reliability
from ..metrics.counts import Counts, label_counts
from ..metrics.risk_coverage import errors_refused
from ..metrics.score_table import MAIN_SCORES
from ..metrics.scores import Bootstrap, Score, area_under_curve, label_set_scores, occurring, segmentation_scores
from .answers import Answers, Classes, ScoredRows, calibration_scores_of, is_right, row_dice, row_scores
from .row_images import RowImages


DEFAULT_GROUP = "vendor"
FEW_CASES = 10  # below which no figure is more than an impression
NAMED_GROUPS = 5
UNKNOWN = "unknown"  # the group of rows without a value
MOST_VALUES = 10  # of a column of numbers that is not cut into thirds
REFUSED_SHARE = 0.1  # of the answers, the least confident ones


@dataclass(frozen=True)
class Scoring:
    """How a split is scored and what is written of it.

    Attributes:
        bootstrap: how intervals are made.
        group_by: column whose values get scores of their own; None takes `vendor` where the dataset has it.
        per_case_format: `csv` or `parquet`.
        subgroups: columns by whose values there are scores besides.
    """

    bootstrap: Bootstrap
    group_by: str | None = None
    per_case_format: str = "csv"
    subgroups: tuple[str, ...] = ()

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

    def subgroup_columns(self, rows: datasets.Dataset) -> tuple[str, ...]:
        """Those of the subgroups.

        Raises:
            BadInputError: the dataset has no such column, or it holds lists or images.
        """
        columns = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Value)]
        if unknown := [name for name in self.subgroups if name not in columns]:
            raise BadInputError(f"--subgroups {unknown[0]}: no such column; expected some of {columns}.")
        return self.subgroups


@dataclass(frozen=True)
class PartScores:
    """The scores of all rows, or of those of one group.

    Attributes:
        images, cases: that have any annotation.
        unannotated: images that have none.
        model: scores by name.
        baselines: scores by name, by baseline.
        left_out_of_means: the foreground classes that none of the true masks holds.
    """

    images: int
    cases: int
    unannotated: int
    model: Mapping[str, Score]
    baselines: Mapping[str, Mapping[str, Score]]
    left_out_of_means: Sequence[str]

    @property
    def besides(self) -> str:
        """How many more images are not annotated, to go on after the number of those that are; empty where none."""
        more = self.unannotated
        return f" ({more} more {'is' if more == 1 else 'are'} not annotated)" if more else ""


@dataclass(frozen=True)
class Uncalibrated:
    """What would have been without a model's calibration: scores by name, and reliability bins by class."""

    scores: Mapping[str, Score]
    reliability: Mapping[str, Sequence[ReliabilityBin]]


@dataclass(frozen=True)
class Evaluation:
    """One split as a model answered it.

    Attributes:
        split: its name.
        scoring: how it was scored.
        classes: what the model tells apart.
        losses: by name.
        rows: what every row was answered.
        names: of these N rows the columns `case_id`, `slice_index` and that of the groups.
        group_by: the column whose values are the groups; None without.
        images: what the images told; among it those that are drawn.
        everything: scores of all rows.
        groups: scores by value of the column, ascending; `unknown` for rows without one.
        subgroups: scores by value, by column of `Scoring.subgroups`.
        decisions: rows by class and by `tp`, `fp`, `fn`, `tn` at the thresholds, or by the highest score.
        reliability: bins by class.
        uncalibrated: the calibration scores and the reliability without the model's calibration; None where it has none.
        label_sets: scores of `label_set_scores`; empty without thresholds for them.
        trust: what confidence and flags are worth; None where the model tells none.
        absent_classes: that no row of the split has.
        warnings: sentences on what weighs on all figures.
    """

    split: str
    scoring: Scoring
    classes: Classes
    losses: Mapping[str, float]
    rows: ScoredRows
    names: Mapping[str, Sequence[Any]]
    group_by: str | None
    images: RowImages
    everything: PartScores
    groups: Mapping[str, PartScores]
    subgroups: Mapping[str, Mapping[str, PartScores]]
    decisions: Mapping[str, Mapping[str, int]]
    reliability: Mapping[str, Sequence[ReliabilityBin]]
    uncalibrated: "Uncalibrated | None"
    label_sets: Mapping[str, Score]
    trust: Mapping[str, Any] | None
    absent_classes: Sequence[str]
    warnings: Sequence[str]

    @classmethod
    def of(
        cls, split: str, answers: Answers, rows: EvaluationRows, images: RowImages, scoring: Scoring
    ) -> "Evaluation":
        """Score what a model answered on the rows of a split, of which `images` tells the rest."""
        group_by, classes = scoring.column(rows.rows), answers.classes
        table = rows.rows.select(answers.rows.row_index)
        scored = replace(answers.rows, pixel_volumes=_pixel_volumes(table, answers.rows, images.pixel_areas))
        names = {name: list(table[name]) for name in ("case_id", "slice_index", *([group_by] if group_by else []))}
        parts = {
            name: _part_scores(scored.take(chosen), classes, images.baselines, chosen, scoring.bootstrap)
            for name, chosen in _parts(len(table), names.get(group_by, ()))
        }
        everything = parts.pop(None)
        return cls(
            split=split,
            scoring=scoring,
            classes=classes,
            losses=answers.losses,
            rows=scored,
            names=names,
            group_by=group_by,
            images=images,
            everything=everything,
            groups=parts,
            subgroups={
                column: {
                    name: _part_scores(scored.take(chosen), classes, {}, chosen, scoring.bootstrap)
                    for name, chosen in list(_parts(len(table), cut_into_thirds(table[column])))[1:]
                }
                for column in scoring.subgroup_columns(rows.rows)
            },
            decisions=_decisions(scored, classes),
            reliability=_reliability(scored, classes),
            uncalibrated=_uncalibrated(answers, scoring.bootstrap),
            label_sets=_label_sets(scored, classes, scoring.bootstrap),
            trust=_trust(scored, classes),
            absent_classes=_absent_classes(everything.left_out_of_means, scored, classes),
            warnings=list(_warnings(everything.cases, parts)),
        )


def cut_into_thirds(values: Sequence[Any]) -> list[Any]:
    """Numbers of more than `MOST_VALUES` kinds as the thirds that they lie in, by name; anything else as it is."""
    values = [None if isinstance(value, float) and np.isnan(value) else value for value in values]
    known = np.array([value for value in values if isinstance(value, int | float) and not isinstance(value, bool)])
    if len(set(known.tolist())) <= MOST_VALUES:
        return list(values)
    low, high = np.quantile(known, [1 / 3, 2 / 3], method="inverted_cdf").tolist()

    def third(value: float | None) -> str | None:
        if value is None:
            return None
        return f"up to {low:g}" if value <= low else f"over {low:g} to {high:g}" if value <= high else f"over {high:g}"

    return [third(value) for value in values]


def largest_gaps(groups: Mapping[str, PartScores]) -> dict[str, dict[str, Any]]:
    """By main score, the groups between which it differs most, of those that are known and have `FEW_CASES` cases or more."""
    gaps = {}
    for score in MAIN_SCORES:
        found = {
            name: part.model[score].value
            for name, part in groups.items()
            if name != UNKNOWN
            and score in part.model
            and part.cases >= FEW_CASES
            and not np.isnan(part.model[score].value)
        }
        if len(found) > 1:
            highest, lowest = max(found, key=found.get), min(found, key=found.get)
            gaps[score] = {"gap": found[highest] - found[lowest], "highest": highest, "lowest": lowest}
    return gaps


def _pixel_volumes(table: datasets.Dataset, scored: ScoredRows, areas: np.ndarray) -> np.ndarray | None:
    """(N,) mm3 of one pixel of the scored masks, NaN where unknown; None where all are.

    In-plane spacing and distance of the slices both come with the rows; those of images have no third dimension.

    Args:
        table: the rows.
        scored: the same.
        areas: (N,) how many pixels of the stored image, of which the spacing is told, one of the scored mask covers.
    """
    if scored.counts is None or "slice_spacing" not in table.column_names:
        return None
    missing = (np.nan, np.nan)
    area = np.array([spacing or missing for spacing in table["spacing"]], dtype=np.float64).prod(axis=1) * areas
    volumes = area * np.array(table["slice_spacing"], dtype=np.float64)
    return None if np.isnan(volumes).all() else volumes


def _parts(length: int, column: Sequence[Any]) -> Iterator[tuple[str | None, np.ndarray]]:
    """(N,) booleans of the rows of every part: first of all rows, under None, then of each value, ascending."""
    yield None, np.ones(length, dtype=bool)
    values = np.array([UNKNOWN if value is None else str(value) for value in column])
    for value in sorted(set(values.tolist())):
        yield value, values == value


def _part_scores(
    rows: ScoredRows, classes: Classes, baselines: Mapping[str, Counts], chosen: np.ndarray, bootstrap: Bootstrap
) -> PartScores:
    """Scores of the model and of the baselines.

    Args:
        rows: of the part.
        classes: of the model.
        baselines: counts of all rows by name.
        chosen: (N,) booleans, which of all rows are those of the part.
        bootstrap: how intervals are made.
    """
    return PartScores(
        images=int(rows.annotated.sum()),
        cases=len(np.unique(rows.case_index[rows.annotated])),
        unannotated=int((~rows.annotated).sum()),
        model=row_scores(rows, classes, bootstrap),
        baselines={
            name: segmentation_scores(
                counts.take(chosen), rows.case_index, classes.masks, rows.pixel_volumes, bootstrap
            )
            for name, counts in baselines.items()
        },
        left_out_of_means=_left_out(rows, classes),
    )


def _left_out(rows: ScoredRows, classes: Classes) -> list[str]:
    """Foreground classes that none of the rows' true masks holds."""
    if rows.counts is None:
        return []
    return [name for name, some in zip(classes.masks[1:], occurring(rows.counts)[1:], strict=True) if not some]


def _absent_classes(of_masks: Sequence[str], rows: ScoredRows, classes: Classes) -> list[str]:
    """The foreground classes that no row of the split has, and the image-level ones besides."""
    absent = list(of_masks)
    if rows.class_labels is not None:
        present = (rows.class_labels == 1).any(axis=0)
        absent += [name for name, some in zip(classes.labels, present, strict=True) if not some]
    return list(dict.fromkeys(absent))


def _decisions(rows: ScoredRows, classes: Classes) -> dict[str, dict[str, int]]:
    if rows.probabilities is None:
        return {}
    counts = label_counts(classes.decided(rows.probabilities), rows.class_labels)
    return {
        name: {part: int(values[:, k].sum()) for part, values in counts._asdict().items()}
        for k, name in enumerate(classes.labels)
    }


def _reliability(rows: ScoredRows, classes: Classes) -> dict[str, list[ReliabilityBin]]:
    if rows.probabilities is None:
        return {}
    columns = zip(classes.labels, rows.probabilities.T, rows.class_labels.T, strict=True)
    return {name: reliability(probabilities, true) for name, probabilities, true in columns}


def _label_sets(rows: ScoredRows, classes: Classes, bootstrap: Bootstrap) -> dict[str, Score]:
    if rows.probabilities is None or classes.label_sets is None:
        return {}
    labels, cases = rows.class_labels, rows.case_index
    return label_set_scores(rows.probabilities, labels, cases, classes.labels, classes.label_sets, bootstrap)


def _trust(rows: ScoredRows, classes: Classes) -> dict[str, Any] | None:
    if rows.confidences is None:
        return None
    right = is_right(rows, classes)
    known = ~np.isnan(right)
    right, confidence, loss = right[known], rows.confidences[known], 1 - row_dice(rows)[known]
    both = 0 < right.sum() < len(right)
    limits = {
        "unlike_training_images": rows.distances
        > (np.inf if classes.distance_limit is None else classes.distance_limit),
        "low_confidence": rows.confidences < (classes.confidence_limit or 0),
    }
    return {
        "rows": int(known.sum()),
        "right": float(right.mean()) if len(right) else None,
        "mean_confidence": float(confidence.mean()) if len(right) else None,
        "auroc": float(area_under_curve(confidence, right)[0]) if both else None,
        "errors_refused": {
            "share": REFUSED_SHARE,
            "wrong": errors_refused(confidence, 1 - right, REFUSED_SHARE) if both else None,
            "dice": errors_refused(confidence, loss, REFUSED_SHARE) if loss.sum() else None,
        },
        "flags": {name: float(flagged.mean()) for name, flagged in limits.items()},
    }


def _uncalibrated(answers: Answers, bootstrap: Bootstrap) -> Uncalibrated | None:
    rows, classes = answers.uncalibrated, answers.classes
    if rows is None:
        return None
    return Uncalibrated(calibration_scores_of(rows, classes, bootstrap), _reliability(rows, classes))


def _warnings(cases: int, groups: Mapping[str, PartScores]) -> Iterator[str]:
    """What to say of too few cases, in all or in a group."""
    if cases < FEW_CASES:
        counted = "1 case was" if cases == 1 else f"{cases} cases were"
        yield f"Only {counted} scored: with fewer than {FEW_CASES}, no figure is more than an impression."
        return
    few = [f"{name} ({group.cases})" for name, group in groups.items() if group.cases < FEW_CASES]
    if few:
        more = f" and {len(few) - NAMED_GROUPS} more" if len(few) > NAMED_GROUPS else ""
        yield (
            f"Fewer than {FEW_CASES} cases were scored of {', '.join(few[:NAMED_GROUPS])}{more}: "
            "no figure of such a group is more than an impression."
        )
