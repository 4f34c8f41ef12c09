"""A sheet of sample pictures with their mask contours, to look at before anything is trained."""

from collections.abc import Sequence

import numpy as np
from datasets import Dataset, DatasetDict
from PIL import Image, ImageDraw, ImageFilter


TILE = 192  # pixels
CAPTION = 30
COLUMNS = 8
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


def contact_sheet(
    dataset: DatasetDict, mask_classes: Sequence[str], class_labels: Sequence[str], rows_per_split: int = 16
) -> Image.Image:
    """Draws up to `rows_per_split` rows of each split, every class among them where it occurs.

    16-bit pictures are stretched from their minimum to their maximum **for display only**.
    """
    tiles = [
        draw_tile(split[index], f"{name}: ", class_labels)
        for name, split in dataset.items()
        for index in representative_rows(split, rows_per_split)
    ]
    return arrange(tiles, legend(mask_classes))


def representative_rows(dataset: Dataset, count: int) -> list[int]:
    """Picks `count` rows: one after the other from each group of equal (class_labels, mask_classes), spread evenly."""
    groups: dict[str, list[int]] = {}
    for index, facts in enumerate(dataset.select_columns(["class_labels", "mask_classes"])):
        groups.setdefault(repr(facts), []).append(index)
    quota = dict.fromkeys(groups, 0)
    while sum(quota.values()) < min(count, len(dataset)):
        for name, group in groups.items():
            if quota[name] < len(group) and sum(quota.values()) < count:
                quota[name] += 1
    return sorted(group[i * len(group) // quota[name]] for name, group in groups.items() for i in range(quota[name]))


def draw_tile(row: dict, prefix: str, class_labels: Sequence[str]) -> Image.Image:
    """Draws one row of a prepared dataset with contours and a caption."""
    picture = displayable(row["image"])
    mask = None if row["mask"] is None else np.asarray(row["mask"])
    scale = TILE / max(picture.size)
    size = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    if mask is not None:
        small = Image.fromarray(mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
        picture = draw_contours(picture, np.asarray(small))
    tile = Image.new("RGB", (TILE, TILE + CAPTION), "white")
    tile.paste(picture, ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    labels = "unlabelled" if row["class_labels"] is None else ", ".join(class_labels[i] for i in row["class_labels"])
    text = f"{prefix}{row['case_id']} [{row['slice_index']}]\n{labels or 'none'}"
    ImageDraw.Draw(tile).text((2, TILE + 2), text, fill="black")
    return tile


def displayable(picture: Image.Image) -> Image.Image:
    """Returns an 8-bit RGB copy for people to look at."""
    values = np.asarray(picture)
    if values.dtype == np.uint8 or values.dtype == bool:
        return picture.convert("RGB")
    low, high = values.min().astype(float), values.max().astype(float)
    stretched = (values - low) * (255 / max(high - low, 1))
    return Image.fromarray(stretched.astype(np.uint8)).convert("RGB")


def draw_contours(picture: Image.Image, mask: np.ndarray) -> Image.Image:
    """Draws the border of each foreground class of a mask (H, W) onto an RGB picture of the same size."""
    pixels = np.array(picture)
    for index in np.unique(mask[mask > 0]):
        inside = Image.fromarray(np.where(mask == index, 255, 0).astype(np.uint8))
        eroded = np.asarray(inside.filter(ImageFilter.MinFilter(3)))
        pixels[(np.asarray(inside) > 0) & (eroded == 0)] = class_colour(int(index))
    return Image.fromarray(pixels)


def class_colour(index: int) -> tuple[int, int, int]:
    """Returns the colour of a foreground class (index from 1)."""
    return COLOURS[(index - 1) % len(COLOURS)]


def legend(mask_classes: Sequence[str]) -> Image.Image:
    """Draws the colours of the foreground classes."""
    strip = Image.new("RGB", (TILE * COLUMNS, 24), "white")
    draw, x = ImageDraw.Draw(strip), 6
    for index, name in enumerate(mask_classes[1:], start=1):
        draw.rectangle((x, 6, x + 12, 18), fill=class_colour(index))
        draw.text((x + 18, 6), name, fill="black")
        x += 40 + int(draw.textlength(name))
    return strip


def arrange(tiles: Sequence[Image.Image], header: Image.Image) -> Image.Image:
    """Lays tiles of equal size out in rows of `COLUMNS` below a header."""
    height = tiles[0].height if tiles else 0
    lines = -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (TILE * COLUMNS, header.height + lines * height), "white")
    sheet.paste(header, (0, 0))
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % COLUMNS * TILE, header.height + i // COLUMNS * height))
    return sheet
