"""Scores from counts: Dice, Jaccard, accuracy, sensitivity, specificity, AUC and calibration, with n and intervals.

Each name says its convention, because the conventions differ by up to 30 points on the same masks:

| name | definition |
|---|---|
| `dice_present`, `jaccard_present` | per image and class, only where the truth holds the class; mean over images, then classes |
| `dice`, `jaccard` | per image and class, 1 where truth and prediction are both empty (ISIC challenge); same means |
| `dice_volume` | pixels summed over a case first (RETOUCH challenge); a class in neither truth nor prediction is left out |
| `volume_difference` | absolute difference of predicted and true volume of a case's annotated slices, in mm3; slices that nobody |
|  | annotated add nothing, so it is not that of the whole volume; mean over cases, then all foreground classes |
| `false_positive_rate_empty` | share of the images without a class in which any pixel of it is predicted; mean over all foreground classes |
| `accuracy`, `sensitivity`, `specificity` | image-level decisions, TP, TN, FP, FN summed over the classes first (micro); |
|  | n is the number of entries: all, those with the class, those without it |
| `balanced_accuracy` | of classes that exclude each other: the mean over classes of their sensitivity, the highest score |
|  | deciding. `sensitivity` of the whole is then the share of images that are named rightly |
| `auc` | area under the ROC curve of each class, then the mean over classes |
| `calibration_error` | expected calibration error of each class over ten equal bins of its probability, less what chance adds |
|  | to it (`calibration.py`; Kumar, Liang and Ma 2019), at least 0; then the mean over classes |
| `mask_calibration_error` | the same of the pixels at the model's input size, each foreground class's probability against the truth |
| `brier` | mean squared distance of probability and truth of each class (Brier 1950), then the mean over classes |

A name without a suffix is the mean over classes; with a class name behind it, that class alone. Means of Dice and Jaccard run
over the foreground classes that occur in the truth of the scored rows: one that never does would count as nearly perfect in
`dice` and as 0 in `dice_volume`. Those of `volume_difference` and `false_positive_rate_empty` run over all: what is predicted
of a class that is not there counts in them. A score that nothing in the data defines is NaN, left out of means, and has n = 0.

Intervals are percentile bootstrap intervals that draw whole cases with replacement (Efron and Tibshirani 1993, chapter 13),
because slices of one eye or images of one patient are not independent; a mean keeps its classes in every sample drawn.
That of `calibration_error` ends above as a basic bootstrap interval does (chapter 13 too), and below at the plug-in error less
the upper quantile of what chance alone moves the bins: a percentile interval of it would miss the truth, and itself.
A score to which fewer than `FEWEST_CASES` cases contribute has no interval (NaN): for `sensitivity` those with the class count,
for `specificity` those without it, for `auc` the fewer of both; for a mean over classes that of the class with the fewest.
Nor has one that all samples drawn agree on, as they do on a perfect score: an interval of no width would look like certainty.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..configuration_resformer import decisions
from .calibration import BinnedGaps
from .counts import Counts, label_counts, sum_by_case
from .score_table import SCORES


_OVERLAPS = [score.name for score in SCORES if score.over_occurring]

# Row weights (R, N) -> one column per score (R, M): ones give the score itself, resampled weights its bootstrap.
Statistic = Callable[[np.ndarray], np.ndarray]

# Upper bound on the resampled weights held at once, so that memory does not grow with the number of rows.
_MAX_WEIGHTS = 4_000_000

_NO_WIDTH = 1e-9  # of an interval; equal samples differ by as much as rounding

FEWEST_CASES = 5  # that an interval may rest on: of two cases, it would be no wider than they lie apart


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


def figure(value: float) -> str:
    """A score with three decimals, or as many as two digits need: volumes of OCT are thousandths of a mm3."""
    return f"{value:.2g}" if 0 < abs(value) < 0.005 else f"{value:.3f}"


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
        class_names: S names, background first; the means leave it out, those of Dice and Jaccard also the classes that
            `occurring` does not find.
        pixel_volume: (N,) mm3 of one pixel, NaN where unknown; None leaves `volume_difference` out.
        bootstrap: how intervals are made; None makes none.

    Returns:
        `Score` by name: `dice` and, per class, `dice_lesion`; likewise for every other name.
    """
    case_index = np.asarray(case_index)
    cases = np.arange(len(np.unique(case_index)))
    of_images, of_cases = _image_values(counts), _case_values(counts, case_index, pixel_volume)
    foreground, found, scores = np.arange(1, len(class_names)), occurring(counts), {}
    for name, values in (of_images | of_cases).items():
        units = case_index if name in of_images else cases
        known = ~np.isnan(values)
        averaged = foreground[found[1:]] if name in _OVERLAPS else foreground
        # A class whose score is undefined in all rows cannot be averaged either.
        columns = averaged[known[:, averaged].any(axis=0)]
        n = [int(known[:, columns].any(axis=1).sum()), *known.sum(axis=0).tolist()]
        basis = _with_fewest(_number_of_cases(known, units), columns)
        scores |= _estimate(_class_means(values, columns), units, _named(name, class_names), n, basis, bootstrap)
    return scores


