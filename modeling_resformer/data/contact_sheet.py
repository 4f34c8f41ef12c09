"""A sheet of sample images with their mask contours, to look at before anything is trained."""

from collections.abc import Sequence

import numpy as np
from datasets import Dataset, DatasetDict
from PIL import Image

from ..drawing import arrange, captioned, displayable, draw_contours, legend
from .columns import UNANNOTATED


TILE = 192  # pixels
CAPTION = 30
COLUMNS = 8


def contact_sheet(
    dataset: DatasetDict, mask_classes: Sequence[str], class_labels: Sequence[str], rows_per_split: int = 16
) -> Image.Image:
    """Draws up to `rows_per_split` rows of each split, every class among them where it occurs.

    16-bit images are stretched from their minimum to their maximum **for display only**.
    """
    tiles = [
        draw_tile(split[index], f"{name}: ", class_labels)
        for name, split in dataset.items()
        for index in representative_rows(split, rows_per_split)
    ]
    return arrange(tiles, legend(mask_classes, TILE * COLUMNS), COLUMNS)


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
    image = displayable(row["image"])
    if row["mask"] is not None:
        mask = np.asarray(row["mask"])
        annotated = np.where(mask == UNANNOTATED, 0, mask)
        image = draw_contours(image, annotated, max(1, max(image.size) // TILE))
    labels = "unlabelled" if row["class_labels"] is None else ", ".join(class_labels[i] for i in row["class_labels"])
    caption = f"{prefix}{row['case_id']} [{row['slice_index']}]\n{labels or 'none'}"
    return captioned(image, caption, TILE, CAPTION)
