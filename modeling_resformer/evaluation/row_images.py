"""What the images and masks of a split tell an evaluation. Each row is read once."""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from PIL import Image

from ..data.rows import EvaluationRows
from ..drawing import displayable
from ..metrics.baselines import TrainingMasks, baseline_counts, summarise_training_masks
from ..metrics.counts import Counts
from .answers import ScoredRows
from .raw_masks import RawMaskRows
from .shown_rows import ShownRows


LONGEST_SIDE = 320  # pixels of an image that is drawn

# An image and a size (height, width) -> class indices of that size; None from a model that only classifies.
Predict = Callable[[Image.Image, tuple[int, int]], np.ndarray | None]


@dataclass(frozen=True)
class DrawnImage:
    """One image to draw.

    Attributes:
        image: RGB, no side longer than `LONGEST_SIDE`.
        true: (H, W) class indices at its size; None without a mask.
        predicted: likewise; None for a model that only classifies.
    """

    image: Image.Image
    true: np.ndarray | None
    predicted: np.ndarray | None


@dataclass(frozen=True)
class RowImages:
    """Of N scored rows.

    Attributes:
        mask_resolution: of the masks scored, in words; None without masks.
        baselines: mask counts (N, S) of every baseline; none without masks or without a training split.
        pixel_areas: (N,) how many pixels of the stored image one of the scored mask covers.
        shown: which rows the pages show.
        drawn: these, by position.
    """

    mask_resolution: str | None
    baselines: Mapping[str, Counts]
    pixel_areas: np.ndarray
    shown: ShownRows
    drawn: Mapping[int, DrawnImage]


def learned_masks(training: datasets.Dataset, num_classes: int, ignore_index: int) -> TrainingMasks:
    """What the baselines learn from the training split."""
    masks = (row["mask"] for row in training.select_columns("mask") if row["mask"] is not None)
    return summarise_training_masks(masks, num_classes, ignore_index)


def read_images(
    rows: EvaluationRows,
    scored: ScoredRows,
    predict: Predict,
    learned: TrainingMasks | None = None,
    only_shown: bool = False,
    to_draw: Set[int] | None = None,
) -> RowImages:
    """Reads the rows one after the other.

    Args:
        rows: of the split; `RawMaskRows` where it was scored at the source's own size.
        scored: of these rows.
        predict: the model once more, for the contours of the rows shown, in the order of their positions.
        learned: by the baselines; None leaves them out.
        only_shown: reads no other rows, as a process does that writes nothing but holds a part of the model.
        to_draw: positions of the rows to draw; default those that pages of these rows show.
    """
    native, shown = isinstance(rows, RawMaskRows), ShownRows.of(scored)
    to_draw = shown.positions if to_draw is None else to_draw
    everything = (native or learned is not None) and not only_shown
    areas, drawn, counts = np.ones(len(scored.row_index)), {}, []
    for position in range(len(areas)) if everything else sorted(to_draw):
        row = rows[int(scored.row_index[position])]
        if native:
            areas[position] = row["image"].width * row["image"].height / np.prod(row["original_size"])
        if everything and learned is not None:
            counts.append(baseline_counts(row, learned))
        if position in to_draw:
            drawn[position] = _to_draw(row, predict)
    baselines = {name: Counts.join([one[name] for one in counts]) for name in (counts[0] if counts else ())}
    return RowImages(_resolution(scored, native), baselines, areas, shown, drawn)


def _to_draw(row: Mapping[str, Any], predict: Predict) -> DrawnImage:
    image, mask = displayable(row["image"]), row["mask"]
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BILINEAR)
    true = None if mask is None else np.asarray(mask.resize(image.size, Image.Resampling.NEAREST))
    return DrawnImage(image, true, predict(row["image"], (image.height, image.width)))


def _resolution(scored: ScoredRows, native: bool) -> str | None:
    if scored.counts is None:
        return None
    return "native, from the source's own masks" if native else "as stored in the dataset"
