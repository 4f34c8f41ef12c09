"""A segmented volume on two images: seen from the front, and its slices with the largest findings.

The view from the front (en face) has one row per B-scan and one column per A-scan; each point shows how many pixels of a
class its A-scan holds, as a length where the distance of rows is known. It needs Matplotlib, imported when drawing.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from ..drawing import arrange, captioned, displayable, draw_contours, headed_legend
from .measurements import known_spacing


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL_WIDTH, CELL_HEIGHT, HEADING = 5.2, 4.7, 0.4  # inches
PANELS_A_ROW = 3
DOTS_PER_INCH = 100
ABSENT = "0.88"  # Matplotlib's light grey: no pixel of the class, which no colour of the scale looks like
TILE = 320  # pixels
MARGIN = 4
LINE = 13
WORST_SLICES = 9
SHEET_COLUMNS = 3
CONTOUR_SHARE = 1 / 240  # of the slice's longer side

Spacing = Sequence[float | None]


def thickness_maps(masks: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts the pixels of each foreground class in each A-scan.

    Args:
        masks: (Z, H, W) class indices; rows are depth.
        num_classes: all classes, the background's included.

    Returns:
        (num_classes - 1, Z, W) int32.
    """
    maps = np.zeros((num_classes - 1, masks.shape[0], masks.shape[2]), dtype=np.int32)
    for index, mask in enumerate(masks):
        for label in range(1, num_classes):
            maps[label - 1, index] = np.count_nonzero(mask == label, axis=0)
    return maps


