"""What it is worth to leave the least confident answers to somebody else: risk over coverage (El-Yaniv and Wiener 2010)."""

import numpy as np


def risk_coverage(confidence: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean error of the answers that are kept, against the share that is kept, from the most confident one on.

    Args:
        confidence: (N,), of which higher ones are kept first; of equal ones, which stand in for each other, the mean error.
        errors: (N,) numbers.

    Returns:
        Coverage and risk, both (N,); the last are 1 and the mean error of all.
    """
    ordered = _ordered(confidence, errors)
    kept = np.arange(1, len(ordered) + 1)
    return kept / len(ordered), np.cumsum(ordered) / kept


def area_under_risk(confidence: np.ndarray, errors: np.ndarray) -> float:
    """The mean risk over all coverages (AURC; Geifman and El-Yaniv 2019), lower is better."""
    return float(risk_coverage(confidence, errors)[1].mean())


def errors_refused(confidence: np.ndarray, errors: np.ndarray, share: float) -> float:
    """Which share of the sum of errors goes with the least confident `share` of the answers; NaN without errors."""
    ordered = _ordered(confidence, errors)
    refused = round(share * len(ordered))
    total = ordered.sum()
    return float(ordered[len(ordered) - refused :].sum() / total) if total else float("nan")


def _ordered(confidence: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """(N,) errors, the most confident answer's first; equally confident ones share theirs."""
    levels, inverse = np.unique(-np.asarray(confidence), return_inverse=True)
    means = np.bincount(inverse, weights=errors) / np.bincount(inverse, minlength=len(levels))
    return means[np.sort(inverse)]
