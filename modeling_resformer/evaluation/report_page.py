"""`report.png` and `samples.png`: what a run learned and where it fails, on one page, and some test images.

The page has the panels that the model's task has: losses and validation scores over the epochs, ROC curves, reliability
diagram, confusion, and the worst and best cases with contours. `samples.png` shows images spread evenly over the split,
chosen without a look at how they came out. Both need matplotlib.
"""

import importlib.util
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import whole_file
from ..metrics.score_table import MAIN_SCORES
from .drawn_cases import PREDICTION, TRUTH, DrawnCase, class_style, draw_case, drawn_cases
from .evaluation import Evaluation
from .panels import Panel, TrainingLog, class_panels, curve_panels
from .shown_rows import CASES_A_ROW, Ranking


if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure


logger = logging.getLogger(__name__)

PAGE_WIDTH = 14.0  # inches
DPI = 100
LINE_HEIGHT = 0.16  # inches, of a caption

Band = tuple[float, Callable[["SubFigure"], None]]  # height in inches, and what fills it


def write_pages(evaluation: Evaluation, folder: Path, log: TrainingLog | None = None) -> None:
    """Draw both pages; without matplotlib, one line says so and nothing is drawn.

    Args:
        evaluation: of a split.
        folder: for `report.png` and `samples.png`.
        log: of the training that led to it, if there was one: it gives the curves.
    """
    if importlib.util.find_spec("matplotlib") is None:
        logger.warning("No report.png: matplotlib is not installed; pip install matplotlib.")
        return
    from matplotlib import rc_context

    with rc_context({"text.parse_math": False}):  # a $ in the name of a class or a case is a $
        save(draw_page(evaluation, log or TrainingLog()), folder / "report.png")
        samples = drawn_cases(evaluation, evaluation.images.shown.samples)
        sheet = draw_samples(samples, evaluation.classes.masks, evaluation.split, len(evaluation.rows.row_index))
        save(sheet, folder / "samples.png")


def draw_page(evaluation: Evaluation, log: TrainingLog) -> "Figure":
    """The page `report.png`."""
    from matplotlib.figure import Figure

    bands = _bands(evaluation, log)
    figure = Figure(figsize=(PAGE_WIDTH, 0.9 + sum(height for height, _ in bands)), dpi=DPI, layout="constrained")
    figure.suptitle(headline(evaluation), fontsize=13)
    if not bands:  # nothing is annotated and there is no log
        return figure
    parts = figure.subfigures(len(bands), 1, height_ratios=[height for height, _ in bands], squeeze=False)
    for part, (_, fill) in zip(parts[:, 0], bands, strict=True):
        fill(part)
    return figure


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


def cases_title(end: str, shown: int, ranked: Ranking) -> str:
    """Which cases a row shows, of how many, and how many share the score at that end (`worst` or `best`)."""
    title = f"{end.capitalize()} cases by {ranked.name}: {shown} of {len(ranked.positions)}"
    place = 0 if end == "worst" else -1
    if (sharing := ranked.sharing(place)) > 1:
        title += f"; {sharing} share the {end} score, {ranked.scores[place]:.2f}"
        title += ", shown across classes" if sharing > shown else ""
    return title


def headline(evaluation: Evaluation) -> str:
    """What was evaluated and the main scores with their intervals."""
    everything, shown = evaluation.everything, []
    for name in MAIN_SCORES:
        score = everything.model.get(name)
        if score and score.n and not math.isnan(score.value):
            interval = "" if math.isnan(score.low) else f" ({score.low:.3f} to {score.high:.3f})"
            shown.append(f"{name} {score.value:.3f}{interval}")
    level = f"{evaluation.scoring.bootstrap.level:.0%} intervals by case"
    counted = f"{everything.images} {evaluation.split} images of {everything.cases} cases{everything.besides}"
    return f"{counted}\n{',  '.join(shown)}" + (f",  {level}" if "(" in "".join(shown) else "")


def caption_room(cases: Sequence[DrawnCase]) -> float:
    """Inches that captions of more than three lines need."""
    return LINE_HEIGHT * max(0, max((case.caption.count("\n") + 1 for case in cases), default=0) - 3)


def save(figure: "Figure", path: Path) -> None:
    """Write beside and rename."""
    with whole_file(path) as partial:
        figure.savefig(partial, format="png")


def _bands(evaluation: Evaluation, log: TrainingLog) -> list[Band]:
    """What the page shows, from top to bottom."""
    bands: list[Band] = []
    for panels in (curve_panels(log), class_panels(evaluation)):
        if panels:
            bands.append((3.4, lambda part, panels=panels: _fill(part, panels)))
    names, shown = evaluation.classes.masks, evaluation.images.shown
    for end, positions in (("worst", shown.worst), ("best", shown.best)):
        if not positions:
            continue
        title, cases = cases_title(end, len(positions), shown.ranked), drawn_cases(evaluation, positions)
        bands.append(
            (3.2 + caption_room(cases), lambda part, title=title, cases=cases: _fill_cases(part, title, cases, names))
        )
    return bands


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
    if any(case.drawn.predicted is not None for case in cases):
        _contour_legend(part, mask_class_names)


def _contour_legend(part: "Figure | SubFigure", mask_class_names: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    entries = [("truth", TRUTH, "solid"), ("prediction", PREDICTION, "solid")]
    if len(mask_class_names) > 2:
        entries += [(name, "0.3", class_style(k)) for k, name in enumerate(mask_class_names) if k]
    handles = [Line2D([], [], color=colour, linestyle=style, linewidth=2) for _, colour, style in entries]
    labels = [label for label, _, _ in entries]
    part.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=10, frameon=False)