def overall_statistics(
    case_index: np.ndarray,
    counts: Counts | None = None,
    probabilities: np.ndarray | None = None,
    true: np.ndarray | None = None,
    thresholds: Sequence[float] | float | None = 0.5,
) -> dict[str, Statistic]:
    """The scores over all classes as functions of case weights (R, C), for comparing models on the same drawn cases.

    Args:
        case_index: (N,) integers, equal for images of one case.
        counts: (N, S) of the masks; None without.
        probabilities, true, thresholds: of the image-level classes, see `classification_scores`; None without.

    Returns:
        By name, the function that gives (R,) scores for weights of the cases in ascending order; those in mm3 are left out.
    """
    inverse = np.unique(case_index, return_inverse=True)[1]

    def of_rows(statistic: Statistic) -> Statistic:
        return lambda weights: statistic(weights[:, inverse])[:, 0]

    found: dict[str, Statistic] = {}
    if counts is not None:
        averaged, occurs = np.arange(1, counts.tp.shape[1]), occurring(counts)[1:]
        for name, values in (_image_values(counts) | _case_values(counts, case_index, None)).items():
            columns = averaged[occurs] if name in _OVERLAPS else averaged
            statistic = _class_means(values, columns[~np.isnan(values[:, columns]).all(axis=0)])
            found[name] = (
                of_rows(statistic) if len(values) == len(inverse) and name != "dice_volume" else _first(statistic)
            )
    if probabilities is not None:
        decided = label_counts(decisions(probabilities, thresholds), true)
        for score in (accuracy, sensitivity, specificity):
            found[score.__name__] = of_rows(_micro(decided, score))
        both = np.minimum((true == 1).any(axis=0), (true == 0).any(axis=0))
        found["auc"] = of_rows(_areas(probabilities, true, np.flatnonzero(both)))
    return found


def _first(statistic: Statistic) -> Statistic:
    return lambda weights: statistic(weights)[:, 0]


def resampled_cases(cases: int, bootstrap: Bootstrap) -> np.ndarray:
    """(samples, cases) how often each case is drawn; the same for every model of as many cases."""
    return np.random.default_rng(bootstrap.seed).multinomial(cases, np.full(cases, 1 / cases), size=bootstrap.samples)


def _image_values(counts: Counts) -> dict[str, np.ndarray]:
    """(N, S) values of the scores that are means over images, NaN where undefined."""
    present, of_dice, of_jaccard = counts.tp + counts.fn > 0, dice(counts), jaccard(counts)
    return {
        "dice_present": np.where(present, of_dice, np.nan),
        "jaccard_present": np.where(present, of_jaccard, np.nan),
        "dice": of_dice,
        "jaccard": of_jaccard,
        "false_positive_rate_empty": np.where((counts.annotated > 0) & ~present, counts.fp > 0, np.nan),
    }


def _case_values(counts: Counts, case_index: np.ndarray, pixel_volume: np.ndarray | None) -> dict[str, np.ndarray]:
    """(C, S) values of the scores that are means over cases, NaN where undefined."""
    values = {"dice_volume": dice(sum_by_case(counts, case_index)[0], empty=np.nan)}
    if pixel_volume is not None:
        values["volume_difference"] = _volume_difference(counts, case_index, pixel_volume)
    return values


def occurring(counts: Counts) -> np.ndarray:
    """(S,) whether the truth of any row of (N, S) counts holds a pixel of the class."""
    return (counts.tp + counts.fn > 0).any(axis=0)


