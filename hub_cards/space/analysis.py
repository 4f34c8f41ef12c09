# Copyright 2026 The ResFormer maintainers. Licensed under the Apache License, Version 2.0.
"""What the Space computes and draws, without its web page: needs Pillow and NumPy, and a handler to ask.

`drawing.py` and `handler.py` lie beside this file in the Space; both are copies from the project.
"""

import base64
import html
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from drawing import class_colour, displayable, draw_contours
from PIL import Image, ImageOps


LONGEST_SIDE = 1280  # pixels shown; areas are counted at the image's own size
CONTOUR_SHARE = 1 / 200  # of the shorter side shown


@dataclass(frozen=True)
class Analysis:
    """An image with what the model said of it.

    Attributes:
        image: RGB, at most `LONGEST_SIDE` pixels on its longer side.
        mask: (height, width) of `image`, index into `names`, 0 where there is nothing.
        names: Mask classes, the background first.
        areas: Pixels of each class that occurs, at the image's own size.
        probabilities: Mean probability of each class that occurs, over its pixels.
        pixels: Of the whole image.
        scores: Image-level classes, the highest first.
        decided: Image-level classes at or above their decision threshold, or the one with the highest score.
        exclusive: Whether an image has exactly one of them.
        doubt: A sentence on what speaks against the answer; empty without.
    """

    image: Image.Image
    mask: np.ndarray
    names: Sequence[str]
    areas: dict[str, int]
    probabilities: dict[str, float]
    pixels: int
    scores: dict[str, float]
    decided: Sequence[str]
    exclusive: bool = False
    doubt: str = ""


def analyse(handler: Callable[[dict[str, Any]], Any], names: Sequence[str], path: str | os.PathLike) -> Analysis:
    """Asks the handler for everything it can tell of an image.

    Args:
        handler: An `EndpointHandler`.
        names: The model's mask classes, the background first.
        path: The image.

    Raises:
        ValueError: One line that says why the image cannot be used.
    """
    with open(path, "rb") as file:
        data = file.read()
    tasks = handler.tasks
    task = "both" if len(tasks) > 1 else tasks[0]
    answer = handler({"inputs": data, "parameters": {"task": task}})
    answer = answer if task == "both" else {task: answer}
    with Image.open(BytesIO(data)) as opened:
        image = displayable(ImageOps.exif_transpose(opened))
    size, pixels = fitted(image.size), image.width * image.height
    mask, areas, probabilities = np.zeros(size[::-1], np.uint8), {}, {}
    for segment in answer.get("segmentation", ()):
        inside = Image.open(BytesIO(base64.b64decode(segment["mask"])))
        areas[segment["label"]] = int(np.count_nonzero(np.asarray(inside)))
        probabilities[segment["label"]] = segment["score"]
        mask[np.asarray(inside.resize(size, Image.Resampling.NEAREST)) > 0] = names.index(segment["label"])
    scores = {one["label"]: one["score"] for one in answer.get("classification", ())}
    shown = image.resize(size, Image.Resampling.LANCZOS)
    decided = answer.get("predicted_labels", ())
    doubt = answer.get("doubt", "")
    return Analysis(shown, mask, names, areas, probabilities, pixels, scores, decided, handler.classes_exclude, doubt)


def fitted(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) shrunk to `LONGEST_SIDE` where it is larger."""
    scale = min(1.0, LONGEST_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def draw(analysis: Analysis, shown: Collection[str], opacity: float) -> Image.Image:
    """The image with the contours of the classes in `shown`, each filled with its colour at `opacity` (0 to 1)."""
    hidden = [index for index, name in enumerate(analysis.names) if name not in shown]
    mask = np.where(np.isin(analysis.mask, hidden), 0, analysis.mask)
    pixels = np.asarray(analysis.image).astype(np.float32)
    for index in np.unique(mask[mask > 0]):
        inside = mask == index
        pixels[inside] = (1 - opacity) * pixels[inside] + opacity * np.asarray(class_colour(int(index)))
    width = max(1, round(min(analysis.image.size) * CONTOUR_SHARE))
    return draw_contours(Image.fromarray(pixels.round().astype(np.uint8)), mask, width)


def area_rows(analysis: Analysis, millimetres: float | None = None) -> list[list[str]]:
    """One row per mask class: name, pixels, share of the image, mm² where the side of a pixel is known, probability."""
    rows = []
    for name in analysis.names[1:]:
        area = analysis.areas.get(name, 0)
        known = f"{area * millimetres**2:.2f}" if millimetres else "unknown"
        probability = f"{analysis.probabilities[name]:.2f}" if name in analysis.probabilities else "none"
        rows.append([name, f"{area:,}", f"{area / analysis.pixels:.1%}", known, probability])
    return rows


def legend(names: Sequence[str]) -> str:
    """HTML with the colour of every mask class but the background."""
    chips = []
    for index, name in enumerate(names[1:], start=1):
        colour = "rgb({}, {}, {})".format(*class_colour(index))
        square = (
            f'<span style="display:inline-block;width:.9em;height:.9em;background:{colour};border-radius:2px"></span>'
        )
        chips.append(f'<span style="margin-right:1.2em;white-space:nowrap">{square} {html.escape(name)}</span>')
    return "".join(chips)


def verdict(analysis: Analysis) -> str:
    """One line on the image-level classes."""
    if not analysis.scores:
        return "This model gives no class scores."
    decided = ", ".join(analysis.decided) or "none"
    warning = f"**{analysis.doubt}** " if analysis.doubt else ""
    if analysis.exclusive:
        return f"{warning}The highest score decides: **{decided}**. An image is taken to have exactly one class; scores sum to 1."
    return f"{warning}At or above their decision threshold: **{decided}**. Each class is scored by itself; they need not sum to 1."
