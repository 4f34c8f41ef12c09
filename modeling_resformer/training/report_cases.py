"""Pictures of an evaluated part with the contours of truth and prediction: which to show, and how they are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from ..drawing import class_colour, displayable
from ..metrics.scores import jaccard
from .compute_metrics import EvaluationMetrics, RowStatistics
from .rows import EvaluationRows
from .trainer import ResFormerTrainer


if TYPE_CHECKING:
    from matplotlib.axes import Axes


LONGEST_SIDE = 320  # pixels of a picture that is drawn
TRUTH, PREDICTION = "#00bfff", "#ff8c00"  # where there is one foreground class


@dataclass(frozen=True)
class DrawnCase:
    """One picture as it is drawn.

    Attributes:
        picture: RGB, no side longer than `LONGEST_SIDE`.
        true: (H, W) class indices at its size; None without a mask.
        predicted: likewise; None for a model that only classifies.
        caption: name, scores and labels in up to three lines.
    """

    picture: Image.Image
    true: np.ndarray | None
    predicted: np.ndarray | None
    caption: str


def ranking(rows: RowStatistics) -> tuple[np.ndarray, np.ndarray, str]:
    """How good each row came out: positions from worst to best, their scores, and what the score is.

    With masks it is the Jaccard coefficient, mean over the foreground classes in truth or prediction, of the rows that have
    any; without, the mean probability of the right answer over the labelled classes.
    """
    if rows.has_masks:
        values, name = jaccard(rows.counts, empty=np.nan)[:, 1:], "Jaccard"
    else:
        right = np.where(rows.class_labels == 1, rows.probabilities, 1 - rows.probabilities)
        values, name = np.where(rows.class_labels >= 0, right, np.nan), "mean probability of the right answer"
    known = ~np.isnan(values)
    positions = np.flatnonzero(known.any(axis=1))
    scores = np.where(known, values, 0).sum(axis=1)[positions] / known.sum(axis=1)[positions]
    order = np.argsort(scores, kind="stable")
    return positions[order], scores[order], name


def evenly_spaced(length: int, number: int) -> list[int]:
    """Up to `number` positions spread over `length` rows, chosen without a look at them."""
    return sorted(set(np.linspace(0, length - 1, min(number, length)).round().astype(int).tolist()))


@torch.no_grad()
def drawn_cases(trainer: ResFormerTrainer, rows: EvaluationRows, positions: Sequence[int]) -> list[DrawnCase]:
    """The rows at some positions of those evaluated, each run through the model once more, one at a time.

    Every process must call this, since under FSDP each holds a part of the model.
    """
    model = trainer.model_wrapped if trainer.is_fsdp_enabled else trainer.model
    model.eval()
    metrics, cases = trainer.compute_metrics, []
    for position in positions:
        row = rows[int(metrics.rows.row_index[position])]
        picture = displayable(row["image"])
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BILINEAR)
        size, true = (picture.height, picture.width), row["mask"]
        predicted = None
        if trainer.task.mask_logits is not None:
            pixels = trainer.processing_class(images=[row["image"]], return_tensors="pt")["pixel_values"]
            with trainer.compute_loss_context_manager():
                logits = model(pixel_values=pixels.to(trainer.args.device))[trainer.task.mask_logits].float()
            process = trainer.processing_class.post_process_semantic_segmentation
            predicted = process({"logits": logits}, target_sizes=[size])[0].cpu().numpy()
        if true is not None:
            true = np.asarray(true.resize(picture.size, Image.Resampling.NEAREST))
        cases.append(DrawnCase(picture, true, predicted, caption_of(row["case_id"], metrics, position)))
    return cases


def caption_of(case_id: str, metrics: EvaluationMetrics, position: int) -> str:
    """Case, Jaccard of the foreground classes there, the highest probability and the true labels."""
    rows, config = metrics.rows, metrics.config
    name = case_id if len(case_id) <= 24 else f"...{case_id[-21:]}"
    lines = [name]
    if rows.has_masks:
        values = jaccard(rows.counts.take([position]), empty=np.nan)[0, 1:]
        several = len(values) > 1
        found = zip(config.mask_class_names[1:], values, strict=True)
        shown = [f"{name} {value:.2f}" if several else f"{value:.2f}" for name, value in found if not np.isnan(value)]
        lines[0] += (
            f": {', '.join(shown)}" if shown else ": no mask" if not _is_annotated(rows, position) else ": empty"
        )
    if rows.has_labels:
        names, probabilities = config.image_class_names, rows.probabilities[position]
        best = int(probabilities.argmax())
        lines.append(f"said: {names[best]} {probabilities[best]:.2f}")
        labels = rows.class_labels[position]
        present = [names[k] for k in np.flatnonzero(labels == 1)]
        lines.append("truth: " + (", ".join(present) or ("none of them" if (labels == 0).any() else "unknown")))
    return "\n".join(lines)


def contour_colour(index: int) -> tuple[float, ...]:
    """Of a foreground class (index from 1), as matplotlib takes it."""
    return tuple(value / 255 for value in class_colour(index))


def draw_case(axes: "Axes", case: DrawnCase, num_classes: int) -> None:
    """A picture with contours: for one foreground class truth and prediction in two colours, for several each class in
    its own, the truth solid and the prediction dashed."""
    axes.imshow(np.asarray(case.picture))
    for index in range(1, num_classes):
        one = num_classes == 2
        colours = (TRUTH, PREDICTION) if one else [contour_colour(index)] * 2
        styles = ("solid", "solid" if one else "dashed")
        for mask, colour, style in zip((case.true, case.predicted), colours, styles, strict=True):
            if mask is not None and 0 < (mask == index).mean() < 1:
                axes.contour(mask == index, levels=[0.5], colors=[colour], linestyles=[style], linewidths=1.8)
    axes.set_axis_off()
    axes.set_title(case.caption, fontsize=9, linespacing=1.15)


def _is_annotated(rows: RowStatistics, position: int) -> bool:
    return bool(rows.counts.annotated[position].any())
