"""Decision thresholds of image-level classes, chosen where the truth may be looked at: on validation data, never on test.

The score that is maximised is balanced accuracy, (sensitivity + specificity) / 2, each class on its own. It does not
depend on how common the class is, so the choice carries over to data of another prevalence, and it cannot be won by
always deciding for the common side; F1 can move with prevalence alone.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from ..configuration_resformer import DEFAULT_THRESHOLD


FEW = 10  # rows with or without a class, below which its threshold is hardly more than a guess

logger = logging.getLogger(__name__)


def choose_thresholds(
    probabilities: np.ndarray, true: np.ndarray, class_names: Sequence[str], sensitivity: float | None = None
) -> list[float]:
    """The threshold of each class with the highest balanced accuracy, "present" being probability >= threshold.

    With a `sensitivity` it is instead the highest threshold that finds this share of the rows that have the class.

    Tried are 0.5 and the middles between neighbouring probabilities; of equally good ones the nearest to 0.5 wins. A
    class that never or always occurs keeps 0.5, with a warning; one with few rows on either side gets a warning too.

    Args:
        probabilities: (N, K) in [0, 1].
        true: (N, K) floats, 1 present, 0 absent; anything else is unknown and left out.
        class_names: K names, for the warning.
        sensitivity: in (0, 1], to be reached on these rows; what it is on others, evaluation tells.

    Returns:
        K thresholds in [0, 1].
    """
    thresholds = []
    for p, t, name in zip(probabilities.T, true.T, class_names, strict=True):
        positive, negative = np.sort(p[t == 1]), np.sort(p[t == 0])
        if not len(positive) or not len(negative):
            logger.warning(
                "The threshold of %s stays at %s: %d rows have the class and %d do not; choosing needs both.",
                *(name, DEFAULT_THRESHOLD, len(positive), len(negative)),
            )
            thresholds.append(DEFAULT_THRESHOLD)
        else:
            if min(len(positive), len(negative)) < FEW:
                logger.warning(
                    "The threshold of %s rests on %d rows that have the class and %d that do not; with fewer than %d of "
                    "either it is hardly more than a guess.",
                    *(name, len(positive), len(negative), FEW),
                )
            found = _best_threshold(positive, negative)
            thresholds.append(found if sensitivity is None else _threshold_at(positive, negative, sensitivity))
    return thresholds


def measured_elsewhere(thresholds: Mapping[str, float], measured: Mapping[str, float]) -> list[str]:
    """The classes whose results were measured at another threshold than the model decides by, or at one and it at none.

    Args:
        thresholds: of the model, by class; empty where the highest score decides.
        measured: `thresholds` of results.json, by class.
    """
    names = dict.fromkeys([*thresholds, *measured])
    return [
        name
        for name in names
        if name not in thresholds or name not in measured or abs(thresholds[name] - measured[name]) > 1e-9
    ]


def mean_thresholds(of_models: Sequence[Sequence[float]]) -> list[float]:
    """K thresholds for the mean of what several models say: the means of theirs.

    Args:
        of_models: of every model its K thresholds.
    """
    return [fmean(of_class) for of_class in zip(*of_models, strict=True)]


def _threshold_at(positive: np.ndarray, negative: np.ndarray, sensitivity: float) -> float:
    """From sorted probabilities, the middle between the last that must be found and the next lower one of any row."""
    needed = max(1, math.ceil(sensitivity * len(positive) - 1e-9))
    last = positive[len(positive) - needed]
    lower = np.concatenate([positive, negative])
    lower = lower[lower < last]
    return float((last + lower.max()) / 2) if len(lower) else float(last)


def _best_threshold(positive: np.ndarray, negative: np.ndarray) -> float:
    """From the sorted probabilities of the rows with and without a class: the best of 0.5 and all middles between two."""
    values = np.unique(np.concatenate([positive, negative]))
    candidates = np.append((values[:-1] + values[1:]) / 2, DEFAULT_THRESHOLD)
    sensitivity = 1 - np.searchsorted(positive, candidates) / len(positive)
    specificity = np.searchsorted(negative, candidates) / len(negative)
    score = sensitivity + specificity
    # Sums of fractions that are equal on paper may differ in the last bit.
    best = candidates[score >= score.max() - 1e-9]
    return float(best[np.abs(best - DEFAULT_THRESHOLD).argmin()])
