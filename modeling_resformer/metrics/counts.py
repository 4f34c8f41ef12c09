"""Counts of agreement between prediction and truth: what every score is computed from, and all that evaluation keeps.

Counts can be added over slices, batches and processes; scores cannot. Nothing here knows a framework or a class name.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch


ArrayLike = np.ndarray | torch.Tensor

# Pixels compared at once: what is held per pixel, some forty bytes, would fill gigabytes for masks as a camera takes them.
_MAX_PIXELS = 2**22


class Counts(NamedTuple):
    """True and false positives and negatives, four int64 arrays of one shape, the classes on the last axis.

    All four are zero where nothing was annotated: such an entry takes part in no score.
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    tn: np.ndarray

    @property
    def annotated(self) -> np.ndarray:
        """Number of annotated pixels (masks) or entries (labels) behind each count, of the same shape."""
        return self.tp + self.fp + self.fn + self.tn

    def take(self, rows: np.ndarray) -> "Counts":
        """The counts of some rows of the first axis, by index or boolean mask."""
        return Counts(*(part[rows] for part in self))

    @classmethod
    def join(cls, parts: Sequence["Counts"]) -> "Counts":
        """The counts of several lots of rows, one after the other."""
        return cls(*map(np.concatenate, zip(*parts, strict=True)))


def mask_counts(predicted: ArrayLike, true: ArrayLike, num_classes: int, ignore_index: int = 255) -> Counts:
    """Counts per image and class from two index masks, each class against all others.

    Args:
        predicted: (B, H, W) integers in [0, num_classes).
        true: (B, H, W) integers in [0, num_classes) or `ignore_index`; ignored pixels count nowhere.
        num_classes: S, background included.
        ignore_index: value of pixels that nobody annotated.

    Returns:
        `Counts` of shape (B, S), in pixels, computed on the device the masks are on.

    Raises:
        ValueError: the shapes differ, or a mask holds a value outside the classes.
    """
    predicted, true = torch.as_tensor(predicted), torch.as_tensor(true)
    if predicted.shape != true.shape or predicted.ndim != 3:
        raise ValueError(
            f"The predicted mask has shape {tuple(predicted.shape)}, the true mask {tuple(true.shape)}; both must be "
            "(B, H, W) and equal. Resize the logits to the mask before taking the argmax."
        )
    strips = max(1, -(-true.numel() // _MAX_PIXELS))
    rows = max(1, -(-true.shape[1] // strips))
    confusion = np.zeros((len(true), num_classes, num_classes), dtype=np.int64)
    for part in zip(predicted.split(rows, dim=1), true.split(rows, dim=1), strict=True):
        confusion += _confusion(*part, num_classes, ignore_index)
    return _counts_from_confusion(confusion)


def label_counts(predicted: ArrayLike, true: ArrayLike) -> Counts:
    """Counts of decisions on image-level classes, one entry per row and class.

    Args:
        predicted: (N, K) decisions, true where the class is said to be present.
        true: (N, K) floats, 1 present, 0 absent, negative or NaN unknown; unknown entries count nowhere.

    Returns:
        `Counts` of shape (N, K), each entry 0 or 1; sum over the first axis for per-class counts.

    Raises:
        ValueError: the shapes differ.
    """
    predicted, true = np.asarray(predicted, dtype=bool), np.asarray(true, dtype=np.float64)
    if predicted.shape != true.shape:
        raise ValueError(f"The decisions have shape {predicted.shape}, the truth {true.shape}; both must be (N, K).")
    present, absent = true == 1, true == 0
    parts = (predicted & present, predicted & absent, ~predicted & present, ~predicted & absent)
    return Counts(*(part.astype(np.int64) for part in parts))


def sum_by_case(counts: Counts, case_index: np.ndarray) -> tuple[Counts, np.ndarray]:
    """Add up the counts of all rows of a case, e.g. of all slices of a volume.

    Args:
        counts: `Counts` of shape (N, S).
        case_index: (N,) integers, equal for rows of one case.

    Returns:
        `Counts` of shape (C, S) and the (C,) case indices they belong to, ascending.
    """
    cases, inverse = np.unique(case_index, return_inverse=True)
    sums = []
    for part in counts:
        total = np.zeros((len(cases), part.shape[1]), dtype=part.dtype)
        np.add.at(total, inverse, part)
        sums.append(total)
    return Counts(*sums), cases


def _confusion(predicted: torch.Tensor, true: torch.Tensor, num_classes: int, ignore_index: int) -> np.ndarray:
    """(B, S true, S predicted) pixel counts of index masks (B, H, W)."""
    predicted, true = predicted.long(), true.long()
    valid = true != ignore_index
    for name, mask in (("predicted", predicted[valid]), ("true", true[valid])):
        if mask.numel() and not 0 <= int(mask.min()) <= int(mask.max()) < num_classes:
            raise ValueError(
                f"The {name} mask holds values {int(mask.min())}..{int(mask.max())}; expected 0..{num_classes - 1}"
                f" or the ignore index {ignore_index}. Store class indices, not grey levels."
            )
    image = torch.arange(len(true), device=true.device)[:, None, None].expand_as(true)
    cell = (image * num_classes + true) * num_classes + predicted
    counts = torch.bincount(cell[valid], minlength=len(true) * num_classes**2)
    return counts.view(len(true), num_classes, num_classes).cpu().numpy()


def _counts_from_confusion(confusion: np.ndarray) -> Counts:
    """(B, S true, S predicted) pixel counts -> one-against-rest `Counts` (B, S)."""
    tp = np.diagonal(confusion, axis1=1, axis2=2).copy()
    fp = confusion.sum(axis=1) - tp
    fn = confusion.sum(axis=2) - tp
    tn = confusion.sum(axis=(1, 2))[:, None] - tp - fp - fn
    return Counts(tp, fp, fn, tn)
