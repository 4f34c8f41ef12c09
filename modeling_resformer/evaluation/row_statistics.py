"""Evaluation: each batch becomes a few numbers a row, and the numbers of all rows become losses and scores.

`row_statistics` runs on every process, the Trainer gathers what it returns, and `EvaluationMetrics` adds it up: neither
batch size nor number of processes changes a result, and logits never outlive their batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction
from transformers.image_processing_utils import BaseImageProcessor

from ..configuration_resformer import ResFormerConfig
from ..heads import Task
from ..metrics.counts import Counts, mask_counts
from ..metrics.scores import Bootstrap, Score, classification_scores, segmentation_scores
from ..modeling_resformer import (
    classification_loss_sum_and_count,
    dice_loss_from_statistics,
    dice_statistics,
    pixel_losses,
)


@dataclass(frozen=True)
class RowStatistics:
    """What evaluation keeps of N rows, S mask classes and K image-level classes. Arrays, rows first.

    The fields about masks are None for a model that only classifies, those about labels for one that only segments.

    Attributes:
        row_index: (N,) position in the split, ascending, each once.
        case_index: (N,) the collator's number of the case.
        mask_counts: (N, 4, S) TP, FP, FN, TN in pixels of the stored mask; all 0 for a row without mask.
        dice_statistics: (N, 3, S) intersection, predicted and target of the soft Dice at the model's input size.
        pixel_losses: (N, 3) sums of cross-entropy and focal loss over the labelled pixels, and their number.
        classification_logits: (N, K).
        class_labels: (N, K) 1 present, 0 absent, -100 unknown.
    """

    row_index: np.ndarray
    case_index: np.ndarray
    mask_counts: np.ndarray | None = None
    dice_statistics: np.ndarray | None = None
    pixel_losses: np.ndarray | None = None
    classification_logits: np.ndarray | None = None
    class_labels: np.ndarray | None = None

    @classmethod
    def join(cls, batches: Sequence[Mapping[str, np.ndarray]]) -> "RowStatistics":
        """All batches as one, in the order of the split; rows that came twice to fill a last batch are dropped."""
        joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        _, first = np.unique(joined["row_index"], return_index=True)
        return cls(**{name: array[first] for name, array in joined.items()})

    def take(self, rows: np.ndarray) -> "RowStatistics":
        """Some of the rows, by index or boolean mask."""
        kept = {name: None if array is None else array[rows] for name, array in vars(self).items()}
        return RowStatistics(**kept)

    @property
    def has_masks(self) -> bool:
        """Whether the model segments."""
        return self.mask_counts is not None

    @property
    def has_labels(self) -> bool:
        """Whether the model classifies."""
        return self.classification_logits is not None

    @property
    def annotated(self) -> np.ndarray:
        """(N,) whether a row has anything that the model's heads are scored on: a mask with a known pixel, a known label."""
        some = np.zeros(len(self.row_index), dtype=bool)
        if self.has_masks:
            some |= (self.mask_counts > 0).any(axis=(1, 2))
        if self.has_labels:
            some |= (self.class_labels >= 0).any(axis=1)
        return some

    @property
    def counts(self) -> Counts:
        """The mask counts, each (N, S)."""
        return Counts(*np.moveaxis(self.mask_counts, 1, 0))

    @property
    def probabilities(self) -> np.ndarray:
        """(N, K) sigmoid of the logits."""
        return torch.from_numpy(self.classification_logits).double().sigmoid().numpy()


@torch.no_grad()
def row_statistics(
    outputs: Mapping[str, torch.Tensor],
    batch: Mapping[str, Any],
    task: Task,
    image_processor: BaseImageProcessor,
    ignore_index: int = 255,
) -> dict[str, torch.Tensor]:
    """The fields of `RowStatistics` for one batch, on the device of the logits; those of the model's task only.

    Args:
        outputs: of the model: mask logits (B, S, h, w) and class logits (B, K), as far as the task has them.
        batch: what the collator made of evaluation rows.
        task: of the model.
        image_processor: its post-processing brings logits to the stored masks' sizes, as in inference.
        ignore_index: value of pixels that nobody annotated.
    """
    statistics = {"row_index": batch["row_index"], "case_index": batch["case_index"]}
    if task.mask_logits is not None:
        logits, labels = outputs[task.mask_logits].float(), batch["mask_labels"]
        counts = _counts_at_stored_size(logits, batch["stored_masks"], image_processor, ignore_index)
        statistics["mask_counts"] = counts.to(logits.device)
        statistics["dice_statistics"] = torch.stack(dice_statistics(logits, labels, ignore_index), dim=1)
        statistics["pixel_losses"] = _pixel_loss_sums(logits, labels, ignore_index)
    if task.class_logits is not None:
        statistics["classification_logits"] = outputs[task.class_logits].float()
        statistics["class_labels"] = batch["class_labels"]
    return statistics


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


def _counts_at_stored_size(
    logits: torch.Tensor,
    stored_masks: Sequence[torch.Tensor],
    image_processor: BaseImageProcessor,
    ignore_index: int,
) -> torch.Tensor:
    """(B, 4, S) pixel counts; one image at a time, since stored sizes differ and may be large."""
    counts = []
    for i, true in enumerate(stored_masks):
        image = {"logits": logits[i : i + 1]}
        (predicted,) = image_processor.post_process_semantic_segmentation(image, target_sizes=[tuple(true.shape)])
        counts.append(np.stack(mask_counts(predicted[None], true[None], logits.shape[1], ignore_index), axis=1))
    return torch.from_numpy(np.concatenate(counts))


def _pixel_loss_sums(logits: torch.Tensor, labels: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """(B, 3) sums of cross-entropy and focal loss, and the number of labelled pixels, of every image."""
    pixels = (labels != ignore_index).sum(dim=(1, 2)).float()
    means = [torch.stack(pixel_losses(logits[i : i + 1], labels[i : i + 1], ignore_index)) for i in range(len(labels))]
    return torch.cat([torch.stack(means) * pixels[:, None], pixels[:, None]], dim=1)
