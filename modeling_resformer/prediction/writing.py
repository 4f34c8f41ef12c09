"""Results of one picture on disk: index mask, overlay and a row of scores. Every file appears whole or not at all."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..drawing import arrange, captioned, class_colour, displayable, draw_contours, legend


SHEET_TILE = 224  # pixels
SHEET_CAPTION = 30
SHEET_COLUMNS = 6
SHEET_PICTURES = 36
CONTOUR_SHARE = 1 / 160  # of the picture's shorter side


def write_whole(path: Path, content: bytes | Image.Image) -> Path:
    """Writes beside `path` and renames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    if isinstance(content, bytes):
        partial.write_bytes(content)
    else:
        content.save(partial, "PNG")
    os.replace(partial, path)
    return path


def mask_picture(mask: np.ndarray) -> Image.Image:
    """(H, W) class indices as a palette picture: the stored values are the indices, viewers show the class colours."""
    picture = Image.fromarray(mask.astype(np.uint8)).convert("P")
    colours = [(0, 0, 0), *(class_colour(index) for index in range(1, 256))]
    # convert() keeps grey values as indices into a grey palette, so replacing the palette keeps the indices.
    picture.putpalette([value for colour in colours for value in colour])
    return picture


def overlay_picture(picture: Image.Image, mask: np.ndarray) -> Image.Image:
    """An RGB copy of the picture with the contour of every foreground class."""
    width = max(1, round(min(picture.size) * CONTOUR_SHARE))
    return draw_contours(displayable(picture), mask, width)


def result_row(path: Path, result: dict[str, Any], mask_path: Path, overlay_path: Path) -> dict[str, Any]:
    """What the table says of a picture; areas in pixels and as a share of the picture."""
    height, width = result["segmentation"].shape
    return {
        "picture": str(path),
        "height": height,
        "width": width,
        "class_scores": result["class_scores"],
        "predicted_labels": result["predicted_labels"],
        "mask_classes": {
            name: {"area_pixels": round(facts["area_fraction"] * height * width), **facts}
            for name, facts in result["mask_classes"].items()
        },
        "mask": str(mask_path),
        "overlay": str(overlay_path),
    }


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Writes the rows as one JSON list."""
    return write_whole(path, (json.dumps(list(rows), indent=2) + "\n").encode())


def sheet_tile(picture: Image.Image, row: dict[str, Any], name: str) -> Image.Image:
    """An overlay with its name and its highest score below it."""
    best = max(row["class_scores"], key=row["class_scores"].get)
    return captioned(picture, f"{name}\n{best}: {row['class_scores'][best]:.2f}", SHEET_TILE, SHEET_CAPTION)


def write_sheet(path: Path, tiles: Sequence[Image.Image], mask_classes: Sequence[str]) -> Path:
    """Lays the first overlays out on one picture."""
    columns = min(SHEET_COLUMNS, len(tiles))
    return write_whole(path, arrange(tiles, legend(mask_classes, SHEET_TILE * columns), columns))
