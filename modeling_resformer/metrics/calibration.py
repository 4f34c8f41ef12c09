"""How far predicted probabilities lie from how often a class occurs: reliability bins and the calibration error.

The expected calibration error of one class over bins b is sum |S_b| / n, where S_b is the sum of (probability - truth) over
the rows of a bin. Put in as it is (plug-in), it is too large: chance moves S_b away from 0 even where the probabilities are
right, most in small samples (Bröcker 2012; Kumar, Liang and Ma 2019). So every |S_b| is corrected by its own estimate of that:
2 |S_b| - E|Normal(S_b, V_b)|, the estimator of Kumar et al. for the absolute error, with V_b from the spread of whole cases.
"""

from dataclasses import dataclass

import numpy as np
import torch


BINS = 10


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


def reliability(probabilities: np.ndarray, true: np.ndarray, bins: int = BINS) -> list[ReliabilityBin]:
    """What a reliability diagram shows of one class, in the bins of the calibration error.

    Args:
        probabilities: (N,) in [0, 1].
        true: (N,) 1 or 0; other values are unknown and left out.
        bins: number of bins of equal width.
    """
    known = (true == 1) | (true == 0)
    inside = _inside(probabilities[known], bins).T
    n = inside.sum(axis=1)
    columns = (n, _ratio(inside @ probabilities[known], n), _ratio(inside @ true[known].astype(np.float64), n))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [ReliabilityBin(i / bins, (i + 1) / bins, *row) for i, row in enumerate(rows)]


@dataclass(frozen=True)
class BinnedGaps:
    """One class's calibration, summed over the rows of each of C cases and each of B bins.

    Attributes:
        gaps: (C, B) sums of probability - truth.
        rows: (C, B) numbers of rows.
    """

    gaps: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(
        cls, probabilities: np.ndarray, true: np.ndarray, case_index: np.ndarray | None = None, bins: int = BINS
    ) -> "BinnedGaps":
        """Sum the rows of each case.

        Args:
            probabilities: (N,) in [0, 1].
            true: (N,) 1 or 0; other values are unknown and left out.
            case_index: (N,) integers, equal for rows of one case; None takes every row for a case.
            bins: number of bins of equal width.
        """
        cases = np.arange(len(true)) if case_index is None else np.unique(case_index, return_inverse=True)[1]
        known = (true == 1) | (true == 0)
        inside = _inside(probabilities[known], bins).astype(np.float64)
        gaps, rows = (np.zeros((cases.max(initial=-1) + 1, bins)) for _ in range(2))
        np.add.at(gaps, cases[known], (probabilities[known] - true[known])[:, None] * inside)
        np.add.at(rows, cases[known], inside)
        return cls(gaps, rows)

    @property
    def cases(self) -> int:
        """Number of cases with a known row."""
        return int(self.rows.any(axis=1).sum())

    def plug_in(self, weights: np.ndarray) -> np.ndarray:
        """(R,) expected calibration errors as they are (Naeini et al. 2015), for (R, C) weights of the cases."""
        return _ratio(np.abs(weights @ self.gaps).sum(axis=1), (weights @ self.rows).sum(axis=1))

    def debiased(self, weights: np.ndarray) -> np.ndarray:
        """(R,) expected calibration errors without the part that chance adds, at least 0; NaN where nothing is known."""
        sums, rows, cases = weights @ self.gaps, weights @ self.rows, weights @ (self.rows > 0)
        mean = _ratio(sums, rows, 0.0)
        variance = weights @ self.gaps**2 - 2 * mean * (weights @ (self.gaps * self.rows))
        variance = np.maximum(variance + mean**2 * (weights @ self.rows**2), 0) * _ratio(cases, cases - 1, 1.0)
        # One case says nothing of its own spread: all of its distance may be chance.
        variance = np.where(cases == 1, sums**2, variance)
        corrected = 2 * np.abs(sums) - _mean_absolute_normal(np.abs(sums), np.sqrt(variance))
        return np.maximum(_ratio(corrected.sum(axis=1), rows.sum(axis=1)), 0)

    def noise(self, weights: np.ndarray) -> np.ndarray:
        """(R,) distances that chance alone moved resampled bins from those of the sample, in units of the error.

        The plug-in error cannot lie further above the true error than this for a sample of its own (triangle inequality).
        """
        sums, rows, cases = self.gaps.sum(axis=0), self.rows.sum(axis=0), (self.rows > 0).sum(axis=0)
        moved = np.abs(weights @ self.gaps - _ratio(sums, rows, 0.0) * (weights @ self.rows))
        moved = moved * np.sqrt(_ratio(cases, cases - 1, 1.0))
        moved = np.where(cases == 1, np.abs(weights @ self.gaps), moved)
        return _ratio(moved.sum(axis=1), (weights @ self.rows).sum(axis=1))


def _inside(probabilities: np.ndarray, bins: int) -> np.ndarray:
    """(N, bins) whether a probability falls into a bin."""
    return np.minimum((probabilities * bins).astype(int), bins - 1)[:, None] == np.arange(bins)


def _ratio(above: np.ndarray, below: np.ndarray, empty: float = np.nan) -> np.ndarray:
    """above / below; `empty` where below is not positive."""
    above, below = np.broadcast_arrays(above, below)
    return np.divide(above, below, out=np.full(below.shape, empty, dtype=np.float64), where=below > 0)


def _mean_absolute_normal(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """E|X| of a normal X with a mean >= 0 (folded normal distribution; Leone, Nelson and Nottingham 1961)."""
    z = _ratio(mean, deviation, np.inf)
    folded = deviation * np.sqrt(2 / np.pi) * np.exp(-(np.minimum(z, 40.0) ** 2) / 2) + mean * (
        2 * torch.special.ndtr(torch.from_numpy(z)).numpy() - 1
    )
    return np.where(deviation > 0, folded, mean)
