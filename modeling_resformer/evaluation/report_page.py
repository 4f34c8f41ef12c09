"""`report.png` and `samples.png`: what a run learned and where it fails, on one page, and some test images.

The page has the panels that the model's task has: losses and validation scores over the epochs, ROC curves, reliability
diagram, confusion, and the worst and best cases with contours. `samples.png` shows images spread evenly over the split,
chosen without a look at how they came out. Both need matplotlib.
"""

import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from ..data.rows import EvaluationRows
from ..files import whole_file
from ..metrics.scores import roc_curve
from ..training.trainer import ResFormerTrainer
from .drawn_cases import (
    PREDICTION,
    TRUTH,
    DrawnCase,
    Ranking,
    class_style,
    draw_case,
    drawn_cases,
    evenly_spaced,
    ranking,
)
from .evaluation_metrics import EvaluationMetrics
from .results import besides
from .row_statistics import RowStatistics


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure


logger = logging.getLogger(__name__)

PAGE_WIDTH = 14.0  # inches
DPI = 100
LINE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#000000")  # Okabe and Ito's that show on white
CASES_A_ROW = 6
LINE_HEIGHT = 0.16  # inches, of a caption
SAMPLES = 12
LOSS_PANELS = {"segmentation_loss": "Segmentation loss", "classification_loss": "Classification loss"}
SCORE_PANELS = {
    "Validation: masks": {"dice": "Dice", "jaccard": "Jaccard", "dice_present": "Dice, class present"},
    "Validation: image-level classes": {
        "auc": "AUC, mean",
        "accuracy": "accuracy",
        "sensitivity": "sensitivity",
        "specificity": "specificity",
    },
}

Log = Sequence[Mapping[str, float]]
Panel = Callable[["Axes"], None]


def write_pages(
    trainer: ResFormerTrainer, rows: EvaluationRows, results: Mapping[str, Any] | None, folder: Path
) -> None:
    """Draw both pages of the split that was just evaluated; without matplotlib, one line says so and nothing is drawn.

    Every process calls this, the main one draws.

    Args:
        trainer: after the evaluation; its log of training, if there is one, gives the curves.
        rows: that were evaluated.
        results: the content of `results.json`; None on the other processes.
        folder: for `report.png` and `samples.png`.
    """
    if importlib.util.find_spec("matplotlib") is None:
        if results is not None:
            logger.warning("No report.png: matplotlib is not installed; pip install matplotlib.")
        return
    seen = trainer.compute_metrics.rows
    ranked = ranking(seen)
    worst = ranked.worst(CASES_A_ROW)
    best = ranked.best(CASES_A_ROW, but=worst)
    groups = [drawn_cases(trainer, rows, chosen) for chosen in (worst, best)]
    samples = drawn_cases(trainer, rows, evenly_spaced(len(seen.row_index), SAMPLES))
    if results is None:
        return
    titles = (cases_title("worst", len(worst), ranked), cases_title("best", len(best), ranked))
    cases = {title: group for title, group in zip(titles, groups, strict=True) if group}
    state = trainer.state
    page = draw_page(trainer.compute_metrics, results, state.log_history, selected_epoch(trainer), cases)
    save(page, folder / "report.png")
    names = trainer.compute_metrics.config.mask_class_names
    sheet = draw_samples(samples, names, results["split"], len(seen.row_index))
    save(sheet, folder / "samples.png")


def recall_training(trainer: ResFormerTrainer, checkpoint: Path) -> None:
    """Takes over the log of the training that left a checkpoint, where it lies beside it.

    So the page of a later evaluation keeps the curves, and the epoch whose weights were kept.

    Args:
        trainer: before it evaluates.
        checkpoint: folder of the model; a Hub id has no log.
    """
    path = checkpoint / TRAINER_STATE_NAME
    if not path.is_file():
        return
    try:
        past = TrainerState.load_from_json(str(path))
        trainer.state.log_history = [dict(line) for line in past.log_history]
        trainer.state.best_global_step = past.best_global_step
    except (OSError, TypeError, ValueError) as error:
        logger.warning("%s: no log of a training (%s); the page has no curves.", path, type(error).__name__)


def draw_page(
    metrics: EvaluationMetrics,
    results: Mapping[str, Any],
    log: Log,
    selected: float | None,
    cases: Mapping[str, Sequence[DrawnCase]],
) -> "Figure":
    """The page.

    Args:
        metrics: after the evaluation.
        results: the content of `results.json`.
        log: of the Trainer; empty for a checkpoint that was only evaluated.
        selected: the epoch whose weights were kept, if known.
        cases: drawn images by the title of their row.
    """
    from matplotlib.figure import Figure

    bands: list[tuple[float, Callable[[SubFigure], None]]] = []
    for panels in (curve_panels(log, selected), class_panels(metrics, results)):
        if panels:
            bands.append((3.4, lambda part, panels=panels: _fill(part, panels)))
    names = metrics.config.mask_class_names
    for title, group in cases.items():
        bands.append(
            (3.2 + caption_room(group), lambda part, title=title, group=group: _fill_cases(part, title, group, names))
        )
    figure = Figure(figsize=(PAGE_WIDTH, 0.9 + sum(height for height, _ in bands)), dpi=DPI, layout="constrained")
    figure.suptitle(headline(results), fontsize=13)
    if not bands:  # nothing is annotated and there is no log
        return figure
    parts = figure.subfigures(len(bands), 1, height_ratios=[height for height, _ in bands], squeeze=False)
    for part, (_, fill) in zip(parts[:, 0], bands, strict=True):
        fill(part)
    return figure


