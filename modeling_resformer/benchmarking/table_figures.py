"""Figures of a grid: Pareto plots, the share of masks, Dice against size, and masks beside each other as the paper's 5 to 8."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from ..data.prepared import PreparedDataset
from ..drawing import displayable
from ..files import whole_file
from ..metrics.score_table import SCORES
from .analyses import dice_by_size, shares_of_masks, trained_lines
from .cell_runs import fitted, shown_rows
from .grid import Cell, Grid
from .table_lines import Line, Part, value_of


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# As in the paper's figures.
TRUE_POSITIVE, FALSE_NEGATIVE, FALSE_POSITIVE = (255, 220, 0), (230, 30, 30), (40, 180, 60)
FLUIDS = ((0, 0, 0), (230, 30, 30), (40, 180, 60), (50, 90, 230))
STRENGTH = 0.55  # of the colour over the image
CAPTION, LETTER = 46, 7  # pixels above a picture, and of a letter there
LEAST_SIDE = 150  # pixels of a picture's place
COLUMNS = 8  # pictures beside each other
MARKERS = {"ours": "*", "rival": "o"}
PLOTTED = ("dice_present", "auc")


def draw_figures(grid: Grid, parts: Sequence[Part], data: Mapping[str, PreparedDataset], output: Path) -> list[Path]:
    """Draws every figure that there is something for; where they stand.

    Args:
        grid: that was run.
        parts: of its tables.
        data: by dataset of the grid; without one there are no masks to look at.
        output: folder of the cells.
    """
    import matplotlib

    matplotlib.use("Agg")
    folder = output / "figures"
    folder.mkdir(exist_ok=True)
    drawn = []
    for text, lines in trained_lines(parts).items():
        name = "_".join(text.lower().replace(",", "").split())
        for kind, figure in (("pareto", pareto(text, lines)), ("size", size_figure(text, lines))):
            drawn += save_figure(figure, folder / f"{kind}_{name}.png")
    for part in parts:
        if part.table.name == "share_of_masks":
            drawn += save_figure(share_figure(part), folder / f"share_of_masks_{part.dataset}.png")
    for dataset, prepared in data.items():
        sheet = masks_sheet(grid, [part for part in parts if part.dataset == dataset], dataset, prepared, output)
        if sheet is not None:
            with whole_file(folder / f"masks_{dataset}.png") as partial:
                sheet.save(partial, format="PNG")
            drawn.append(folder / f"masks_{dataset}.png")
    return drawn


def save_figure(figure: "Figure | None", path: Path) -> list[Path]:
    if figure is None:
        return []
    from matplotlib import pyplot

    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
    pyplot.close(figure)
    return [path]


def pareto(title: str, lines: Mapping[str, Line]) -> "Figure | None":
    """Dice and AUC against the time of one image, those that nobody beats in both joined by a line."""
    from matplotlib import pyplot

    columns = {score.name: score.column for score in SCORES if score.name in PLOTTED}
    shown = [name for name in columns if any(not math.isnan(value_of(line, name)) for line in lines.values())]
    if not shown or not all(line.cost for line in lines.values()):
        return None
    number = {text: i for i, text in enumerate(lines, start=1)}
    size = 6 * len(shown) + 4, max(5, 0.21 * len(lines))
    figure, axes = pyplot.subplots(1, len(shown), figsize=size, layout="constrained", squeeze=False)
    for one, name in zip(axes[0], shown, strict=True):
        points = [(line.cost["milliseconds"], 100 * value_of(line, name), line) for line in lines.values()]
        points = sorted((point for point in points if not math.isnan(point[1])), key=lambda point: point[:2])
        for x, y, line in points:
            one.plot(x, y, **marker_of(line))
            one.annotate(str(number[line.text]), (x, y), (6, 4), textcoords="offset points", fontsize=8)
        front = pareto_front([point[:2] for point in points])
        one.step(*zip(*front, strict=True), where="post", color="0.6", zorder=0)
        one.set(
            xscale="log", xlabel="milliseconds an image, forward", ylabel=f"{columns[name]}, per cent", title=title
        )
        one.margins(x=0.08)
        plain_ticks(one)
    named = [
        pyplot.Line2D([], [], label=f"{number[t]}  {short_name(t, 64)}", **marker_of(line))
        for t, line in lines.items()
    ]
    figure.legend(handles=named, loc="outside right upper", fontsize=8)
    return figure


def marker_of(line: Line) -> dict[str, Any]:
    """How matplotlib draws the point of a line."""
    ours = line.kind == "ours"
    look = {"color": "C1" if ours else "C0", "markersize": 13 if ours else 7}
    return {"marker": MARKERS[line.kind], "linestyle": "", **look}


def plain_ticks(axes: "Axes") -> None:
    """Numbers as they are below a logarithmic axis."""
    low, high = axes.get_xlim()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    steps = (1, 2, 5) if high > 8 * low else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8)
    ticks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_formatter("")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, score) those that no other beats: none is as cheap and better, or as good and cheaper. Ascending."""
    front: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    return front


