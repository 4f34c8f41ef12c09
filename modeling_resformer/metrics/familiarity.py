"""A normal distribution of features with a few principal components: probabilistic PCA (Tipping and Bishop 1999)."""

from dataclasses import dataclass

import numpy as np


MOST_COMPONENTS = 32
LEAST_NOISE = 1e-6  # of the mean variance: rows that came twice leave none, and float32 carries no less


@dataclass(frozen=True)
class FeatureDistribution:
    """Of features of C numbers.

    Attributes:
        mean: (C,).
        components: (R, C) orthonormal.
        variances: (R,) along them.
        noise: variance in every other direction.
    """

    mean: np.ndarray
    components: np.ndarray
    variances: np.ndarray
    noise: float


def fit_features(features: np.ndarray, most: int = MOST_COMPONENTS) -> FeatureDistribution:
    """The most likely distribution of (N, C) features with `most` components, or as many as the data carry.

    Raises:
        ValueError: fewer than three rows, or features that do not vary.
    """
    rows, size = features.shape
    rank = min(most, rows - 2, size - 1)
    mean = features.mean(axis=0)
    _, singular, directions = np.linalg.svd(features - mean, full_matrices=False)
    variances = singular**2 / max(1, rows - 1)
    noise = variances[max(rank, 0) :].sum() / (size - rank) if rank > 0 else 0.0
    noise = max(noise, LEAST_NOISE * variances.sum() / size)
    if not noise > 0:
        raise ValueError(f"{rows} rows of {size} features do not vary enough to tell what is unlike them.")
    return FeatureDistribution(mean, directions[:rank], np.maximum(variances[:rank], noise), float(noise))