def cases_title(end: str, shown: int, ranked: Ranking) -> str:
    """Which cases a row shows, of how many, and how many share the score at that end (`worst` or `best`)."""
    title = f"{end.capitalize()} cases by {ranked.name}: {shown} of {len(ranked.positions)}"
    place = 0 if end == "worst" else -1
    if (sharing := ranked.sharing(place)) > 1:
        title += f"; {sharing} share the {end} score, {ranked.scores[place]:.2f}"
        title += ", shown across classes" if sharing > shown else ""
    return title


def draw_samples(
    cases: Sequence[DrawnCase], mask_class_names: Sequence[str], split: str, total: int | None = None
) -> "Figure":
    """Images in rows of four, not chosen by result, of `total` in the split."""
    from matplotlib.figure import Figure

    lines = -(-len(cases) // 4)
    figure = Figure(figsize=(11.0, 0.8 + (3.2 + caption_room(cases)) * lines), dpi=DPI, layout="constrained")
    number = f"{len(cases)} of {len(cases) if total is None else total}"
    figure.suptitle(f"{number} {split} images, evenly spaced, not chosen by result", fontsize=12)
    _draw_cases(figure, cases, mask_class_names, columns=4)
    return figure


def caption_room(cases: Sequence[DrawnCase]) -> float:
    """Inches that captions of more than three lines need."""
    return LINE_HEIGHT * max(0, max((case.caption.count("\n") + 1 for case in cases), default=0) - 3)


def save(figure: "Figure", path: Path) -> None:
    """Write beside and rename."""
    with whole_file(path) as partial:
        figure.savefig(partial, format="png")


def headline(results: Mapping[str, Any]) -> str:
    """What was evaluated and the main scores with their intervals."""
    model = results["model"]
    shown = []
    for name in ("dice", "jaccard", "auc"):
        score = model.get(name)
        if score and score["n"] and score["value"] is not None:
            interval = "" if score["low"] is None else f" ({score['low']:.3f} to {score['high']:.3f})"
            shown.append(f"{name} {score['value']:.3f}{interval}")
    level = f"{results['interval']['level']:.0%} intervals by case"
    first = f"{results['images']} {results['split']} images of {results['cases']} cases{besides(results)}"
    return f"{first}\n{',  '.join(shown)}" + (f",  {level}" if "(" in "".join(shown) else "")


def curve_panels(log: Log, selected: float | None) -> list[Panel]:
    """Losses of both splits and scores of the validation split over the epochs, as far as the log has them."""
    panels: list[Panel] = []
    for key, title in LOSS_PANELS.items():
        lines = {"training": curve(log, key), "validation": curve(log, f"eval_{key}")}
        panels.append(lambda axes, title=title, lines=lines: _draw_curves(axes, title, lines, selected))
    for title, names in SCORE_PANELS.items():
        lines = {label: curve(log, f"eval_{name}") for name, label in names.items()}
        if lines.get("Dice, class present") == lines.get("Dice"):
            lines.pop("Dice, class present", None)
        panels.append(lambda axes, title=title, lines=lines: _draw_curves(axes, title, lines, selected, (0, 1)))
    known = [bool(curve(log, f"eval_{key}")) for key in (*LOSS_PANELS, "dice", "auc")]
    return [panel for panel, drawn in zip(panels, known, strict=True) if drawn]


def curve(log: Log, key: str) -> list[tuple[float, float]]:
    """(epoch, value) wherever the log has a number under that key."""
    return [(line["epoch"], line[key]) for line in log if key in line and "epoch" in line]


def class_panels(metrics: EvaluationMetrics, results: Mapping[str, Any]) -> list[Panel]:
    """ROC curves, reliability and confusion; nothing for a model that only segments."""
    if not metrics.rows.has_labels:
        return []
    rows, names = metrics.rows, metrics.config.image_class_names
    panels: list[Panel] = [
        lambda axes: draw_roc(axes, rows, names, results),
        lambda axes: draw_reliability(axes, names, results),
    ]
    if exclude_each_other(rows.class_labels):
        return [*panels, lambda axes: draw_confusion(axes, rows, names)]
    return [*panels, lambda axes: draw_decisions(axes, results)]


def exclude_each_other(labels: np.ndarray) -> bool:
    """Whether every labelled row of (N, K) labels has exactly one of several classes."""
    complete = labels[(labels >= 0).all(axis=1)]
    some_known = (labels >= 0).any(axis=1).sum()
    alike = len(complete) == some_known > 0 and (complete.sum(axis=1) == 1).all()
    return labels.shape[1] > 1 and bool(alike)


def draw_roc(axes: "Axes", rows: RowStatistics, names: Sequence[str], results: Mapping[str, Any]) -> None:
    """One curve a class, with its area and the number of rows with and without it."""
    for k, name in enumerate(names):
        labels, area = rows.class_labels[:, k], results["model"][f"auc_{name}"]["value"]
        if area is None:
            continue
        counts = f"{int((labels == 1).sum())} of {int((labels >= 0).sum())}"
        axes.plot(
            *roc_curve(rows.probabilities[:, k], labels), color=_colour(k), label=f"{name} {area:.3f} ({counts})"
        )
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1)
    axes.set(title="ROC: AUC (rows with the class)", xlabel="false positive rate", ylabel="true positive rate")
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    _legend(axes, "lower right")


