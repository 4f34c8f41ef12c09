"""`counts.py` and `scores.py` for masks as an `evaluate.Metric`, for code that speaks that library. Works offline."""

import tempfile
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from .counts import ArrayLike, Counts, mask_counts
from .scores import segmentation_scores


_DESCRIPTION = "Dice and Jaccard coefficients of index masks, each convention under its own name (see scores.py)."
_INPUTS = """
Args:
    predictions: (B, H, W) class indices; batches may differ in size.
    references: (B, H, W) class indices, or the ignore index.
    case_index: for compute() only, (N,) integers equal for images of one case; default one case per image.
    pixel_volume: for compute() only, (N,) mm3 of one pixel; without it there is no volume_difference.
Returns:
    The score of every name in scores.py as a float, and under `n` the number of images or cases behind each.
"""


class DiceAndJaccard(evaluate.Metric):
    """`DiceAndJaccard(["background", "lesion"]).compute(predictions=masks, references=masks)["dice"]`.

    Args:
        class_names: S names, background first.
        ignore_index: value of pixels that nobody annotated.
        cache_dir: where the counts wait for compute(); a private temporary folder by default.
    """

    def __init__(self, class_names: Sequence[str], ignore_index: int = 255, cache_dir: str | None = None) -> None:
        self.class_names = list(class_names)
        self.ignore_index = ignore_index
        self._temporary = tempfile.TemporaryDirectory() if cache_dir is None else None
        super().__init__(cache_dir=cache_dir or self._temporary.name)

    def _info(self) -> evaluate.MetricInfo:
        # Masks become counts as they arrive, so that Arrow never sees a pixel: TP and FP ride in `predictions`, FN and
        # TN in `references`.
        pair = datasets.Sequence(datasets.Sequence(datasets.Value("int64")))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": pair, "references": pair}),
        )

    def add_batch(self, *, predictions: ArrayLike, references: ArrayLike, **kwargs: Any) -> None:
        """Count a batch of masks."""
        counts = mask_counts(predictions, references, len(self.class_names), self.ignore_index)
        super().add_batch(
            predictions=np.stack([counts.tp, counts.fp], axis=1).tolist(),
            references=np.stack([counts.fn, counts.tn], axis=1).tolist(),
            **kwargs,
        )

    def add(self, *, prediction: ArrayLike, reference: ArrayLike, **kwargs: Any) -> None:
        """Count one pair of masks (H, W)."""
        self.add_batch(predictions=prediction[None], references=reference[None], **kwargs)

    def _compute(
        self,
        predictions: list,
        references: list,
        case_index: Sequence[int] | None = None,
        pixel_volume: Sequence[float] | None = None,
    ) -> dict[str, float | dict[str, int]]:
        parts = np.concatenate([np.array(predictions), np.array(references)], axis=1)
        cases = np.arange(len(parts)) if case_index is None else np.asarray(case_index)
        volume = None if pixel_volume is None else np.asarray(pixel_volume, dtype=np.float64)
        scores = segmentation_scores(Counts(*np.moveaxis(parts, 1, 0)), cases, self.class_names, volume)
        return {
            **{name: score.value for name, score in scores.items()},
            "n": {name: score.n for name, score in scores.items()},
        }
