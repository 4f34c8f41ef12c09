"""Scores from counts: Dice, Jaccard, accuracy, sensitivity, specificity, AUC and calibration, with n and intervals.

Each name says its convention, because the conventions differ by up to 30 points on the same masks:

| name | definition |
|---|---|
| `dice_present`, `jaccard_present` | per image and class, only where the truth holds the class; mean over images, then classes |
| `dice`, `jaccard` | per image and class, 1 where truth and prediction are both empty (ISIC challenge); same means |
| `dice_volume` | pixels summed over a case first (RETOUCH challenge); a class in neither truth nor prediction is left out |
| `volume_difference` | absolute difference of predicted and true volume of a case's annotated slices, in mm3 |
| `false_positive_rate_empty` | share of the images without a class in which any pixel of it is predicted |
| `accuracy`, `sensitivity`, `specificity` | image-level decisions, TP, TN, FP, FN summed over the classes first (micro) |
| `auc` | area under the ROC curve of each class, then the mean over classes |
| `calibration_error` | expected calibration error of each class over equal bins of its probability, then the mean |

A name without a suffix is the mean over the foreground classes; with a class name behind it, that class alone.
A score that nothing in the data defines is NaN, left out of means, and has n = 0. Intervals are percentile bootstrap
intervals that draw whole cases with replacement (Efron and Tibshirani 1993, chapter 13), because slices of one eye or
pictures of one patient are not independent.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .counts import Counts, label_counts, sum_by_case


# Row weights (R, N) -> one column per score (R, M): ones give the score itself, resampled weights its bootstrap.
Statistic = Callable[[np.ndarray], np.ndarray]

# Upper bound on the resampled weights held at once, so that memory does not grow with the number of rows.
_MAX_WEIGHTS = 4_000_000


@dataclass(frozen=True)
class Score:
    """One score, the ends of its interval, and the number of images, cases or entries it was computed from."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: `samples` = 0 makes none (NaN)."""

    samples: int = 1000
    level: float = 0.95
    seed: int = 0


def dice(counts: Counts, empty: float = 1.0) -> np.ndarray:
    """2 TP / (2 TP + FP + FN), same shape as the counts; `empty` where truth and prediction are both empty."""
    return _ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn, empty, counts.annotated)


def jaccard(counts: Counts, empty: float = 1.0) -> np.ndarray:
    """TP / (TP + FP + FN), same shape as the counts; `empty` where truth and prediction are both empty."""
    return _ratio(counts.tp, counts.tp + counts.fp + counts.fn, empty, counts.annotated)


def accuracy(counts: Counts) -> np.ndarray:
    """(TP + TN) / all; NaN where nothing was annotated."""
    return _ratio(counts.tp + counts.tn, counts.annotated)


def sensitivity(counts: Counts) -> np.ndarray:
    """TP / (TP + FN), also called recall; NaN where the truth holds no positive."""
    return _ratio(counts.tp, counts.tp + counts.fn)


def specificity(counts: Counts) -> np.ndarray:
    """TN / (TN + FP); NaN where the truth holds no negative."""
    return _ratio(counts.tn, counts.tn + counts.fp)


