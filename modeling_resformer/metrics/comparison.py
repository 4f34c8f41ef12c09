"""Models compared on the same cases: means over seeds with intervals over cases, paired tests, Holm's correction.

Cases (patients, volumes, images) are drawn with replacement, the same for every model and seed, so that what makes a case easy
or hard cancels out of a difference. The test is the bootstrap's of Efron and Tibshirani (1993, chapter 16): the share of drawn
differences that lie as far from the observed one as that lies from 0, two-sided. Models compared with one and the same are
corrected by Holm (1979), which keeps the chance of any false alarm below the level whatever the tests' dependence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .scores import FEWEST_CASES, Bootstrap, Statistic, resampled_cases


NO_WIDTH = 1e-9  # of an interval; equal samples differ by as much as rounding


@dataclass(frozen=True)
class SeedMean:
    """A score of several seeds of one model.

    Attributes:
        value: mean over the seeds.
        std: standard deviation over them (n - 1); NaN for one.
        low, high: interval of the mean over the cases, the seeds fixed; NaN below `FEWEST_CASES` cases, and without width.
        drawn: (R,) the mean over the seeds for every drawn sample of cases; empty where there is no interval.
    """

    value: float
    std: float
    low: float
    high: float
    drawn: np.ndarray


@dataclass(frozen=True)
class Difference:
    """A model less another on the same cases.

    Attributes:
        value: of the means over seeds.
        low, high: its interval; NaN where there is none.
        p: that of the paired test; NaN likewise.
    """

    value: float
    low: float
    high: float
    p: float


def seed_mean(seeds: Sequence[Statistic], cases: int, bootstrap: Bootstrap) -> SeedMean:
    """A score of several seeds of one model on the same cases.

    Args:
        seeds: of each the function that gives the score for weights of the cases.
        cases: their number.
        bootstrap: how cases are drawn.
    """
    values = np.array([statistic(np.ones((1, cases)))[0] for statistic in seeds])
    std = float(values.std(ddof=1)) if len(values) > 1 else np.nan
    if cases < FEWEST_CASES or not bootstrap.samples:
        return SeedMean(float(values.mean()), std, np.nan, np.nan, np.empty(0))
    weights = resampled_cases(cases, bootstrap).astype(np.float64)
    drawn = np.mean([statistic(weights) for statistic in seeds], axis=0)
    low, high = _interval(drawn, bootstrap)
    if not high - low > NO_WIDTH:  # what all samples agree on would look like certainty
        low = high = np.nan
    return SeedMean(float(values.mean()), std, low, high, drawn)


def difference(of: SeedMean, reference: SeedMean, bootstrap: Bootstrap) -> Difference:
    """How far a model lies from a reference, and how easily chance in the cases makes as much."""
    value = of.value - reference.value
    if not len(of.drawn) or not len(reference.drawn):
        return Difference(value, np.nan, np.nan, np.nan)
    drawn = of.drawn - reference.drawn
    known = drawn[~np.isnan(drawn)]
    if np.isnan(value) or not len(known):
        return Difference(value, np.nan, np.nan, np.nan)
    as_far = np.abs(known - known.mean()) >= abs(value) - 1e-12
    return Difference(value, *_interval(drawn, bootstrap), float((1 + as_far.sum()) / (1 + len(known))))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p-values of several tests, corrected; those that are NaN stay so and do not count."""
    known = sorted((name for name, value in p.items() if not np.isnan(value)), key=lambda name: p[name])
    corrected, highest = dict(p), 0.0
    for rank, name in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p[name]))
        corrected[name] = highest
    return corrected


def _interval(drawn: np.ndarray, bootstrap: Bootstrap) -> tuple[float, float]:
    known, tail = drawn[~np.isnan(drawn)], (1 - bootstrap.level) / 2
    if not len(known):
        return np.nan, np.nan
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)
