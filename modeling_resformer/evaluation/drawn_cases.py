"""Images of an evaluated split with the contours of truth and prediction: which to show, and how they are drawn."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from ..data.rows import EvaluationRows
from ..drawing import displayable, label_lines
from ..metrics.scores import jaccard
from ..training.trainer import ResFormerTrainer
from .evaluation_metrics import EvaluationMetrics
from .row_statistics import RowStatistics


if TYPE_CHECKING:
    from matplotlib.axes import Axes


LONGEST_SIDE = 320  # pixels of an image that is drawn
TRUTH, PREDICTION = (
    "#00bfff",
    "#ff8c00",
)  # blue and orange, which colour-blind readers can tell apart, on skin and on grey
CLASS_STYLES = ("solid", "dashed", "dotted", "dashdot")  # of the foreground classes, where there are several
CAPTION_WIDTH = 36  # characters
NAME_LENGTH = 24  # characters of a case


@dataclass(frozen=True)
class DrawnCase:
    """One image as it is drawn.

    Attributes:
        image: RGB, no side longer than `LONGEST_SIDE`.
        true: (H, W) class indices at its size; None without a mask.
        predicted: likewise; None for a model that only classifies.
        caption: name, scores and labels, a line each.
    """

    image: Image.Image
    true: np.ndarray | None
    predicted: np.ndarray | None
    caption: str


@dataclass(frozen=True)
class Ranking:
    """How good the rows came out, the worst first.

    Attributes:
        positions: (M,) of the rows that have a score.
        scores: (M,) theirs, ascending; of equal ones the row with more wrong pixels, or the worse single answer, comes first.
        kinds: (M,) rows that fail in the same class, and have the same labels, have the same number.
        name: what the score is.
    """

    positions: np.ndarray
    scores: np.ndarray
    kinds: np.ndarray
    name: str

    def worst(self, number: int) -> list[int]:
        """Up to `number` positions, the worst first; where more share a score than there is room for, kinds take turns."""
        return self._chosen(np.arange(len(self.positions)), number)

    def best(self, number: int, but: Sequence[int] = ()) -> list[int]:
        """Likewise from the other end, without the positions that are shown already."""
        order = np.arange(len(self.positions))[::-1]
        return self._chosen(order[~np.isin(self.positions[order], but)], number)

    def sharing(self, place: int) -> int:
        """How many rows have the worst score (`place` 0) or the best (-1)."""
        return int((self.scores == self.scores[place]).sum()) if len(self.scores) else 0

    def _chosen(self, order: np.ndarray, number: int) -> list[int]:
        chosen: list[int] = []
        while len(chosen) < min(number, len(order)):
            group = order[self.scores[order] == self.scores[order[len(chosen)]]]
            chosen += _by_turns(group, self.kinds)[: number - len(chosen)]
        return self.positions[chosen].tolist()


def ranking(rows: RowStatistics) -> Ranking:
    """Rank the rows of an evaluation.

    With masks the score is the Jaccard coefficient, mean over the foreground classes in truth or prediction, of the rows that
    have any; without, the mean probability of the right answer over the labelled classes.
    """
    if rows.has_masks:
        values, name = jaccard(rows.counts, empty=np.nan)[:, 1:], "Jaccard"
        wrong = (rows.counts.fp + rows.counts.fn)[:, 1:].astype(np.float64)
        severity = wrong.sum(axis=1) / np.maximum(rows.counts.annotated.max(axis=1), 1)
    else:
        right = np.where(rows.class_labels == 1, rows.probabilities, 1 - rows.probabilities)
        values, name = np.where(rows.class_labels >= 0, right, np.nan), "mean probability of the right answer"
        wrong = np.where(rows.class_labels >= 0, 1 - right, 0)
        severity = wrong.max(axis=1)
    known = ~np.isnan(values)
    positions = np.flatnonzero(known.any(axis=1))
    scores = np.where(known, values, 0).sum(axis=1)[positions] / known.sum(axis=1)[positions]
    facts = [wrong.argmax(axis=1), *((rows.class_labels == 1).T if rows.has_labels else [])]
    kinds = np.unique(np.stack(facts, axis=1), axis=0, return_inverse=True)[1].ravel()[positions]
    order = np.lexsort((-severity[positions], scores))
    return Ranking(positions[order], scores[order], kinds[order], name)


def _by_turns(items: np.ndarray, kinds: np.ndarray) -> list[int]:
    """Items in order, but the first of each kind before the second of any."""
    seen: Counter[int] = Counter()
    turns = []
    for item in items.tolist():
        turns.append(seen[kinds[item]])
        seen[kinds[item]] += 1
    return items[np.argsort(turns, kind="stable")].tolist()


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
    names = image_names(rows.rows["case_id"], rows.rows["slice_index"])
    for position in positions:
        row_index = int(metrics.rows.row_index[position])
        row = rows[row_index]
        image = displayable(row["image"])
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BILINEAR)
        size, true = (image.height, image.width), row["mask"]
        predicted = None
        if trainer.task.mask_logits is not None:
            pixels = trainer.processing_class(images=[row["image"]], return_tensors="pt")["pixel_values"]
            with trainer.compute_loss_context_manager():
                logits = model(pixel_values=pixels.to(trainer.args.device))[trainer.task.mask_logits].float()
            process = trainer.processing_class.post_process_semantic_segmentation
            predicted = process({"logits": logits}, target_sizes=[size])[0].cpu().numpy()
        if true is not None:
            true = np.asarray(true.resize(image.size, Image.Resampling.NEAREST))
        cases.append(DrawnCase(image, true, predicted, caption_of(names[row_index], metrics, position)))
    return cases


def image_names(case_ids: Sequence[str], slices: Sequence[int | None]) -> list[str]:
    """The case of every row of a split, no longer than `NAME_LENGTH`, and which slice of it where it has several rows."""
    rows_of, names = Counter(case_ids), []
    for case_id, number in zip(case_ids, slices, strict=True):
        name = case_id if len(case_id) <= NAME_LENGTH else f"...{case_id[3 - NAME_LENGTH :]}"
        names.append(f"{name} slice {number}" if rows_of[case_id] > 1 and number is not None else name)
    return names


def caption_of(name: str, metrics: EvaluationMetrics, position: int) -> str:
    """Name, Jaccard of the foreground classes there, the classes at or above their thresholds, and the true labels."""
    rows, config = metrics.rows, metrics.config
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
        scores = dict(zip(names, probabilities.tolist(), strict=True))
        thresholds = dict(zip(names, metrics.thresholds, strict=True))
        lines += label_lines(scores, [name for name in names if scores[name] >= thresholds[name]], thresholds)
        labels = rows.class_labels[position]
        present = [names[k] for k in np.flatnonzero(labels == 1)]
        lines.append("truth: " + (", ".join(present) or ("none of them" if (labels == 0).any() else "unknown")))
    return "\n".join(part for line in lines for part in textwrap.wrap(line, CAPTION_WIDTH))


def class_style(index: int) -> str:
    """Line style of a foreground class (index from 1), as matplotlib takes it."""
    return CLASS_STYLES[(index - 1) % len(CLASS_STYLES)]


def draw_case(axes: "Axes", case: DrawnCase, mask_class_names: Sequence[str]) -> None:
    """An image with contours: the truth in one colour, the prediction in another; of several foreground classes each has
    its own line style and its name beside it."""
    axes.imshow(np.asarray(case.image))
    for index, name in list(enumerate(mask_class_names))[1:]:
        for mask, colour, width in ((case.true, TRUTH, 2.2), (case.predicted, PREDICTION, 1.5)):
            if mask is not None and 0 < (mask == index).mean() < 1:
                axes.contour(
                    mask == index, levels=[0.5], colors=[colour], linestyles=[class_style(index)], linewidths=width
                )
                if len(mask_class_names) > 2:
                    _name_class(axes, mask == index, name, colour)
    axes.set_axis_off()
    axes.set_title(case.caption, fontsize=8.5, linespacing=1.15)


def _name_class(axes: "Axes", inside: np.ndarray, name: str, colour: str) -> None:
    """The class's name at its contour, in the contour's colour: of the truth above it, of the prediction below."""
    from matplotlib.patheffects import withStroke

    rows, columns = np.nonzero(inside)
    above = colour == TRUTH
    end = rows.argmin() if above else rows.argmax()
    axes.annotate(
        name,
        (columns[end], rows[end]),
        xytext=(0, 2 if above else -2),
        textcoords="offset points",
        color=colour,
        fontsize=9,
        fontweight="bold",
        ha="center",
        va="bottom" if above else "top",
        annotation_clip=True,
        path_effects=[withStroke(linewidth=1.5, foreground="black")],
    )


def _is_annotated(rows: RowStatistics, position: int) -> bool:
    return bool(rows.counts.annotated[position].any())