def area_under_curve(scores: np.ndarray, true: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the ROC curve: the weighted share of (positive, negative) pairs in order, ties counting half.

    Args:
        scores: (N,) any monotone score of the class.
        true: (N,) 1 or 0; other values are unknown and left out.
        weights: (R, N) row weights; default one row of ones.

    Returns:
        (R,) areas in [0, 1], NaN where one of the two classes has no weight.
    """
    weights = np.ones((1, len(true))) if weights is None else weights
    known = (true == 1) | (true == 0)
    order = np.argsort(scores[known], kind="stable")
    scores, true, weights = scores[known][order], true[known][order], weights[:, known][:, order]
    if not len(scores):
        return np.full(len(weights), np.nan)
    starts = np.flatnonzero(np.r_[True, np.diff(scores) > 0])
    positive = np.add.reduceat(weights * (true == 1), starts, axis=1)
    negative = np.add.reduceat(weights * (true == 0), starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    return _ratio((positive * (below + negative / 2)).sum(1), positive.sum(1) * negative.sum(1))


def calibration_error(
    probabilities: np.ndarray, true: np.ndarray, weights: np.ndarray | None = None, bins: int = 10
) -> np.ndarray:
    """Expected calibration error of one class (Naeini et al. 2015): sum over bins of weight x |mean p - share true|.

    Args:
        probabilities: (N,) in [0, 1].
        true: (N,) 1 or 0; other values are unknown and left out.
        weights: (R, N) row weights; default one row of ones.
        bins: number of bins of equal width.

    Returns:
        (R,) errors in [0, 1], NaN where nothing is known.
    """
    weights = np.ones((1, len(true))) if weights is None else weights
    known = (true == 1) | (true == 0)
    bin_of = _bin_of(probabilities[known], bins)
    gap = (probabilities[known] - true[known])[:, None] * (bin_of[:, None] == np.arange(bins))
    weights = weights[:, known]
    return _ratio(np.abs(weights @ gap).sum(1), weights.sum(1))


@dataclass(frozen=True)
class ReliabilityBin:
    """The rows whose probability of a class lies in [low, high), in the last bin in [low, 1].

    Attributes:
        low, high: ends of the bin.
        n: number of rows.
        mean_probability: of these rows; NaN without any.
        share_present: share of them that have the class; NaN without any.
    """

    low: float
    high: float
    n: int
    mean_probability: float
    share_present: float


def reliability(probabilities: np.ndarray, true: np.ndarray, bins: int = 10) -> list[ReliabilityBin]:
    """What a reliability diagram shows of one class, in the bins of `calibration_error`.

    Args:
        probabilities: (N,) in [0, 1].
        true: (N,) 1 or 0; other values are unknown and left out.
        bins: number of bins of equal width.
    """
    known = (true == 1) | (true == 0)
    inside = _bin_of(probabilities[known], bins) == np.arange(bins)[:, None]
    n = inside.sum(axis=1)
    columns = (n, _ratio(inside @ probabilities[known], n), _ratio(inside @ true[known].astype(np.float64), n))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [ReliabilityBin(i / bins, (i + 1) / bins, *row) for i, row in enumerate(rows)]


def roc_curve(scores: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ROC curve of one class, from (0, 0) to (1, 1), one point for each different score.

    Args:
        scores: (N,) any monotone score of the class.
        true: (N,) 1 or 0; other values are unknown and left out.

    Returns:
        False positive rates and true positive rates, ascending; NaN where one of the two classes is missing.
    """
    known = (true == 1) | (true == 0)
    order = np.argsort(-scores[known], kind="stable")
    scores, true = scores[known][order], true[known][order]
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1) if len(scores) else np.empty(0, dtype=int)
    rates = []
    for value in (0, 1):
        passed = np.append(0, np.cumsum(true == value)[ends])
        rates.append(_ratio(passed, np.full(len(passed), passed[-1])))
    return rates[0], rates[1]


def segmentation_scores(
    counts: Counts,
    case_index: np.ndarray,
    class_names: Sequence[str],
    pixel_volume: np.ndarray | None = None,
    bootstrap: Bootstrap | None = None,
) -> dict[str, Score]:
    """All mask scores of the table above.

    Args:
        counts: per image and class, shape (N, S), class 0 the background.
        case_index: (N,) integers, equal for images of one case.
        class_names: S names, background first; the means leave it out.
        pixel_volume: (N,) mm3 of one pixel, NaN where unknown; None leaves `volume_difference` out.
        bootstrap: how intervals are made; None makes none.

    Returns:
        `Score` by name: `dice` and, per class, `dice_lesion`; likewise for every other name.
    """
    case_index = np.asarray(case_index)
    case_counts, _ = sum_by_case(counts, case_index)
    cases = np.arange(len(case_counts.tp))
    present = counts.tp + counts.fn > 0
    without = np.where((counts.annotated > 0) & ~present, counts.fp > 0, np.nan)
    values_and_units = {
        "dice_present": (np.where(present, dice(counts), np.nan), case_index),
        "jaccard_present": (np.where(present, jaccard(counts), np.nan), case_index),
        "dice": (dice(counts), case_index),
        "jaccard": (jaccard(counts), case_index),
        "false_positive_rate_empty": (without, case_index),
        "dice_volume": (dice(case_counts, empty=np.nan), cases),
    }
    if pixel_volume is not None:
        values_and_units["volume_difference"] = (_volume_difference(counts, case_index, pixel_volume), cases)
    scores: dict[str, Score] = {}
    for name, (values, units) in values_and_units.items():
        known = ~np.isnan(values)
        n = [int(known[:, 1:].any(axis=1).sum()), *known.sum(axis=0).tolist()]
        scores |= _estimate(_class_means(values), units, _named(name, class_names), n, bootstrap)
    return scores


