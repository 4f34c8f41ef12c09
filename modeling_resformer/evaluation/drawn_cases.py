"""Images of an evaluated split with their captions, and the contours of truth and prediction."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..drawing import label_lines
from ..metrics.scores import jaccard
from .answers import Classes, ScoredRows
from .evaluation import Evaluation
from .row_images import DrawnImage


if TYPE_CHECKING:
    from matplotlib.axes import Axes


TRUTH, PREDICTION = (
    "#00bfff",
    "#ff8c00",
)  # blue and orange, which colour-blind readers can tell apart, on skin and on grey
CLASS_STYLES = ("solid", "dashed", "dotted", "dashdot")  # of the foreground classes, where there are several
CAPTION_WIDTH = 36  # characters
NAME_LENGTH = 24  # characters of a case


@dataclass(frozen=True)
class DrawnCase:
    """An image and its caption: name, scores and labels, a line each."""

    drawn: DrawnImage
    caption: str


def drawn_cases(evaluation: Evaluation, positions: Sequence[int]) -> list[DrawnCase]:
    """The rows at some of the positions that are shown."""
    names = image_names(evaluation.names["case_id"], evaluation.names["slice_index"])
    rows, classes, drawn = evaluation.rows, evaluation.classes, evaluation.images.drawn
    return [DrawnCase(drawn[p], caption_of(names[p], rows, p, classes)) for p in positions]


def image_names(case_ids: Sequence[str], slices: Sequence[int | None]) -> list[str]:
    """The case of every row of a split, no longer than `NAME_LENGTH`, and which slice of it where it has several rows."""
    rows_of, names = Counter(case_ids), []
    for case_id, number in zip(case_ids, slices, strict=True):
        name = case_id if len(case_id) <= NAME_LENGTH else f"...{case_id[3 - NAME_LENGTH :]}"
        names.append(f"{name} slice {number}" if rows_of[case_id] > 1 and number is not None else name)
    return names


def caption_of(name: str, rows: ScoredRows, position: int, classes: Classes) -> str:
    """Name, Jaccard of the foreground classes there, the classes that are decided for, and the true labels."""
    lines = [name]
    if rows.counts is not None:
        lines = [f"{name}: {_overlap(rows, position, classes)}"]
    if rows.probabilities is not None:
        names, probabilities = classes.labels, rows.probabilities[position]
        scores = dict(zip(names, probabilities.tolist(), strict=True))
        decided = classes.decided(probabilities)
        lines += label_lines(scores, [names[k] for k in np.flatnonzero(decided)], classes.threshold_by_label)
        labels = rows.class_labels[position]
        present = [names[k] for k in np.flatnonzero(labels == 1)]
        lines.append("truth: " + (", ".join(present) or ("none of them" if (labels == 0).any() else "unknown")))
    return "\n".join(part for line in lines for part in textwrap.wrap(line, CAPTION_WIDTH))


def _overlap(rows: ScoredRows, position: int, classes: Classes) -> str:
    """Jaccard of the foreground classes that are there, with their names where there are several."""
    counts = rows.counts.take([position])
    found = zip(classes.masks[1:], jaccard(counts, empty=np.nan)[0, 1:], strict=True)
    several = len(classes.masks) > 2
    shown = [f"{name} {value:.2f}" if several else f"{value:.2f}" for name, value in found if not np.isnan(value)]
    return ", ".join(shown) or ("empty" if counts.annotated.any() else "no mask")


def class_style(index: int) -> str:
    """Line style of a foreground class (index from 1), as matplotlib takes it."""
    return CLASS_STYLES[(index - 1) % len(CLASS_STYLES)]


def draw_case(axes: "Axes", case: DrawnCase, mask_class_names: Sequence[str]) -> None:
    """An image with contours: the truth in one colour, the prediction in another; of several foreground classes each has
    its own line style and its name beside it."""
    axes.imshow(np.asarray(case.drawn.image))
    for index, name in list(enumerate(mask_class_names))[1:]:
        for mask, colour, width in ((case.drawn.true, TRUTH, 2.2), (case.drawn.predicted, PREDICTION, 1.5)):
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
