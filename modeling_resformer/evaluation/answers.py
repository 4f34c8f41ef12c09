"""What a model answered on the rows of a split, beside the truth: all that scores are computed from.

Nothing here knows which model, or which program, answered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..configuration_resformer import CONFIDENT_DICE, ResFormerConfig, decisions
from ..metrics.counts import Counts
from ..metrics.scores import (
    Bootstrap,
    Score,
    Statistic,
    class_calibration_scores,
    classification_scores,
    dice,
    mask_calibration_scores,
    overall_statistics,
    segmentation_scores,
)
from .row_statistics import RowStatistics


@dataclass(frozen=True)
class Classes:
    """What a model tells apart, and where it decides.

    Attributes:
        masks: S names of mask classes, background first.
        labels: K names of image-level classes.
        thresholds: K, a class is decided present at or above its own; None where each image has exactly one class, the one
            of the highest score.
        auc: see `classification_scores`.
        label_sets: K, a class is in an image's label set at or above its own; None without.
        label_set_level: the chance with which a present class is promised to be in it.
        distance_limit, confidence_limit: above and below which images and answers are flagged; None without.
    """

    masks: tuple[str, ...]
    labels: tuple[str, ...] = ()
    thresholds: tuple[float, ...] | None = ()
    auc: tuple[str, ...] = ()
    label_sets: tuple[float, ...] | None = None
    label_set_level: float | None = None
    distance_limit: float | None = None
    confidence_limit: float | None = None

    @classmethod
    def of(cls, config: ResFormerConfig, auc_classes: Sequence[str] = ()) -> "Classes":
        """Those of a config, at 0.5 where it needs thresholds and has none."""
        thresholds = config.decision_thresholds()
        return cls(
            tuple(config.mask_class_names),
            tuple(config.image_class_names),
            None if thresholds is None else tuple(thresholds),
            tuple(auc_classes),
            None if config.label_set_thresholds is None else tuple(config.label_set_thresholds),
            config.label_set_level,
            config.distance_limit,
            config.confidence_limit,
        )

    @property
    def threshold_by_label(self) -> dict[str, float]:
        """The threshold of each image-level class; empty where the highest score decides."""
        return {} if self.thresholds is None else dict(zip(self.labels, self.thresholds, strict=True))

    def decided(self, probabilities: np.ndarray) -> np.ndarray:
        """Which classes (..., K) probabilities decide for; booleans of the same shape."""
        return decisions(probabilities, self.thresholds)


@dataclass(frozen=True)
class ScoredRows:
    """N rows. The fields about masks are None for a model that only classifies, those about labels for one that only segments.

    Attributes:
        row_index: (N,) position in the split.
        case_index: (N,) integers, equal for rows of one case.
        annotated: (N,) whether a row has anything that the model's heads are scored on: a mask with a known pixel, a known
            label.
        counts: of the mask, (N, S) in pixels; all 0 for a row without one.
        probabilities: (N, K) in [0, 1].
        mask_gaps: see `mask_calibration_scores`.
        distances: (N,) from the training images.
        confidences: (N,) chances that mask and labels are right.
        class_labels: (N, K) 1 present, 0 absent, -100 unknown; of classes that exclude each other with what follows from
            the known ones.
        pixel_volumes: (N,) mm3 of one pixel of the scored masks, NaN where unknown; None where all are.
    """

    row_index: np.ndarray
    case_index: np.ndarray
    annotated: np.ndarray
    counts: Counts | None = None
    probabilities: np.ndarray | None = None
    class_labels: np.ndarray | None = None
    pixel_volumes: np.ndarray | None = None
    mask_gaps: np.ndarray | None = None
    distances: np.ndarray | None = None
    confidences: np.ndarray | None = None

    @classmethod
    def of(cls, rows: RowStatistics, config: ResFormerConfig) -> "ScoredRows":
        """The rows that an evaluation of a model of that config gathered."""
        counts, probabilities, labels = None, None, rows.class_labels
        annotated = np.zeros(len(rows.row_index), dtype=bool)
        if rows.mask_counts is not None:
            counts = Counts(*np.moveaxis(rows.mask_counts, 1, 0))
            annotated |= (rows.mask_counts > 0).any(axis=(1, 2))
        if rows.classification_logits is not None:
            probabilities = config.class_scores(torch.from_numpy(rows.classification_logits).double()).numpy()
            annotated |= (labels >= 0).any(axis=1)
            labels = completed_labels(labels) if config.classes_exclude else labels
        return cls(
            rows.row_index,
            rows.case_index,
            annotated,
            counts,
            probabilities,
            labels,
            mask_gaps=rows.mask_gaps,
            distances=rows.distances,
            confidences=_confidences(rows, config),
        )

    @classmethod
    def uncalibrated(cls, rows: RowStatistics, config: ResFormerConfig) -> "ScoredRows | None":
        """The same as the model would have answered without the calibration in its config; None where there is none."""
        logits = rows.classification_logits
        if not config.is_calibrated:
            return None
        if logits is not None:
            shift, scale = config.classification_shift or 0.0, config.classification_scale or 1.0
            logits = (logits - np.asarray(shift, np.float64)) / np.asarray(scale, np.float64)
        gaps = rows.mask_gaps if rows.raw_mask_gaps is None else rows.raw_mask_gaps
        return cls.of(replace(rows, classification_logits=logits, mask_gaps=gaps), config)

    def take(self, chosen: np.ndarray) -> "ScoredRows":
        """Some of the rows, by index or boolean mask."""
        kept = {
            name: None if array is None else array[chosen] for name, array in vars(self).items() if name != "counts"
        }
        return ScoredRows(**kept, counts=None if self.counts is None else self.counts.take(chosen))

    @classmethod
    def join(cls, parts: Sequence["ScoredRows"]) -> "ScoredRows":
        """The rows of several lots, one after the other, with the fields that all of them have."""
        joined = {
            name: None
            if any(getattr(part, name) is None for part in parts)
            else [getattr(part, name) for part in parts]
            for name in vars(parts[0])
        }
        counts = joined.pop("counts")
        arrays = {name: None if values is None else np.concatenate(values) for name, values in joined.items()}
        return cls(**arrays, counts=None if counts is None else Counts.join(counts))


@dataclass(frozen=True)
class Answers:
    """The rows of a split as a model answered them, what it tells apart, and its losses by name.

    Attributes:
        uncalibrated: the rows without the calibration of the model; None where it has none.
    """

    rows: ScoredRows
    classes: Classes
    losses: Mapping[str, float]
    uncalibrated: ScoredRows | None = None


def _confidences(rows: RowStatistics, config: ResFormerConfig) -> np.ndarray | None:
    if rows.signals is None or config.confidence_weights is None:
        return None
    constant, *weights = config.confidence_weights
    return 1 / (1 + np.exp(-(constant + rows.signals.astype(np.float64) @ np.array(weights))))


def is_right(rows: ScoredRows, classes: Classes) -> np.ndarray:
    """(N,) 1 where the mean Dice over the foreground classes is `CONFIDENT_DICE` or more and all known labels are decided
    rightly, else 0; NaN for a row without a mask or without a known label.
    """
    known = (rows.class_labels == 0) | (rows.class_labels == 1)
    right = (classes.decided(rows.probabilities) == (rows.class_labels == 1)) | ~known
    answered = (row_dice(rows) >= CONFIDENT_DICE) & right.all(axis=1)
    complete = known.any(axis=1) & (rows.counts.annotated.sum(axis=1) > 0)
    return np.where(complete, answered.astype(float), np.nan)


def row_dice(rows: ScoredRows) -> np.ndarray:
    """(N,) mean Dice over the foreground classes, 1 for one that is neither there nor predicted."""
    return dice(rows.counts)[:, 1:].mean(axis=1)


def completed_labels(labels: np.ndarray) -> np.ndarray:
    """(N, K) labels of classes that exclude each other with what follows: one that is present makes all others absent, and
    one that alone is unknown where all others are absent is present.
    """
    present, unknown = labels == 1, labels < 0
    absent = unknown & present.any(axis=1, keepdims=True)
    last = unknown & (unknown.sum(axis=1) == 1)[:, None] & ~absent
    return np.where(absent, 0, np.where(last, 1, labels)).astype(labels.dtype)


def row_scores(rows: ScoredRows, classes: Classes, bootstrap: Bootstrap | None = None) -> dict[str, Score]:
    """The scores of `metrics/scores.py` that the answers allow, by name.

    Args:
        rows: to score; without `pixel_volumes` there is no `volume_difference`.
        classes: of the model.
        bootstrap: how intervals are made; None makes none.
    """
    scores: dict[str, Score] = {}
    if rows.counts is not None:
        scores |= segmentation_scores(rows.counts, rows.case_index, classes.masks, rows.pixel_volumes, bootstrap)
    if rows.mask_gaps is not None:
        scores |= mask_calibration_scores(rows.mask_gaps, rows.case_index, classes.masks, bootstrap)
    if rows.probabilities is not None:
        scores |= classification_scores(
            rows.probabilities,
            rows.class_labels,
            rows.case_index,
            classes.labels,
            thresholds=classes.thresholds,
            auc_classes=classes.auc,
            bootstrap=bootstrap,
        )
    return scores


def calibration_scores_of(rows: ScoredRows, classes: Classes, bootstrap: Bootstrap | None = None) -> dict[str, Score]:
    """Those of the scores that calibration moves, decisions aside."""
    scores: dict[str, Score] = {}
    if rows.mask_gaps is not None:
        scores |= mask_calibration_scores(rows.mask_gaps, rows.case_index, classes.masks, bootstrap)
    if rows.probabilities is not None:
        labels, cases = rows.class_labels, rows.case_index
        scores |= class_calibration_scores(rows.probabilities, labels, cases, classes.labels, bootstrap)
    return scores


def row_score_functions(rows: ScoredRows, classes: Classes) -> dict[str, Statistic]:
    """The scores over all classes by name, as functions of the weights of the cases; see `overall_statistics`."""
    return overall_statistics(rows.case_index, rows.counts, rows.probabilities, rows.class_labels, classes.thresholds)
