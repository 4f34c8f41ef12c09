"""The Trainer's `compute_metrics`: what it has seen of a split, and the losses and scores that go into its log."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import EvalPrediction

from ..configuration_resformer import ResFormerConfig
from ..metrics.scores import Bootstrap, Score, classification_scores, segmentation_scores
from ..modeling_resformer import classification_loss_sum_and_count, dice_loss_from_statistics
from .row_statistics import RowStatistics


class EvaluationMetrics:
    """The Trainer's `compute_metrics` under `batch_eval_metrics=True`; afterwards `rows` holds what it saw.

    Args:
        config: names, thresholds and loss settings of the model.
        auc_classes: see `classification_scores`.
    """

    def __init__(self, config: ResFormerConfig, auc_classes: Sequence[str] = ()) -> None:
        self.config = config
        self.auc_classes = tuple(auc_classes)
        self.rows: RowStatistics | None = None
        self._batches: list[dict[str, np.ndarray]] = []

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        """Take one batch of gathered row statistics in; with the last one return losses and scores over all classes.

        Scores of single classes stay out of the training log, as do undefined ones; `scores()` has them all.
        """
        self._batches.append({name: tensor.cpu().numpy() for name, tensor in prediction.predictions.items()})
        if not compute_result:
            return {}
        self.rows, self._batches = RowStatistics.join(self._batches), []
        class_names = (*self.config.mask_class_names, *self.config.image_class_names)
        suffixes = tuple(f"_{name}" for name in class_names)
        overall = {name: score for name, score in self.scores().items() if not name.endswith(suffixes)}
        return self.losses() | {name: score.value for name, score in overall.items() if score.n}

    def losses(self) -> dict[str, float]:
        """`loss`, and the unweighted `segmentation_loss` and `classification_loss`, of the whole split.

        The Dice formula is applied once to sums over all rows, cross-entropies are means over all labelled pixels or
        entries: what one batch of the whole split would give. With one task alone, `loss` is that task's.
        """
        config, parts = self.config, {}
        if self.rows.has_masks:
            parts["segmentation_loss"] = self._segmentation_loss()
        if self.rows.has_labels:
            parts["classification_loss"] = self._classification_loss()
        if len(parts) == 1:
            return {"loss": next(iter(parts.values())), **parts}
        loss = config.segmentation_loss_weight * parts["segmentation_loss"]
        return {"loss": loss + config.classification_loss_weight * parts["classification_loss"], **parts}

    def scores(
        self,
        bootstrap: Bootstrap | None = None,
        pixel_volume: np.ndarray | None = None,
        chosen: np.ndarray | None = None,
    ) -> dict[str, Score]:
        """The scores of `metrics/scores.py` that the model's task has, by name.

        Args:
            bootstrap: how intervals are made; None makes none.
            pixel_volume: (N,) mm3 of one pixel of the scored masks, NaN where unknown; None leaves
                `volume_difference` out.
            chosen: (N,) booleans, the rows to score; None scores all.
        """
        config, rows, scores = self.config, self.rows, {}
        if chosen is not None:
            rows = rows.take(chosen)
            pixel_volume = None if pixel_volume is None else pixel_volume[chosen]
        if rows.has_masks:
            scores |= segmentation_scores(
                rows.counts, rows.case_index, config.mask_class_names, pixel_volume, bootstrap
            )
        if rows.has_labels:
            scores |= classification_scores(
                rows.probabilities,
                rows.class_labels,
                rows.case_index,
                config.image_class_names,
                thresholds=self.thresholds,
                auc_classes=self.auc_classes,
                bootstrap=bootstrap,
            )
        return scores

    @property
    def thresholds(self) -> list[float]:
        """The K decision thresholds: the config's, 0.5 where it has none."""
        return list(self.config.classification_thresholds or [0.5] * len(self.config.image_class_names))

    def _segmentation_loss(self) -> float:
        config, rows = self.config, self.rows
        dice_sums = torch.from_numpy(rows.dice_statistics.sum(axis=0, dtype=np.float64))
        dice_loss = dice_loss_from_statistics(*dice_sums, config.dice_smooth, config.dice_include_background)
        cross_entropy, focal, pixels = rows.pixel_losses.sum(axis=0, dtype=np.float64)
        weighted = config.cross_entropy_weight * cross_entropy + config.focal_weight * focal
        return float(dice_loss) + float(weighted / max(pixels, 1))

    def _classification_loss(self) -> float:
        logits, labels = torch.from_numpy(self.rows.classification_logits), torch.from_numpy(self.rows.class_labels)
        total, entries = classification_loss_sum_and_count(logits, labels, self.config.class_weights)
        return float(total / entries.clamp(min=1))
