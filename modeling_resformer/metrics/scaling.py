"""Calibration of class scores and masks: how logits are moved so that probabilities come true, fitted on validation data.

Three forms for image-level classes, from their logits z, of which cross-fitting picks one:

- as they are;
- `scale`: a z, the inverse of a temperature (Guo et al. 2017); one `a` a class, one for all where classes exclude each other;
- `scale and shift`: a z + b for each class (Platt 1999; vector scaling of Guo et al. where classes exclude each other). The
  shift undoes what weighted losses do to the scores of rare classes.

Mask logits get one temperature.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F


FEW = 10  # rows with or without a class, below which its scaling is not fitted
FOLDS = 5
RIDGE = 1e-3  # of a sum over rows: keeps separable data finite and moves nothing else
LEAST_SCALE = 1e-3


@dataclass(frozen=True)
class Scaling:
    """What is made of logits (N, K): scale * z + shift, both (K,)."""

    scale: np.ndarray
    shift: np.ndarray

    @classmethod
    def identity(cls, classes: int) -> "Scaling":
        return cls(np.ones(classes), np.zeros(classes))

    @classmethod
    def of(cls, scale: Sequence[float] | None, shift: Sequence[float] | None, classes: int) -> "Scaling":
        """That of a config, in which 1 and 0 may be left out."""
        plain = cls.identity(classes)
        return cls(
            plain.scale if scale is None else np.array(scale, np.float64),
            plain.shift if shift is None else np.array(shift, np.float64),
        )

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        return logits * self.scale + self.shift


def moved_thresholds(thresholds: Sequence[float], former: Scaling, now: Scaling) -> list[float]:
    """Thresholds on sigmoids of the scaled logits that decide as those of the `former` scaling did.

    Args:
        thresholds: K in [0, 1]; 0 and 1 stay.
        former, now: scalings of K classes, scales above 0.
    """
    with np.errstate(divide="ignore"):
        share = np.array(thresholds, np.float64)
        logits = np.log(share) - np.log1p(-share)
        return (1 / (1 + np.exp(-now((logits - former.shift) / former.scale)))).tolist()


def fit_scaling(logits: np.ndarray, true: np.ndarray, exclusive: bool, shifted: bool) -> Scaling:
    """The scaling with the least negative log likelihood.

    Args:
        logits: (N, K) of image-level classes.
        true: (N, K) 1 present, 0 absent; anything else is unknown and left out. Where classes exclude each other, rows
            without a present class are.
        exclusive: whether the scores are a softmax.
        shifted: whether there is a shift; it stays 0 in the mean over classes that exclude each other.

    Returns:
        Finite numbers, scales above 0; 1 and 0 for a class with fewer than `FEW` rows that have it or that do not. Where
        classes exclude each other there is no shift unless each has `FEW` rows: one that is never there would be ruled out.
    """
    if exclusive:
        return _fit_softmax(logits, true, shifted)
    columns = [_fit_sigmoid(z, t, shifted) for z, t in zip(logits.T, true.T, strict=True)]
    return Scaling(*np.array(columns, dtype=np.float64).T)


def negative_log_likelihood(logits: np.ndarray, true: np.ndarray, exclusive: bool) -> float:
    """The mean over known entries or, where classes exclude each other, over rows with a present class; NaN without any."""
    z, t = torch.from_numpy(np.asarray(logits, np.float64)), torch.from_numpy(np.asarray(true, np.float64))
    if exclusive:
        rows = (t == 1).any(dim=1)
        return float(F.cross_entropy(z[rows], t[rows].argmax(dim=1)))
    known = (t == 0) | (t == 1)
    return float(F.binary_cross_entropy_with_logits(z[known], t[known]))


def choose_scaling(
    logits: np.ndarray, true: np.ndarray, case_index: np.ndarray, exclusive: bool
) -> tuple[str, Scaling, dict[str, float]]:
    """The form with the least cross-fitted negative log likelihood, fitted to all rows; simpler ones win ties.

    Args:
        logits, true, exclusive: as `fit_scaling` has them.
        case_index: (N,) integers; rows of one case are never split between fitting and judging.

    Returns:
        The name of the form, its scaling, and the cross-fitted negative log likelihood of every form.
    """
    forms = {"none": None, "scale": False, "scale and shift": True}
    judged = {name: _cross_fitted(logits, true, case_index, exclusive, shifted) for name, shifted in forms.items()}
    best = min(judged, key=lambda name: judged[name])
    return best, _fit(logits, true, exclusive, forms[best]), judged


def _fit(logits: np.ndarray, true: np.ndarray, exclusive: bool, shifted: bool | None) -> Scaling:
    if shifted is None:
        return Scaling.identity(logits.shape[1])
    return fit_scaling(logits, true, exclusive, shifted)


def _cross_fitted(
    logits: np.ndarray, true: np.ndarray, case_index: np.ndarray, exclusive: bool, shifted: bool | None
) -> float:
    moved = np.array(logits, dtype=np.float64)
    for held_out in _folds(case_index):
        moved[held_out] = _fit(logits[~held_out], true[~held_out], exclusive, shifted)(logits[held_out])
    return negative_log_likelihood(moved, true, exclusive)


def _folds(case_index: np.ndarray) -> Iterator[np.ndarray]:
    """(N,) booleans of the rows that are held out of each fold; whole cases, dealt out by a fixed seed."""
    cases, inverse = np.unique(case_index, return_inverse=True)
    dealt = np.random.default_rng(0).permutation(len(cases)) % FOLDS
    for fold in range(min(FOLDS, len(cases))):
        yield dealt[inverse] == fold


def _fit_sigmoid(logits: np.ndarray, true: np.ndarray, shifted: bool) -> tuple[float, float]:
    """Scale and shift of one class, from (N,) logits."""
    known = (true == 0) | (true == 1)
    if min((true[known] == 1).sum(), (true[known] == 0).sum()) < FEW:
        return 1.0, 0.0
    z, t = torch.from_numpy(logits[known].astype(np.float64)), torch.from_numpy(true[known].astype(np.float64))

    def loss(parameters: torch.Tensor) -> torch.Tensor:
        scale, shift = parameters
        return F.binary_cross_entropy_with_logits(scale * z + shift, t, reduction="sum")

    scale, shift = _minimised(loss, [1.0, 0.0], [True, shifted])
    return max(LEAST_SCALE, scale), shift


def _fit_softmax(logits: np.ndarray, true: np.ndarray, shifted: bool) -> Scaling:
    classes = logits.shape[1]
    rows = (true == 1).any(axis=1)
    if rows.sum() < FEW:
        return Scaling.identity(classes)
    z = torch.from_numpy(logits[rows].astype(np.float64))
    t = torch.from_numpy(true[rows].argmax(axis=1))
    shifted = shifted and int(torch.bincount(t, minlength=classes).min()) >= FEW

    def loss(parameters: torch.Tensor) -> torch.Tensor:
        shift = parameters[1:] - parameters[1:].mean()
        return F.cross_entropy(parameters[0] * z + shift, t, reduction="sum")

    scale, *shift = _minimised(loss, [1.0] + [0.0] * classes, [True] + [shifted] * classes)
    return Scaling(np.full(classes, max(LEAST_SCALE, scale)), np.array(shift) - np.mean(shift))


def _minimised(
    loss: Callable[[torch.Tensor], torch.Tensor], start: Sequence[float], free: Sequence[bool]
) -> list[float]:
    """The parameters of the least loss, those that are not free as they start."""
    origin = torch.tensor(start, dtype=torch.float64)
    mask = torch.tensor(free)
    moved = torch.zeros(len(start), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([moved], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        shifted = origin + torch.where(mask, moved, 0.0)
        value = loss(shifted) + RIDGE * (moved**2).sum()
        value.backward()
        return value

    optimizer.step(closure)
    return (origin + torch.where(mask, moved.detach(), 0.0)).tolist()


def fit_logistic(signals: np.ndarray, right: np.ndarray) -> list[float]:
    """Constant and weights of the log odds of being right, (N, M) signals and (N,) 1 or 0: a logistic regression."""
    x, y = torch.from_numpy(signals), torch.from_numpy(right)

    def loss(parameters: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(parameters[0] + x @ parameters[1:], y, reduction="sum")

    return _minimised(loss, [0.0] * (1 + signals.shape[1]), [True] * (1 + signals.shape[1]))


# Temperatures that are tried for masks; between the best and its neighbours a parabola tells the rest.
TEMPERATURES = tuple(float(t) for t in np.exp(np.linspace(np.log(0.25), np.log(8.0), 36)))


def pixel_losses_by_temperature(logits: torch.Tensor, labels: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """(T + 1,) sums of the cross-entropy of pixels at each of `TEMPERATURES`, and the number of labelled pixels.

    Args:
        logits: (B, S, h, w).
        labels: (B, h, w) integers in 0..S-1 or `ignore_index`.
        ignore_index: value of pixels that nobody annotated.
    """
    flat, truth = logits.float().movedim(1, -1).flatten(0, 2), labels.flatten()
    known = truth != ignore_index
    flat, truth = flat[known], truth[known].long()
    sums = [F.cross_entropy(flat / t, truth, reduction="sum") for t in TEMPERATURES]
    return torch.stack([*sums, known.sum().float()])


def best_temperature(losses: Sequence[float]) -> float:
    """The temperature of the least loss, from those at `TEMPERATURES`.

    Args:
        losses: one a temperature, as `pixel_losses_by_temperature` sums them.
    """
    log, values = np.log(TEMPERATURES), np.asarray(losses, np.float64)
    i = int(values.argmin())
    if 0 < i < len(log) - 1:
        second, first, _ = np.polyfit(log[i - 1 : i + 2] - log[i], values[i - 1 : i + 2], 2)
        return float(np.exp(log[i] - first / (2 * second)))
    return float(TEMPERATURES[i])
