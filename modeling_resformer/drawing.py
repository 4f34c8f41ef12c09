"""Masks drawn on images for people to look at: contours, legends, sheets. Needs Pillow and NumPy only."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont


# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
STRENGTH_COLOUR, STRONGEST = (213, 94, 0), 0.85  # and its largest share
LEGEND_HEIGHT = 24  # pixels
RIM = 2  # pixels, white around a tile's image
STRIP_SHARE = 1 / 26  # height of a line below an image, of the image's shorter side
LEAST_LINE = 13  # pixels
MOST_DIGITS = 6  # of a score


def class_colour(index: int) -> tuple[int, int, int]:
    """Returns the colour of a foreground class (index from 1)."""
    return COLOURS[(index - 1) % len(COLOURS)]


def displayable(image: Image.Image) -> Image.Image:
    """Returns an 8-bit RGB copy; deeper images are stretched from their minimum to their maximum for display only."""
    values = np.asarray(image)
    if values.dtype == np.uint8 or values.dtype == bool:
        return image.convert("RGB")
    low, high = float(values.min()), float(values.max())
    stretched = (values - low) * (255 / max(high - low, 1e-12))
    return Image.fromarray(stretched.astype(np.uint8)).convert("RGB")


def draw_contours(image: Image.Image, mask: np.ndarray, width: int = 1) -> Image.Image:
    """Draws the inner border of each foreground class of a mask (H, W), `width` pixels thick, on an RGB image."""
    pixels = np.array(image)
    for index in np.unique(mask[mask > 0]):
        inside = mask == index
        pixels[inside & ~eroded(inside, width)] = class_colour(int(index))
    return Image.fromarray(pixels)


def draw_strength(image: Image.Image, strength: np.ndarray) -> Image.Image:
    """Mixes a colour into the grey copy of an RGB image, the more the higher `strength` (H, W) is, up to its own maximum;
    nothing where it is 0 or below."""
    share = np.maximum(strength, 0.0)
    share = (share / max(float(share.max()), 1e-12) * STRONGEST)[..., None]
    grey = np.asarray(image.convert("L"), np.float32)[..., None]
    return Image.fromarray((grey * (1 - share) + np.array(STRENGTH_COLOUR) * share).astype(np.uint8))


def eroded(inside: np.ndarray, width: int) -> np.ndarray:
    """Pixels of a boolean (H, W) mask with none outside it within `width`, at a cost that does not grow with it."""
    side = 2 * width + 1
    for axis in (0, 1):
        padding = [(width, width) if axis == i else (0, 0) for i in (0, 1)]
        sums = np.cumsum(np.pad(inside, padding, mode="edge"), axis=axis, dtype=np.int32)
        sums = np.insert(sums, 0, 0, axis=axis)
        length = inside.shape[axis]
        inside = sums.take(range(side, side + length), axis) - sums.take(range(length), axis) == side
    return inside


def label_lines(scores: Mapping[str, float], flagged: Collection[str], thresholds: Mapping[str, float]) -> list[str]:
    """Every flagged class with its score, the highest first; where none is, that, and the highest. Empty without scores.

    Args:
        scores: of all classes.
        flagged: the classes at or above their thresholds, or the one with the highest score.
        thresholds: of all classes; empty where they exclude each other and the highest score decides.
    """
    ordered = sorted(scores, key=lambda name: -scores[name])
    if flagged and not thresholds:
        return [f"highest: {name} {scores[name]:.2f}" for name in flagged]
    if chosen := [f"flagged: {name} {scores[name]:.2f}" for name in ordered if name in flagged]:
        return chosen
    if not ordered:
        return []
    highest = ordered[0]
    return ["none flagged", f"highest: {highest} {figure_below(scores[highest], thresholds[highest])}"]


def figure_below(score: float, threshold: float) -> str:
    """A score below its threshold with two digits, or with as many as it takes not to read as at or above it."""
    figures = [f"{score:.{digits}f}" for digits in range(2, MOST_DIGITS + 1)]
    return next((figure for figure in figures if float(figure) < threshold), figures[-1])


def with_lines_below(image: Image.Image, lines: Sequence[str]) -> Image.Image:
    """An RGB image, unchanged, with lines of text on a white strip below it; each as large as fits the width,
    down to 6 pixels."""
    if not lines:
        return image
    height = max(LEAST_LINE, round(min(image.size) * STRIP_SHARE))
    taller = Image.new("RGB", (image.width, image.height + height * len(lines) + height // 3), "white")
    taller.paste(image, (0, 0))
    draw, margin = ImageDraw.Draw(taller), height // 3
    for number, line in enumerate(lines):
        font = ImageFont.load_default(height * 0.8)
        if (width := draw.textlength(line, font=font)) > (room := image.width - 2 * margin):
            font = ImageFont.load_default(max(6.0, height * 0.8 * room / width))
        draw.text((margin, image.height + margin // 2 + number * height), line, fill="black", font=font)
    return taller


def headed_legend(mask_classes: Sequence[str], width: int, title: str) -> Image.Image:
    """Draws a line of text above the colours of the foreground classes, as wide as `width` or the text."""
    needed = 12 + int(ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(title))
    strip = Image.new("RGB", (max(width, needed), (1 + (len(mask_classes) > 1)) * LEGEND_HEIGHT), "white")
    ImageDraw.Draw(strip).text((6, 6), title, fill="black")
    if len(mask_classes) > 1:
        strip.paste(legend(mask_classes, strip.width), (0, LEGEND_HEIGHT))
    return strip


def legend(mask_classes: Sequence[str], width: int) -> Image.Image:
    """Draws a strip with the colours of the foreground classes."""
    strip = Image.new("RGB", (width, LEGEND_HEIGHT), "white")
    draw, x = ImageDraw.Draw(strip), 6
    for index, name in enumerate(mask_classes[1:], start=1):
        draw.rectangle((x, 6, x + 12, 18), fill=class_colour(index))
        draw.text((x + 18, 6), name, fill="black")
        x += 40 + int(draw.textlength(name))
    return strip


def captioned(image: Image.Image, caption: str, side: int, caption_height: int) -> Image.Image:
    """Fits an RGB image into a white square of `side` pixels, with a rim so that neighbours do not touch, and a caption."""
    scale = (side - 2 * RIM) / max(image.size)
    size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    tile = Image.new("RGB", (side, side + caption_height), "white")
    tile.paste(image.resize(size, Image.Resampling.BILINEAR), ((side - size[0]) // 2, (side - size[1]) // 2))
    ImageDraw.Draw(tile).text((2, side + 2), caption, fill="black")
    return tile


def arrange(tiles: Sequence[Image.Image], header: Image.Image, columns: int) -> Image.Image:
    """Lays tiles of equal size out in rows of `columns` below a header."""
    width, height = tiles[0].size if tiles else (0, 0)
    lines = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (max(width * columns, header.width), header.height + lines * height), "white")
    sheet.paste(header, (0, 0))
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % columns * width, header.height + i // columns * height))
    return sheet