def classification_scores(
    probabilities: np.ndarray,
    true: np.ndarray,
    case_index: np.ndarray,
    class_names: Sequence[str],
    thresholds: Sequence[float] | float = 0.5,
    auc_classes: Sequence[str] = (),
    bootstrap: Bootstrap | None = None,
) -> dict[str, Score]:
    """All image-level scores of the table above.

    Args:
        probabilities: (N, K) in [0, 1], the sigmoid of the logits.
        true: (N, K) floats, 1 present, 0 absent, negative or NaN unknown.
        case_index: (N,) integers, equal for images of one case.
        class_names: K names.
        thresholds: a class is decided present at or above it; one number, or one per class.
        auc_classes: classes whose mean AUC is reported besides, e.g. melanoma and seborrheic_keratosis for part 3 of
            the ISIC 2017 challenge, under the name `auc_` + their names joined by `+`.
        bootstrap: how intervals are made; None makes none.

    Returns:
        `Score` by name: `auc` and, per class, `auc_melanoma`; likewise for every other name.

    Raises:
        ValueError: `auc_classes` names a class that is not there.
    """
    if missing := [name for name in auc_classes if name not in class_names]:
        raise ValueError(f"auc_classes names {missing}, which are not among the classes {list(class_names)}.")
    case_index = np.asarray(case_index)
    counts = label_counts(probabilities >= np.asarray(thresholds), true)
    known = counts.annotated > 0
    entries = [int(known.sum()), *known.sum(axis=0).tolist()]
    rows = [int(known.any(axis=1).sum()), *entries[1:]]
    scores: dict[str, Score] = {}
    for score in (accuracy, sensitivity, specificity):
        names = _named(score.__name__, class_names)
        scores |= _estimate(_micro(counts, score), case_index, names, entries, bootstrap)
    for name, score in (("auc", area_under_curve), ("calibration_error", calibration_error)):
        statistic = _mean_over_classes(probabilities, true, score)
        scores |= _estimate(statistic, case_index, _named(name, class_names), rows, bootstrap)
    if auc_classes:
        chosen = [list(class_names).index(name) for name in auc_classes]
        statistic = _mean_over_classes(probabilities[:, chosen], true[:, chosen], area_under_curve)
        n = int(known[:, chosen].any(axis=1).sum())
        scores |= _estimate(statistic, case_index, ["auc_" + "+".join(auc_classes)], [n], bootstrap)
    return scores


def _bin_of(probabilities: np.ndarray, bins: int) -> np.ndarray:
    """(N,) number of the bin that each probability falls into."""
    return np.minimum((probabilities * bins).astype(int), bins - 1)


def _ratio(above: np.ndarray, below: np.ndarray, empty: float = np.nan, annotated: np.ndarray | int = 1) -> np.ndarray:
    """above / below; `empty` where below is 0, NaN where nothing was annotated."""
    filled = np.where(np.asarray(annotated) > 0, empty, np.nan)
    return np.divide(above, below, out=np.broadcast_to(filled, np.shape(below)).copy(), where=np.asarray(below) > 0)