def draw_reliability(axes: "Axes", names: Sequence[str], results: Mapping[str, Any]) -> None:
    """Share of rows that have a class against its mean probability, by bin; larger dots stand for more rows."""
    for k, name in enumerate(names):
        filled = [entry for entry in results["reliability"][name] if entry["n"]]
        if not filled:
            continue
        x, y = [e["mean_probability"] for e in filled], [e["share_present"] for e in filled]
        total = sum(entry["n"] for entry in filled)
        error = results["model"][f"calibration_error_{name}"]["value"]
        axes.plot(x, y, color=_colour(k), linewidth=1, label=f"{name} {error:.3f}")
        axes.scatter(x, y, [12 + 150 * e["n"] / total for e in filled], color=_colour(k), alpha=0.7, linewidths=0)
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1)
    axes.set(title="Reliability: calibration error", xlabel="mean probability", ylabel="share with the class")
    axes.set(xlim=(0, 1), ylim=(-0.03, 1.03))
    _legend(axes, "lower right")


def draw_confusion(axes: "Axes", rows: RowStatistics, names: Sequence[str]) -> None:
    """K x K counts by the class of highest probability, for labels that exclude each other."""
    known = (rows.class_labels >= 0).all(axis=1)
    true, predicted = rows.class_labels[known].argmax(axis=1), rows.probabilities[known].argmax(axis=1)
    table = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(table, (true, predicted), 1)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    _draw_table(axes, table, share, names, names)
    axes.set(title="Confusion: highest probability decides", xlabel="predicted", ylabel="truth")


def draw_decisions(axes: "Axes", results: Mapping[str, Any]) -> None:
    """K x 4 counts of decisions at the thresholds, for labels of which several or none may be present."""
    decisions = results["decisions"]
    table = np.array([[d["tp"], d["fn"], d["fp"], d["tn"]] for d in decisions.values()])
    of = np.stack([table[:, :2].sum(axis=1)] * 2 + [table[:, 2:].sum(axis=1)] * 2, axis=1)
    names = [f"{name}\n(at {results['thresholds'][name]:.2f})" for name in decisions]
    columns = ["present,\nfound", "present,\nmissed", "absent,\nfalse alarm", "absent,\nagreed"]
    _draw_table(axes, table, table / np.maximum(of, 1), columns, names)
    axes.set(title="Decisions at each class's threshold")


def selected_epoch(trainer: ResFormerTrainer) -> float | None:
    """The epoch whose weights were kept, from the log; None where that is unknown."""
    state = trainer.state
    lines = [line for line in state.log_history if "eval_loss" in line and line["step"] == state.best_global_step]
    return lines[0]["epoch"] if lines else None


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


def _fill(part: "SubFigure", panels: Sequence[Panel]) -> None:
    for axes, panel in zip(part.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        panel(axes)


def _fill_cases(part: "SubFigure", title: str, cases: Sequence[DrawnCase], mask_class_names: Sequence[str]) -> None:
    strip, below = part.subfigures(2, 1, height_ratios=[0.3, 2.9])
    strip.text(0.5, 0.2, title, ha="center", fontsize=12)
    _draw_cases(below, cases, mask_class_names, columns=CASES_A_ROW)


def _draw_cases(
    part: "Figure | SubFigure", cases: Sequence[DrawnCase], mask_class_names: Sequence[str], columns: int
) -> None:
    grid = part.subplots(-(-len(cases) // columns), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, case in zip(grid.flat, cases, strict=False):
        draw_case(axes, case, mask_class_names)
    if any(case.predicted is not None for case in cases):
        _contour_legend(part, mask_class_names)


def _contour_legend(part: "Figure | SubFigure", mask_class_names: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    entries = [("truth", TRUTH, "solid"), ("prediction", PREDICTION, "solid")]
    if len(mask_class_names) > 2:
        entries += [(name, "0.3", class_style(k)) for k, name in enumerate(mask_class_names) if k]
    handles = [Line2D([], [], color=colour, linestyle=style, linewidth=2) for _, colour, style in entries]
    labels = [label for label, _, _ in entries]
    part.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=10, frameon=False)


def _legend(axes: "Axes", place: str) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=place, fontsize=9, framealpha=0.8)


def _colour(index: int) -> str:
    """Of a line on white."""
    return LINE_COLOURS[index % len(LINE_COLOURS)]


def _wrapped(name: str) -> str:
    return name if len(name) < 12 or "\n" in name else name.replace("_", "\n").replace(" ", "\n")