def draw_en_face(
    masks: np.ndarray, class_names: Sequence[str], spacing: Spacing | None = None, title: str = ""
) -> Image.Image:
    """Draws one map per foreground class, each with its own colour scale.

    Args:
        masks: (Z, H, W) class indices.
        class_names: names of all classes, the background's first.
        spacing: (slice, row, column) in mm, any of them None where unknown. Thickness is in micrometres where the
            distance of rows is known, else in pixels; points are as wide and high as in the eye where both other
            distances are known, else the map is square.
        title: line above all maps.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    maps = thickness_maps(masks, len(class_names))
    columns = min(PANELS_A_ROW, len(maps))
    lines = -(-len(maps) // columns)
    width, height = columns * CELL_WIDTH, lines * CELL_HEIGHT + HEADING
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH)
    figure.text(0.5, 1 - 0.1 / height, f"{title}\nfirst B-scan at the top; grey: none".strip(), ha="center", va="top")
    for index, (name, counts) in enumerate(zip(class_names[1:], maps, strict=True)):
        left, bottom = index % columns * CELL_WIDTH, (lines - 1 - index // columns) * CELL_HEIGHT
        panel = axes_at(figure, left + 0.6, bottom + 0.5, 3.8, 3.8)
        draw_map(panel, axes_at(figure, left + 4.5, bottom + 0.9, 0.12, 3.0), name, counts, spacing)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def axes_at(figure: "Figure", left: float, bottom: float, width: float, height: float) -> "Axes":
    """Adds axes of this size at this place, in inches from the lower left corner."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def draw_map(panel: "Axes", scale: "Axes", name: str, counts: np.ndarray, spacing: Spacing | None) -> None:
    """Draws one map (Z, W) of pixel counts, and its colours with their values on `scale`, which goes where it is empty."""
    from matplotlib import colormaps

    slice_mm, row_mm, column_mm = spacing or (None, None, None)
    depth = known_spacing([row_mm], 1)
    thickness = counts * (1000 * depth[0]) if depth else counts.astype(float)
    unit = "µm" if depth else "pixels"
    in_plane = known_spacing([slice_mm, column_mm], 2)
    height, width = counts.shape
    colours = colormaps["viridis"].with_extremes(bad=ABSENT)
    affected = np.count_nonzero(counts.any(axis=1))
    drawn = panel.imshow(
        np.ma.masked_equal(thickness, 0),
        cmap=colours,
        vmin=0,
        vmax=max(float(thickness.max()), 1.0),
        aspect=in_plane[0] / in_plane[1] if in_plane else width / height,
        interpolation="nearest",
    )
    if affected:
        bar = panel.figure.colorbar(drawn, cax=scale)
        bar.set_label(f"thickness ({unit})", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    else:
        scale.remove()
        panel.text(0.5, 0.5, "none found", transform=panel.transAxes, ha="center", va="center", fontsize=11)
    found = f"at most {thickness.max():.0f} {unit}, in {affected} of {height} B-scans" if affected else "none found"
    panel.set_title(f"{name}: {found}", fontsize=9)
    panel.set_xlabel("A-scan (column)", fontsize=8)
    panel.set_ylabel("B-scan (slice)", fontsize=8)
    panel.tick_params(labelsize=7)
    if in_plane:
        draw_scale_bar(panel, counts.shape, in_plane[1])


def draw_scale_bar(panel: "Axes", shape: tuple[int, int], column_mm: float) -> None:
    """Draws a bar of a round length, about a fifth of the map's width, in its lower left corner."""
    height, width = shape
    length = round_length(width * column_mm / 5)
    left, low = width * 0.04, height * 0.95 - 0.5
    style: dict[str, Any] = {"color": "black"}
    panel.plot([left, left + length / column_mm], [low, low], linewidth=3, solid_capstyle="butt", **style)
    panel.text(left, low - height * 0.02, f"{length:g} mm", fontsize=8, verticalalignment="bottom", **style)


def round_length(length: float) -> float:
    """Returns the largest of 1, 2 and 5 times a power of ten that is not longer."""
    power = 10.0 ** math.floor(math.log10(length))
    return max(step * power for step in (1, 2, 5) if step * power <= length * (1 + 1e-9))


def worst_slices(masks: np.ndarray, count: int = WORST_SLICES) -> list[int]:
    """Indices of up to `count` slices with the largest foreground area, largest first; those without any are left out."""
    areas = np.array([np.count_nonzero(mask) for mask in masks])
    order = np.argsort(-areas, kind="stable")[:count]
    return [int(index) for index in order if areas[index]]


def worst_slices_sheet(
    voxels: np.ndarray,
    masks: np.ndarray,
    class_names: Sequence[str],
    spacing: Spacing | None = None,
    title: str = "",
    count: int = WORST_SLICES,
    said: Sequence[Sequence[str]] | None = None,
) -> Image.Image:
    """Draws the slices with the largest foreground area, contours on them and the area of each class below.

    Args:
        voxels: (Z, H, W); deeper than 8 bits, each slice is stretched from its minimum to its maximum for display.
        masks: (Z, H, W) class indices.
        class_names: names of all classes, the background's first.
        spacing: (slice, row, column) in mm; areas are also in mm2 where rows and columns are known.
        title: line above the slices.
        count: most slices to draw. Where no class occurs, the middle slice is drawn and said to be without.
        said: for each of the Z slices, lines about its image-level classes.
    """
    found = worst_slices(masks, len(masks))
    chosen = found[:count] or [len(masks) // 2]
    pixel, said = known_spacing(spacing, 2), said or [[]] * len(masks)
    most_lines = len(class_names) + max(len(said[index]) for index in chosen)
    tiles = []
    for index in chosen:
        width = max(1, round(max(masks[index].shape) * CONTOUR_SHARE))
        image = draw_contours(displayable(Image.fromarray(np.ascontiguousarray(voxels[index]))), masks[index], width)
        name = f"slice {index + 1} of {len(masks)} (slice_index {index})"
        caption = "\n".join([name, *area_lines(masks[index], class_names, pixel), *said[index]])
        tile = captioned(image, caption, TILE, LINE * (most_lines + 1))
        tiles.append(ImageOps.expand(tile, MARGIN, "white"))
    columns = min(SHEET_COLUMNS, len(tiles))
    title = f"{title}: {slices_shown(len(chosen), len(found), len(masks))}".removeprefix(": ")
    return arrange(tiles, headed_legend(class_names, tiles[0].width * columns, title), columns)


def slices_shown(shown: int, found: int, total: int) -> str:
    """How many slices a sheet shows, of how many with a finding."""
    if not found:
        return f"none of {total} slices has a finding; the middle one is shown"
    largest = f"{shown} of the {found} slices with a finding, the largest first" if shown < found else ""
    return f"{largest or f'all {found} slices with a finding'}; {total} slices in all"


def area_lines(mask: np.ndarray, class_names: Sequence[str], pixel: Sequence[float] | None) -> list[str]:
    """One line for each class that occurs in a mask (H, W): its area in pixels, and in mm2 where that is known."""
    counts = np.bincount(mask.ravel(), minlength=len(class_names))
    lines = []
    for name, area in zip(class_names[1:], counts[1:].tolist(), strict=True):
        if area:
            lines.append(f"{name}: {area} pixels" + (f", {area * math.prod(pixel):.4f} mm2" if pixel else ""))
    return lines or ["no class found"]