def classification_scores(
    probabilities: np.ndarray,
    true: np.ndarray,
    case_index: np.ndarray,
    class_names: Sequence[str],
    thresholds: Sequence[float] | float | None = 0.5,
    auc_classes: Sequence[str] = (),
    bootstrap: Bootstrap | None = None,
) -> dict[str, Score]:
    """All image-level scores of the table above.

    Args:
        probabilities: (N, K) in [0, 1].
        true: (N, K) floats, 1 present, 0 absent, negative or NaN unknown.
        case_index: (N,) integers, equal for images of one case.
        class_names: K names.
        thresholds: a class is decided present at or above it; one number, or one per class; None for classes that exclude
            each other, of which the one with the highest probability is.
        auc_classes: whose mean AUC is reported besides, as `auc_` + their names joined by `+` (ISIC 2017 challenge, part 3).
        bootstrap: how intervals are made; None makes none.

    Returns:
        `Score` by name: `auc` and, per class, `auc_melanoma`; likewise for every other name.

    Raises:
        ValueError: `auc_classes` names a class that is not there.
    """
    if missing := [name for name in auc_classes if name not in class_names]:
        raise ValueError(f"auc_classes names {missing}, which are not among the classes {list(class_names)}.")
    case_index = np.asarray(case_index)
    decided = label_counts(decisions(probabilities, thresholds), true)
    scores = _decision_scores(decided, case_index, class_names, bootstrap)
    if thresholds is None:
        scores |= _balanced_accuracy(decided, case_index, bootstrap)
    known = decided.annotated > 0
    rows = [int(known.any(axis=1).sum()), *known.sum(axis=0).tolist()]
    scores |= _auc(probabilities, true, case_index, _named("auc", class_names), rows, bootstrap)
    scores |= class_calibration_scores(probabilities, true, case_index, class_names, bootstrap)
    if auc_classes:
        chosen = np.array([list(class_names).index(name) for name in auc_classes])
        names, n = ["auc_" + "+".join(auc_classes)], [int(known[:, chosen].any(axis=1).sum())]
        scores |= _auc(probabilities, true, case_index, names, n, bootstrap, chosen)
    return scores


def class_calibration_scores(
    probabilities: np.ndarray,
    true: np.ndarray,
    case_index: np.ndarray,
    class_names: Sequence[str],
    bootstrap: Bootstrap | None = None,
) -> dict[str, Score]:
    """`calibration_error` and `brier`, of the mean and of every class; arguments as `classification_scores` has them."""
    known = (true == 0) | (true == 1)
    rows = [int(known.any(axis=1).sum()), *known.sum(axis=0).tolist()]
    scores = _calibration(probabilities, true, case_index, _named("calibration_error", class_names), rows, bootstrap)
    columns = np.flatnonzero(known.any(axis=0))
    basis = _with_fewest(_number_of_cases(known, case_index), columns)
    statistic = _class_means(np.where(known, (probabilities - true) ** 2, np.nan), columns)
    return scores | _estimate(statistic, case_index, _named("brier", class_names), rows, basis, bootstrap)


def label_set_scores(
    probabilities: np.ndarray,
    true: np.ndarray,
    case_index: np.ndarray,
    class_names: Sequence[str],
    thresholds: Sequence[float],
    bootstrap: Bootstrap | None = None,
) -> dict[str, Score]:
    """`coverage`, the share of present classes that are in the label set of their image, and its `size`; see `label_sets.py`.

    Args:
        probabilities, true, case_index, class_names, bootstrap: as `classification_scores` has them.
        thresholds: K, a class is in the set at or above its own.

    Returns:
        `Score` by name: `coverage` over all classes and, per class, `coverage_melanoma`; `size` in classes an image.
    """
    chosen = decisions(probabilities, thresholds)
    counts = label_counts(chosen, true)
    present = counts.tp + counts.fn
    pooled = np.column_stack([present.sum(axis=1), present])
    basis, n = _number_of_cases(pooled, case_index).tolist(), pooled.sum(axis=0).tolist()
    scores = _estimate(_micro(counts, sensitivity), case_index, _named("coverage", class_names), n, basis, bootstrap)
    sizes = chosen.sum(axis=1, keepdims=True).astype(np.float64)
    statistic = _class_means(sizes, np.array([0]))
    cases = [len(np.unique(case_index))] * 2
    return scores | _estimate(statistic, case_index, ["size"], [len(sizes)] * 2, cases, bootstrap)


