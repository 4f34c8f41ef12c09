"""The panels of `report.png`: losses and scores over the epochs, ROC curves, reliability diagram and confusion."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..metrics.score_table import main_first
from ..metrics.scores import roc_curve
from .answers import ScoredRows
from .evaluation import Evaluation


if TYPE_CHECKING:
    from matplotlib.axes import Axes


LINE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#000000")  # Okabe and Ito's that show on white
LOSS_PANELS = {"segmentation_loss": "Segmentation loss", "classification_loss": "Classification loss"}
SCORE_PANELS = {"masks": "Validation: masks", "classes": "Validation: image-level classes"}

Panel = Callable[["Axes"], None]


@dataclass(frozen=True)
class TrainingLog:
    """What is known of a training.

    Attributes:
        lines: of its log, each with an `epoch`, losses and scores by name, those of the validation split after `eval_`.
        selected_epoch: whose weights were kept; None where that is unknown.
    """

    lines: Sequence[Mapping[str, float]] = ()
    selected_epoch: float | None = None


def curve_panels(log: TrainingLog) -> list[Panel]:
    """Losses of both splits and scores of the validation split over the epochs, as far as the log has them."""
    panels: list[Panel] = []
    for key, title in LOSS_PANELS.items():
        lines = {"training": curve(log.lines, key), "validation": curve(log.lines, f"eval_{key}")}
        if lines["validation"]:
            panels.append(partial(_draw_curves, title=title, lines=lines, selected=log.selected_epoch))
    for of, title in SCORE_PANELS.items():
        shown = [score for score in main_first(of) if score.curve is not None]
        curves = {score.name: curve(log.lines, f"eval_{score.name}") for score in shown}
        # Where every image holds every class, the two are one.
        repeated = {score.name for score in shown if score.where_present and curves[score.name] == curves["dice"]}
        lines = {score.curve: curves[score.name] for score in shown if score.name not in repeated}
        if curves[shown[0].name]:
            panels.append(partial(_draw_curves, title=title, lines=lines, selected=log.selected_epoch, limits=(0, 1)))
    return panels


def curve(lines: Sequence[Mapping[str, float]], key: str) -> list[tuple[float, float]]:
    """(epoch, value) wherever the log has a number under that key."""
    return [(line["epoch"], line[key]) for line in lines if key in line and "epoch" in line]


def class_panels(evaluation: Evaluation) -> list[Panel]:
    """ROC curves, reliability and confusion; nothing for a model that only segments."""
    rows, names = evaluation.rows, evaluation.classes.labels
    if rows.probabilities is None:
        return []
    panels: list[Panel] = [
        lambda axes: draw_roc(axes, evaluation),
        lambda axes: draw_reliability(axes, evaluation),
    ]
    if evaluation.classes.thresholds is None or exclude_each_other(rows.class_labels):
        return [*panels, lambda axes: draw_confusion(axes, rows, names)]
    return [*panels, lambda axes: draw_decisions(axes, evaluation)]


def exclude_each_other(labels: np.ndarray) -> bool:
    """Whether every labelled row of (N, K) labels has exactly one of several classes."""
    complete = labels[(labels >= 0).all(axis=1)]
    some_known = (labels >= 0).any(axis=1).sum()
    alike = len(complete) == some_known > 0 and (complete.sum(axis=1) == 1).all()
    return labels.shape[1] > 1 and bool(alike)


def draw_roc(axes: "Axes", evaluation: Evaluation) -> None:
    """One curve a class, with its area and the number of rows with and without it."""
    rows = evaluation.rows
    for k, name in enumerate(evaluation.classes.labels):
        labels, area = rows.class_labels[:, k], evaluation.everything.model[f"auc_{name}"].value
        if math.isnan(area):
            continue
        counts = f"{int((labels == 1).sum())} of {int((labels >= 0).sum())}"
        axes.plot(
            *roc_curve(rows.probabilities[:, k], labels), color=_colour(k), label=f"{name} {area:.3f} ({counts})"
        )
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1)
    axes.set(title="ROC: AUC (rows with the class)", xlabel="false positive rate", ylabel="true positive rate")
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    _legend(axes, "lower right")


def draw_reliability(axes: "Axes", evaluation: Evaluation) -> None:
    """Share of rows that have a class against its mean probability, by bin; larger dots stand for more rows."""
    before = {} if evaluation.uncalibrated is None else evaluation.uncalibrated.reliability
    for k, bins in enumerate(before.values()):
        points = [(one.mean_probability, one.share_present) for one in bins if one.n]
        axes.plot(*zip(*points, strict=True) if points else ((), ()), color=_colour(k), linewidth=0.8, linestyle="--")
    for k, (name, bins) in enumerate(evaluation.reliability.items()):
        filled = [one for one in bins if one.n]
        if not filled:
            continue
        x, y = [one.mean_probability for one in filled], [one.share_present for one in filled]
        total = sum(one.n for one in filled)
        error = evaluation.everything.model[f"calibration_error_{name}"].value
        axes.plot(x, y, color=_colour(k), linewidth=1, label=f"{name} {error:.3f}")
        axes.scatter(x, y, [12 + 150 * one.n / total for one in filled], color=_colour(k), alpha=0.7, linewidths=0)
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1)
    dashed = ", dashed without calibration" if before else ""
    axes.set(title=f"Reliability: calibration error{dashed}", xlabel="mean probability", ylabel="share with the class")
    axes.set(xlim=(0, 1), ylim=(-0.03, 1.03))
    _legend(axes, "lower right")


def draw_confusion(axes: "Axes", rows: ScoredRows, names: Sequence[str]) -> None:
    """K x K counts by the class of highest probability, for labels that exclude each other."""
    known = (rows.class_labels == 1).sum(axis=1) == 1
    true, predicted = rows.class_labels[known].argmax(axis=1), rows.probabilities[known].argmax(axis=1)
    table = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(table, (true, predicted), 1)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    _draw_table(axes, table, share, names, names)
    axes.set(title="Confusion: highest probability decides", xlabel="predicted", ylabel="truth")


def draw_decisions(axes: "Axes", evaluation: Evaluation) -> None:
    """K x 4 counts of decisions at the thresholds, for labels of which several or none may be present."""
    decisions, thresholds = evaluation.decisions, evaluation.classes.threshold_by_label
    table = np.array([[d["tp"], d["fn"], d["fp"], d["tn"]] for d in decisions.values()])
    of = np.stack([table[:, :2].sum(axis=1)] * 2 + [table[:, 2:].sum(axis=1)] * 2, axis=1)
    names = [f"{name}\n(at {thresholds[name]:.2f})" for name in decisions]
    columns = ["present,\nfound", "present,\nmissed", "absent,\nfalse alarm", "absent,\nagreed"]
    _draw_table(axes, table, table / np.maximum(of, 1), columns, names)
    axes.set(title="Decisions at each class's threshold")


def _draw_curves(
    axes: "Axes",
    title: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    selected: float | None,
    limits: tuple[float, float] | None = None,
) -> None:
    for number, (label, points) in enumerate(lines.items()):
        if points:
            marker = "o" if len(points) == 1 else None
            axes.plot(*zip(*points, strict=True), color=_colour(number), label=label, marker=marker)
    if selected is not None:
        axes.axvline(selected, color="0.5", linestyle="--", linewidth=1, label="kept")
    if limits is not None:
        axes.set_ylim(*limits)
    axes.set(title=title, xlabel="epoch")
    axes.grid(alpha=0.3)
    _legend(axes, "best")


def _draw_table(
    axes: "Axes", table: np.ndarray, share: np.ndarray, columns: Sequence[str], lines: Sequence[str]
) -> None:
    """Counts in cells, coloured by their share, which stands below them."""
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), count in np.ndenumerate(table):
        colour = "white" if share[i, j] > 0.6 else "black"
        axes.text(j, i, f"{count}\n{share[i, j]:.0%}", ha="center", va="center", color=colour, fontsize=10)
    axes.set_xticks(range(len(columns)), [_wrapped(name) for name in columns], fontsize=9)
    axes.set_yticks(range(len(lines)), [_wrapped(name) for name in lines], fontsize=9)


def _legend(axes: "Axes", place: str) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=place, fontsize=9, framealpha=0.8)


def _colour(index: int) -> str:
    """Of a line on white."""
    return LINE_COLOURS[index % len(LINE_COLOURS)]


def _wrapped(name: str) -> str:
    return name if len(name) < 12 or "\n" in name else name.replace("_", "\n").replace(" ", "\n")
