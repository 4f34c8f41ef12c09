"""Files of results: index masks, overlays, sheets, JSON. Every file appears whole or not at all."""

import json
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..drawing import arrange, captioned, class_colour, displayable, draw_contours, headed_legend, with_lines_below
from ..errors import OutputError
from ..files import whole_file


SHEET_TILE = 224  # pixels
SHEET_LINE = 15
SHEET_COLUMNS = 6
SHEET_IMAGES = 36
CONTOUR_SHARE = 1 / 160  # of the image's shorter side


def write_by(path: Path, write: Callable[[Path], Any]) -> Path:
    """Has `write` make a file beside `path` under a passing name, and renames it.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with whole_file(path) as partial:
            write(partial)
    except OSError as error:
        raise OutputError(path, error) from error
    return path


def write_result(path: Path, content: bytes | Image.Image) -> Path:
    """Writes bytes, or an image as PNG, beside `path` and renames.

    Raises:
        OutputError: they cannot be written.
    """
    if isinstance(content, Image.Image):
        encoded = BytesIO()
        # Colour images are for looking at: four times faster to write, a fifth larger.
        content.save(encoded, "PNG", compress_level=1 if content.mode == "RGB" else 6)
        content = encoded.getvalue()
    return write_by(path, lambda partial: partial.write_bytes(content))


def check_room(path: Path, size: int) -> None:
    """Tries whether a file of `size` bytes can be written at `path`, and leaves none behind.

    Raises:
        OutputError: it cannot.
    """
    write_result(path, bytes(size)).unlink()


def write_json(path: Path, content: Any) -> Path:
    return write_result(path, (json.dumps(content, indent=2) + "\n").encode())


def mask_image(mask: np.ndarray) -> Image.Image:
    """(H, W) class indices as a palette image: the stored values are the indices, viewers show the class colours."""
    image = Image.fromarray(mask.astype(np.uint8)).convert("P")
    colours = [(0, 0, 0), *(class_colour(index) for index in range(1, 256))]
    # convert() keeps grey values as indices into a grey palette, so replacing the palette keeps the indices.
    image.putpalette([value for colour in colours for value in colour])
    return image


def overlay_image(image: Image.Image, mask: np.ndarray, lines: Sequence[str] = ()) -> Image.Image:
    """An RGB copy of the image with the contour of every foreground class, and what was said of it on a strip below."""
    width = max(1, round(min(image.size) * CONTOUR_SHARE))
    return with_lines_below(draw_contours(displayable(image), mask, width), lines)


def sheet_tile(overlay: Path, size: tuple[int, int], lines: Sequence[str], most_lines: int) -> Image.Image:
    """An overlay with its name and what was said of it below it.

    Args:
        overlay: its file.
        size: width and height of the image in it; the strip below is left out.
        lines: what was said.
        most_lines: of any tile on the sheet, for which room is made.
    """
    with Image.open(overlay) as image:
        drawn = image.convert("RGB").crop((0, 0, *size))
    return captioned(drawn, "\n".join([overlay.stem, *lines]), SHEET_TILE, SHEET_LINE * (1 + most_lines))


def write_sheet(path: Path, tiles: Sequence[Image.Image], mask_classes: Sequence[str], total: int) -> Path:
    """Lays the first of `total` overlays out on one image, below the colours of the classes (background first)."""
    columns = min(SHEET_COLUMNS, len(tiles))
    shown = "the first " if len(tiles) < total else ""
    title = f"{shown}{len(tiles)} of {total} {'image' if total == 1 else 'images'}"
    return write_result(path, arrange(tiles, headed_legend(mask_classes, SHEET_TILE * columns, title), columns))