def _decision_scores(
    counts: Counts, case_index: np.ndarray, class_names: Sequence[str], bootstrap: Bootstrap | None
) -> dict[str, Score]:
    """Accuracy, sensitivity and specificity of the decisions (N, K)."""
    entries = {
        accuracy: counts.annotated,
        sensitivity: counts.tp + counts.fn,
        specificity: counts.fp + counts.tn,
    }
    scores: dict[str, Score] = {}
    for score, entries_of in entries.items():
        pooled = np.column_stack([entries_of.sum(axis=1), entries_of])
        basis, n = _number_of_cases(pooled, case_index).tolist(), pooled.sum(axis=0).tolist()
        names = _named(score.__name__, class_names)
        scores |= _estimate(_micro(counts, score), case_index, names, n, basis, bootstrap)
    return scores


def _balanced_accuracy(counts: Counts, case_index: np.ndarray, bootstrap: Bootstrap | None) -> dict[str, Score]:
    """The mean sensitivity of the classes that occur in the truth, from the decisions (N, K)."""
    positives = counts.tp + counts.fn
    cases = _number_of_cases(positives, case_index)
    columns = np.flatnonzero(cases)

    def statistic(weights: np.ndarray) -> np.ndarray:
        per_class = Counts(*(weights @ part for part in counts))
        return _mean(sensitivity(per_class)[:, columns])[:, None]

    n = [int(positives.any(axis=1).sum())]
    return _estimate(statistic, case_index, ["balanced_accuracy"], n, _with_fewest(cases, columns)[:1], bootstrap)


def _auc(
    probabilities: np.ndarray,
    true: np.ndarray,
    case_index: np.ndarray,
    names: list[str],
    n: list[int],
    bootstrap: Bootstrap | None,
    chosen: np.ndarray | None = None,
) -> dict[str, Score]:
    """Areas under the ROC curve: the mean over all classes, or those chosen, then, as far as there are names, each class's."""
    both = np.minimum(*(_number_of_cases(true == value, case_index) for value in (1, 0)))
    columns = np.flatnonzero(both) if chosen is None else chosen[both[chosen] > 0]
    areas = _areas(probabilities, true, columns)
    return _estimate(areas, case_index, names, n, _with_fewest(both, columns), bootstrap)


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


def _class_means(values: np.ndarray, columns: np.ndarray) -> Statistic:
    """Weighted mean over the rows of (N, S) values without the NaN, and first of all the mean of some of the columns."""
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)

    def statistic(weights: np.ndarray) -> np.ndarray:
        means = _ratio(weights @ filled, weights @ known)
        return np.column_stack([_mean(means[:, columns]), means])

    return statistic


