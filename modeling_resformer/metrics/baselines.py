"""Predictions that need no learning, as the yardstick beside every segmentation result.

A network that does not beat these on the same images has learned nothing worth the name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .counts import Counts, mask_counts


@dataclass(frozen=True)
class TrainingMasks:
    """What the training masks alone tell.

    Attributes:
        frequency: (S, G, G), the share of each class at each place of a square.
        ignore_index: value of pixels that nobody annotated.
    """

    frequency: np.ndarray
    ignore_index: int = 255

    @property
    def most_common_foreground(self) -> int:
        """The foreground class with the largest area."""
        return 1 + int(self.frequency[1:].sum(axis=(1, 2)).argmax())

    def mean_mask(self, height: int, width: int) -> np.ndarray:
        """(height, width) index mask of the most frequent class at each place: frequency >= 0.5 for one lesion class."""
        planes = [
            Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR) for plane in self.frequency
        ]
        # Counted from the last class, so that a tie goes to the foreground.
        return len(planes) - 1 - np.stack(planes)[::-1].argmax(axis=0)


def summarise_training_masks(
    masks: Iterable[Image.Image], num_classes: int, ignore_index: int = 255, grid: int = 128
) -> TrainingMasks:
    """Average the training masks on a grid x grid square, whatever their sizes; memory does not grow with their number.

    Args:
        masks: index masks (H, W) of the training split.
        num_classes: S, background included.
        ignore_index: value of pixels that nobody annotated; they count nowhere.
        grid: side of the square, in pixels.
    """
    total = np.zeros((num_classes, grid, grid), dtype=np.float64)
    for mask in masks:
        small = np.asarray(mask.resize((grid, grid), Image.Resampling.NEAREST))
        total += np.where(small == ignore_index, False, small == np.arange(num_classes)[:, None, None])
    return TrainingMasks((total / np.maximum(total.sum(axis=0), 1)).astype(np.float32), ignore_index)


def otsu_threshold(grey: np.ndarray) -> float:
    """The grey level that splits an image into two classes of largest between-class variance (Otsu 1979).

    Args:
        grey: any array of grey levels.

    Returns:
        The upper edge of the last of 256 bins of the dark class; the only grey level there is, in a uniform image.
    """
    histogram, edges = np.histogram(grey, bins=256)
    share = histogram / histogram.sum()
    moment = share * (edges[:-1] + edges[1:]) / 2
    dark, dark_moment = np.cumsum(share)[:-1], np.cumsum(moment)[:-1]
    spread = dark * (1 - dark)
    variance = np.zeros_like(spread)
    np.divide((moment.sum() * dark - dark_moment) ** 2, spread, out=variance, where=spread > 0)
    return float(edges[1:-1][variance.argmax()]) if variance.any() else float(np.max(grey))


def otsu_mask(image: Image.Image) -> np.ndarray:
    """(H, W) index mask, 1 where the image is darker than its Otsu threshold: a lesion is darker than the skin."""
    pixels = np.asarray(image, dtype=np.float64)
    # ITU-R 601 luma; computed here because Pillow's conversion to grey clips 16-bit images.
    grey = pixels[..., :3] @ [0.299, 0.587, 0.114] if pixels.ndim == 3 else pixels
    return (grey <= otsu_threshold(grey)).astype(np.int64)


def baseline_counts(row: Mapping[str, Any], training: TrainingMasks) -> dict[str, Counts]:
    """Counts of every baseline on one row, at the same resolution as the model.

    Args:
        row: with `image` and `mask` (None where unlabelled); a `raw_mask` takes the place of the mask.
        training: what the training masks tell.

    Returns:
        `Counts` (1, S) by baseline. `otsu_threshold` only where there is one foreground class to find.
    """
    true = row.get("raw_mask") or row["mask"] or Image.new("L", row["image"].size, training.ignore_index)
    true, num_classes = np.asarray(true, dtype=np.int64), len(training.frequency)
    return {
        name: mask_counts(predicted[None], true[None], num_classes, training.ignore_index)
        for name, predicted in _predictions(row["image"], true.shape, training).items()
    }


def _predictions(image: Image.Image, shape: tuple[int, int], training: TrainingMasks) -> dict[str, np.ndarray]:
    """The baselines' index masks for one image, by name."""
    predictions = {
        "everything_lesion": np.full(shape, training.most_common_foreground),
        "mean_training_mask": training.mean_mask(*shape),
    }
    if len(training.frequency) == 2:
        predictions["otsu_threshold"] = _resized(otsu_mask(image), shape)
    return predictions


def _resized(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """An index mask at another size (height, width), each pixel that of the nearest."""
    if mask.shape == shape:
        return mask
    image = Image.fromarray(mask.astype(np.uint8))
    return np.asarray(image.resize(shape[::-1], Image.Resampling.NEAREST), dtype=np.int64)
