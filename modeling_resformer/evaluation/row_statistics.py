"""Evaluation: each batch becomes a few numbers a row, from which losses and scores of all rows follow.

`row_statistics` runs on every process, the Trainer gathers what it returns, and `EvaluationMetrics` joins it: neither
batch size nor number of processes changes a result, and logits never outlive their batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.image_processing_utils import BaseImageProcessor

from ..configuration_resformer import ResFormerConfig
from ..heads import Task
from ..metrics.calibration import BINS
from ..metrics.counts import mask_counts
from ..modeling_resformer import confidence_signals, dice_statistics, pixel_losses


@dataclass(frozen=True)
class RowStatistics:
    """What evaluation keeps of N rows, S mask classes and K image-level classes. Arrays, rows first.

    The fields about masks are None for a model that only classifies, those about labels for one that only segments.

    Attributes:
        row_index: (N,) position in the split, ascending, each once.
        case_index: (N,) the collator's number of the case.
        mask_counts: (N, 4, S) TP, FP, FN, TN in pixels of the stored mask; all 0 for a row without mask.
        dice_statistics: (N, 3, S) intersection, predicted and target of the soft Dice at the model's input size.
        mask_gaps, raw_mask_gaps: (N, S - 1, BINS, 2) of the labelled pixels at the model's input size, by foreground class
            and bin of its probability, the sums of probability - truth and the number of pixels; with the calibration of the
            model's config, and without it, which is None where there is none.
        pixel_losses: (N, 3) sums of cross-entropy and focal loss over the labelled pixels, and their number.
        classification_logits: (N, K).
        class_labels: (N, K) 1 present, 0 absent, -100 unknown.
        distances: (N,) from the training images; None for a model that does not tell.
        signals: (N, 3), see `confidence_signals`; None for a model that does not tell.
    """

    row_index: np.ndarray
    case_index: np.ndarray
    mask_counts: np.ndarray | None = None
    dice_statistics: np.ndarray | None = None
    mask_gaps: np.ndarray | None = None
    raw_mask_gaps: np.ndarray | None = None
    pixel_losses: np.ndarray | None = None
    classification_logits: np.ndarray | None = None
    class_labels: np.ndarray | None = None
    distances: np.ndarray | None = None
    signals: np.ndarray | None = None

    @classmethod
    def join(cls, batches: Sequence[Mapping[str, np.ndarray]]) -> "RowStatistics":
        """All batches as one, in the order of the split; rows that came twice to fill a last batch are dropped."""
        joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        _, first = np.unique(joined["row_index"], return_index=True)
        return cls(**{name: array[first] for name, array in joined.items()})


@torch.no_grad()
def row_statistics(
    outputs: Mapping[str, torch.Tensor],
    batch: Mapping[str, Any],
    task: Task,
    image_processor: BaseImageProcessor,
    config: ResFormerConfig,
) -> dict[str, torch.Tensor]:
    """The fields of `RowStatistics` for one batch, on the device of the logits; those of the model's task only.

    Args:
        outputs: of the model: mask logits (B, S, h, w) and class logits (B, K), as far as the task has them.
        batch: what the collator made of evaluation rows.
        task: of the model.
        image_processor: its post-processing brings logits to the stored masks' sizes, as in inference.
        config: of the model.
    """
    ignore_index, temperature = config.semantic_loss_ignore_index, config.mask_temperature
    statistics = {"row_index": batch["row_index"], "case_index": batch["case_index"]}
    if task.mask_logits is not None:
        logits, labels = outputs[task.mask_logits].float(), batch["mask_labels"]
        counts = _counts_at_stored_size(logits, batch["stored_masks"], image_processor, ignore_index)
        statistics["mask_counts"] = counts.to(logits.device)
        statistics["dice_statistics"] = torch.stack(dice_statistics(logits, labels, ignore_index), dim=1)
        statistics["mask_gaps"] = _probability_gaps(logits, labels, ignore_index)
        if temperature != 1:
            statistics["raw_mask_gaps"] = _probability_gaps(logits * temperature, labels, ignore_index)
        statistics["pixel_losses"] = _pixel_loss_sums(logits, labels, ignore_index)
    if task.class_logits is not None:
        statistics["classification_logits"] = outputs[task.class_logits].float()
        statistics["class_labels"] = batch["class_labels"]
    if outputs.get("distance") is not None:
        statistics["distances"] = outputs["distance"].float()
        parts = outputs[task.mask_logits], outputs[task.class_logits], outputs["distance"], config
        statistics["signals"] = confidence_signals(*parts)
    return statistics


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


def _probability_gaps(logits: torch.Tensor, labels: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """(B, S - 1, BINS, 2) as `RowStatistics.mask_gaps` says."""
    probabilities = logits.softmax(dim=1)
    foreground = range(1, logits.shape[1])
    gaps = [
        [_binned(p[k], label, k, ignore_index) for k in foreground]
        for p, label in zip(probabilities, labels, strict=True)
    ]
    return torch.stack([torch.stack(of_row) for of_row in gaps])


def _binned(probability: torch.Tensor, label: torch.Tensor, k: int, ignore_index: int) -> torch.Tensor:
    """(BINS, 2) of one class k of one image, from its probability (h, w) and the labels (h, w)."""
    probability, label = probability.flatten(), label.flatten()
    known = (label != ignore_index).float()
    bins = (probability.nan_to_num() * BINS).long().clamp(max=BINS - 1)  # NaN is found in the sums
    gap = (probability - (label == k).float()) * known
    # Not torch.bincount, whose sums on CUDA are in any order, which torch refuses where runs must be deterministic.
    inside = bins == torch.arange(BINS, device=bins.device)[:, None]
    return torch.stack([(inside * values).sum(dim=1) for values in (gap, known)], dim=1)


def _pixel_loss_sums(logits: torch.Tensor, labels: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """(B, 3) sums of cross-entropy and focal loss, and the number of labelled pixels, of every image."""
    pixels = (labels != ignore_index).sum(dim=(1, 2)).float()
    means = [torch.stack(pixel_losses(logits[i : i + 1], labels[i : i + 1], ignore_index)) for i in range(len(labels))]
    return torch.cat([torch.stack(means) * pixels[:, None], pixels[:, None]], dim=1)