def _micro(counts: Counts, score: Callable[[Counts], np.ndarray]) -> Statistic:
    """A score of counts summed over rows and classes, then of each class alone."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        per_class = Counts(*(weights @ part for part in counts))
        pooled = Counts(*(part.sum(axis=1) for part in per_class))
        return np.column_stack([score(pooled), score(per_class)])

    return statistic


def _areas(probabilities: np.ndarray, true: np.ndarray, columns: np.ndarray) -> Statistic:
    """The mean area under the ROC curve of some of the classes, then that of each class."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        areas = np.column_stack(
            [area_under_curve(p, t, weights) for p, t in zip(probabilities.T, true.T, strict=True)]
        )
        return np.column_stack([_mean(areas[:, columns]), areas])

    return statistic


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis; NaN, and no warning, of nothing. A sample that lacks one of the classes says nothing of it."""
    return values.mean(axis=-1) if values.shape[-1] else np.full(len(values), np.nan)


def _number_of_cases(entries: np.ndarray, case_index: np.ndarray) -> np.ndarray:
    """(K,) number of cases with a row of (N, K) entries that is not 0."""
    return np.array([len(np.unique(case_index[column != 0])) for column in entries.T], dtype=int)


def _with_fewest(cases: np.ndarray, columns: np.ndarray) -> list[int]:
    """Numbers of cases behind each column, and first the fewest of those that are averaged."""
    return [int(cases[columns].min()) if len(columns) else 0, *cases.tolist()]


def _estimate(
    statistic: Statistic,
    case_index: np.ndarray,
    names: list[str],
    n: list[int],
    basis: list[int],
    bootstrap: Bootstrap | None,
) -> dict[str, Score]:
    """The first `len(names)` columns of a statistic with their intervals; `basis` is the number of cases behind each."""
    value = statistic(np.ones((1, len(case_index))))[0]
    low = high = np.full(len(value), np.nan)
    if _has_intervals(basis, bootstrap):
        drawn = np.concatenate([statistic(weights) for weights in _resampled_weights(case_index, bootstrap)])
        low, high = (_nanquantile(drawn, q) for q in _tails(bootstrap))
    return _scores(names, value, low, high, n, basis)


def _calibration(
    probabilities: np.ndarray,
    true: np.ndarray,
    case_index: np.ndarray,
    names: list[str],
    n: list[int],
    bootstrap: Bootstrap | None,
) -> dict[str, Score]:
    """The calibration error of the mean and of every class, with the interval that is told at the top."""
    classes = [BinnedGaps.of(p, t, case_index) for p, t in zip(probabilities.T, true.T, strict=True)]
    return _calibration_scores(classes, names, n, bootstrap)


def mask_calibration_scores(
    gaps: np.ndarray, case_index: np.ndarray, class_names: Sequence[str], bootstrap: Bootstrap | None = None
) -> dict[str, Score]:
    """`mask_calibration_error` of the mean and of every foreground class.

    Args:
        gaps: (N, S - 1, BINS, 2) of every row and foreground class, the pixels whose probability lies in a bin: the sum of
            probability - truth, and their number.
        case_index: (N,) integers, equal for images of one case.
        class_names: S names, background first.
        bootstrap: how intervals are made; None makes none.
    """
    cases, inverse = np.unique(case_index, return_inverse=True)
    sums = np.zeros((len(cases), *gaps.shape[1:]))
    np.add.at(sums, inverse, gaps)
    classes = [BinnedGaps(of_class[..., 0], of_class[..., 1]) for of_class in np.moveaxis(sums, 1, 0)]
    annotated = gaps[..., 1].any(axis=2)
    n = [int(annotated.any(axis=1).sum()), *annotated.sum(axis=0).tolist()]
    return _calibration_scores(classes, _named("mask_calibration_error", class_names[1:]), n, bootstrap)


def _calibration_scores(
    classes: Sequence[BinnedGaps], names: list[str], n: list[int], bootstrap: Bootstrap | None
) -> dict[str, Score]:
    cases = np.array([one.cases for one in classes], dtype=int)
    columns = np.flatnonzero(cases)
    basis = _with_fewest(cases, columns)

    def statistic(method: Callable[[BinnedGaps, np.ndarray], np.ndarray], weights: np.ndarray) -> np.ndarray:
        errors = np.column_stack([method(one, weights) for one in classes])
        return np.column_stack([_mean(errors[:, columns]), errors])

    all_cases = np.arange(len(classes[0].gaps))
    once = np.ones((1, len(all_cases)))
    value, plug_in = (statistic(method, once)[0] for method in (BinnedGaps.debiased, BinnedGaps.plug_in))
    low = high = np.full(len(value), np.nan)
    if _has_intervals(basis, bootstrap):
        weights = list(_resampled_weights(all_cases, bootstrap))
        debiased, noise = (
            np.concatenate([statistic(method, some) for some in weights])
            for method in (BinnedGaps.debiased, BinnedGaps.noise)
        )
        lower_tail, upper_tail = _tails(bootstrap)
        low = np.clip(plug_in - _nanquantile(noise, upper_tail), 0, value)
        high = np.clip(value + plug_in - _nanquantile(debiased, lower_tail), value, 1)
    return _scores(names, value, low, high, n, basis)


def _has_intervals(basis: list[int], bootstrap: Bootstrap | None) -> bool:
    return bootstrap is not None and bootstrap.samples > 0 and max(basis) >= FEWEST_CASES


def _tails(bootstrap: Bootstrap) -> tuple[float, float]:
    """Lower and upper quantile between which the interval's share of the samples lies."""
    tail = (1 - bootstrap.level) / 2
    return tail, 1 - tail


def _scores(
    names: list[str], value: np.ndarray, low: np.ndarray, high: np.ndarray, n: list[int], basis: list[int]
) -> dict[str, Score]:
    """`Score` by name; no interval where it would rest on too few cases, or have no width."""
    kept = (np.array(basis) >= FEWEST_CASES) & (high - low > _NO_WIDTH)
    columns = [value, np.where(kept, low, np.nan), np.where(kept, high, np.nan)]
    rows = zip(names, *(column.tolist() for column in columns), n, strict=False)
    return {name: Score(*row) for name, *row in rows}


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
