"""The Trainer's `compute_metrics`: what it has seen of a split, and the losses and scores that go into its log."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import EvalPrediction

from ..configuration_resformer import ResFormerConfig
from ..modeling_resformer import classification_loss_sum_and_count, dice_loss_from_statistics
from .answers import Answers, Classes, ScoredRows, row_scores
from .row_statistics import RowStatistics


class EvaluationMetrics:
    """The Trainer's `compute_metrics` under `batch_eval_metrics=True`.

    Afterwards `rows` holds what it saw, and `answers` what the model made of it by the thresholds that it then had.

    Args:
        config: names, thresholds and loss settings of the model.
        auc_classes: see `classification_scores`.
    """

    def __init__(self, config: ResFormerConfig, auc_classes: Sequence[str] = ()) -> None:
        self.config = config
        self.auc_classes = tuple(auc_classes)
        self.rows: RowStatistics | None = None
        self.answers: Answers | None = None
        self._batches: list[dict[str, np.ndarray]] = []

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        """Take one batch of gathered row statistics in; with the last one return losses and scores over all classes.

        Scores of single classes stay out of the training log, as do undefined ones.
        """
        self._batches.append({name: tensor.cpu().numpy() for name, tensor in prediction.predictions.items()})
        if not compute_result:
            return {}
        self.rows, self._batches = RowStatistics.join(self._batches), []
        self.answers = answers = answers_of(self.rows, self.config, self.auc_classes)
        suffixes = tuple(f"_{name}" for name in (*answers.classes.masks, *answers.classes.labels))
        scores = row_scores(answers.rows, answers.classes)
        overall = {name: score for name, score in scores.items() if not name.endswith(suffixes)}
        return {**answers.losses, **{name: score.value for name, score in overall.items() if score.n}}


def answers_of(rows: RowStatistics, config: ResFormerConfig, auc_classes: Sequence[str] = ()) -> Answers:
    """What a model of that config answered on the rows."""
    return Answers(
        ScoredRows.of(rows, config),
        Classes.of(config, auc_classes),
        split_losses(rows, config),
        ScoredRows.uncalibrated(rows, config),
    )


def split_losses(rows: RowStatistics, config: ResFormerConfig) -> dict[str, float]:
    """`loss`, and the unweighted `segmentation_loss` and `classification_loss`, of a whole split.

    The Dice formula is applied once to sums over all rows, cross-entropies are means over all labelled pixels or
    entries (rows, where classes exclude each other): what one batch of the whole split would give. With one task alone, `loss` is that task's.
    """
    parts = {}
    if rows.mask_counts is not None:
        parts["segmentation_loss"] = _segmentation_loss(rows, config)
    if rows.classification_logits is not None:
        parts["classification_loss"] = _classification_loss(rows, config)
    if len(parts) == 1:
        return {"loss": next(iter(parts.values())), **parts}
    loss = config.segmentation_loss_weight * parts["segmentation_loss"]
    return {"loss": loss + config.classification_loss_weight * parts["classification_loss"], **parts}


def _segmentation_loss(rows: RowStatistics, config: ResFormerConfig) -> float:
    dice_sums = torch.from_numpy(rows.dice_statistics.sum(axis=0, dtype=np.float64))
    dice_loss = dice_loss_from_statistics(*dice_sums, config.dice_smooth, config.dice_include_background)
    cross_entropy, focal, pixels = rows.pixel_losses.sum(axis=0, dtype=np.float64)
    weighted = config.cross_entropy_weight * cross_entropy + config.focal_weight * focal
    return float(dice_loss) + float(weighted / max(pixels, 1))


def _classification_loss(rows: RowStatistics, config: ResFormerConfig) -> float:
    logits, labels = torch.from_numpy(rows.classification_logits), torch.from_numpy(rows.class_labels)
    total, entries = classification_loss_sum_and_count(logits, labels, config)
    return float(total / entries.clamp(min=1))