def _named(name: str, class_names: Sequence[str]) -> list[str]:
    """Names of a score's columns: the mean first, then every class."""
    return [name, *(f"{name}_{class_name}" for class_name in class_names)]


def _volume_difference(counts: Counts, case_index: np.ndarray, pixel_volume: np.ndarray) -> np.ndarray:
    """|predicted - true| volume in mm3 of the annotated slices, (C, S).

    NaN for a case without any, or with one of unknown spacing.
    """
    annotated = counts.annotated > 0
    signed = (counts.fp - counts.fn) * np.asarray(pixel_volume, dtype=np.float64)[:, None]
    _, inverse = np.unique(case_index, return_inverse=True)
    total = np.zeros((inverse.max(initial=-1) + 1, signed.shape[1]))
    np.add.at(total, inverse, np.where(annotated, signed, 0.0))
    slices = np.zeros(total.shape, dtype=np.int64)
    np.add.at(slices, inverse, annotated)
    return np.where(slices > 0, np.abs(total), np.nan)


def _class_means(values: np.ndarray) -> Statistic:
    """Weighted mean over the rows of (N, S) values without the NaN, and first of all the mean of the foreground."""
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)

    def statistic(weights: np.ndarray) -> np.ndarray:
        means = _ratio(weights @ filled, weights @ known)
        return np.column_stack([_nanmean(means[:, 1:]), means])

    return statistic


def _micro(counts: Counts, score: Callable[[Counts], np.ndarray]) -> Statistic:
    """A score of counts summed over rows and classes, then of each class alone."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        per_class = Counts(*(weights @ part for part in counts))
        pooled = Counts(*(part.sum(axis=1) for part in per_class))
        return np.column_stack([score(pooled), score(per_class)])

    return statistic


def _mean_over_classes(probabilities: np.ndarray, true: np.ndarray, score: Callable[..., np.ndarray]) -> Statistic:
    """The mean over classes of a score of probabilities, then each class alone."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        columns = [score(p, t, weights) for p, t in zip(probabilities.T, true.T, strict=True)]
        return np.column_stack([_nanmean(np.column_stack(columns)), *columns])

    return statistic


def _nanmean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without the NaN; NaN, and no warning, where nothing is left."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1))


def _estimate(
    statistic: Statistic, case_index: np.ndarray, names: list[str], n: list[int], bootstrap: Bootstrap | None
) -> dict[str, Score]:
    """The first `len(names)` columns of a statistic with their intervals."""
    value = statistic(np.ones((1, len(case_index))))[0]
    low = high = np.full(len(value), np.nan)
    # One case drawn again and again is no evidence of spread.
    if bootstrap is not None and bootstrap.samples and len(np.unique(case_index)) > 1:
        drawn = np.concatenate([statistic(weights) for weights in _resampled_weights(case_index, bootstrap)])
        tail = (1 - bootstrap.level) / 2
        low, high = (_nanquantile(drawn, q) for q in (tail, 1 - tail))
    columns = zip(names, value, low, high, n, strict=False)
    return {name: Score(float(v), float(lo), float(hi), count) for name, v, lo, hi, count in columns}


def _nanquantile(drawn: np.ndarray, q: float) -> np.ndarray:
    """Quantile of each column without the NaN; NaN, and no warning, for a column of nothing else."""
    kept = [column[~np.isnan(column)] for column in drawn.T]
    return np.array([np.quantile(column, q) if len(column) else np.nan for column in kept])


def _resampled_weights(case_index: np.ndarray, bootstrap: Bootstrap) -> Iterator[np.ndarray]:
    """Row weights (r, N) of bootstrap samples of whole cases, a bounded number at a time."""
    cases, inverse = np.unique(case_index, return_inverse=True)
    rng = np.random.default_rng(bootstrap.seed)
    at_once = max(1, _MAX_WEIGHTS // len(case_index))
    for start in range(0, bootstrap.samples, at_once):
        size = min(at_once, bootstrap.samples - start)
        drawn = rng.multinomial(len(cases), np.full(len(cases), 1 / len(cases)), size=size)
        yield drawn[:, inverse].astype(np.float64)