def size_figure(title: str, lines: Mapping[str, Line]) -> "Figure | None":
    """Mean Dice of every quarter of the images by the size of what they show."""
    from matplotlib import pyplot

    segmenting = {text: line for text, line in lines.items() if line.answers[0].rows.counts is not None}
    if not segmenting:
        return None
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for number, (text, line) in enumerate(segmenting.items()):
        means, medians = dice_by_size(line.answers)
        style = {"ours": "-", "rival": "--"}[line.kind]
        axes.plot(100 * medians, 100 * means, style, marker="o", color=f"C{number % 10}", label=short_name(text))
    axes.set(
        xscale="log", xlabel="median size of the quarter, per cent of the image", ylabel="Dice, per cent", title=title
    )
    plain_ticks(axes)
    axes.legend(fontsize=7, loc="lower right")
    return figure


def share_figure(part: Part) -> "Figure | None":
    """Dice and AUC against the share of the training images that have masks, with the intervals over cases."""
    from matplotlib import pyplot

    models = shares_of_masks(part)
    columns = {score.name: score.column for score in SCORES if score.name in PLOTTED}
    if all(len(lines) < 2 for lines in models.values()):
        return None
    figure, axes = pyplot.subplots(1, len(columns), figsize=(7 * len(columns), 4.5), layout="constrained")
    for one, (name, column) in zip(axes, columns.items(), strict=True):
        for number, lines in enumerate(models.values()):
            known = [(100 * share, line.scores[name]) for share, line in lines if name in line.scores]
            x, y = [share for share, _ in known], np.array([[s.value, s.low, s.high] for _, s in known]) * 100
            reach = np.nan_to_num(np.abs(y[:, 1:].T - y[:, 0]))
            label = lines[-1][1].text
            one.errorbar(
                x, y[:, 0], yerr=reach, marker="o", capsize=3, color=f"C{number}", label=short_name(label, 64)
            )
        one.set(xscale="log", xlabel="per cent of the training images with masks", ylabel=f"{column}, per cent")
        ticks = sorted({100 * share for lines in models.values() for share, _ in lines})
        one.set_xticks(ticks, [f"{share:g}" for share in ticks])
        one.xaxis.set_minor_formatter("")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    figure.suptitle(f"{part.table.title}, {part.text}")
    return figure


def short_name(text: str, most: int = 34) -> str:
    text = text.partition(" (stand-in")[0]
    return text if len(text) <= most else f"{text[: most - 1]}…"


def masks_sheet(
    grid: Grid, parts: Sequence[Part], dataset: str, prepared: PreparedDataset, output: Path
) -> Image.Image | None:
    """Rows of pictures for each shown image: the image, its truth, and what each model of the first seed made of it."""
    models = {text: line for lines in trained_lines(parts).values() for text, line in lines.items()}
    folders = {}
    for text, line in models.items():
        place = output / "cells" / Cell(**line.answers[0].record["cell"]).name / "shown"
        if any(place.glob("*.png")):
            folders[text] = place
    rows = [(name, row) for name, row in shown_rows(prepared) if row["mask"] is not None]
    if not folders or not rows:
        return None
    lines = []
    for name, row in rows:
        size = fitted(row["image"].size)
        image = displayable(row["image"]).resize(size, Image.Resampling.BILINEAR)
        true = np.asarray(row["mask"].resize(size, Image.Resampling.NEAREST))
        tiles = [("image", image), ("truth", coloured(image, true, true))]
        for text, place in folders.items():
            file = place / f"{name}.png"
            if file.is_file():
                tiles.append((short_name(text, 62), coloured(image, true, np.asarray(Image.open(file)))))
        lines += [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
    return pasted(lines)


def coloured(image: Image.Image, true: np.ndarray, predicted: np.ndarray) -> Image.Image:
    """Of one class true positives yellow, false negatives red, false positives green; of several each in its colour."""
    pixels = np.asarray(image, dtype=np.float64).copy()
    if max(int(true[true != 255].max(initial=0)), int(predicted.max(initial=0))) <= 1:
        areas = [
            ((true == 1) & (predicted == 1), TRUE_POSITIVE),
            ((true == 1) & (predicted != 1), FALSE_NEGATIVE),
            ((true == 0) & (predicted == 1), FALSE_POSITIVE),
        ]
    else:
        areas = [
            (predicted == index, FLUIDS[(index - 1) % 3 + 1]) for index in range(1, int(predicted.max(initial=0)) + 1)
        ]
    for area, colour in areas:
        pixels[area] = (1 - STRENGTH) * pixels[area] + STRENGTH * np.array(colour, dtype=np.float64)
    return Image.fromarray(pixels.astype(np.uint8))


def pasted(lines: Sequence[Sequence[tuple[str, Image.Image]]]) -> Image.Image:
    """Pictures in rows, the name of each above it, on up to three lines."""
    side = max(LEAST_SIDE, *(max(image.size) for line in lines for _, image in line)) + 4
    width, height = side * max(map(len, lines)), (side + CAPTION) * len(lines)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        for column, (text, image) in enumerate(line):
            corner = column * side, number * (side + CAPTION)
            words = textwrap.wrap(text, side // LETTER)[:3]
            draw.text((corner[0] + 2, corner[1] + 3), "\n".join(words), fill="black")
            scale = (side - 4) / max(image.size)
            size = round(image.width * scale), round(image.height * scale)
            sheet.paste(image.resize(size, Image.Resampling.NEAREST), (corner[0], corner[1] + CAPTION))
    return sheet
