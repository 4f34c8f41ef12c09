"""Masks as the source drew them, for scores at native size where a dataset keeps only resized ones."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from ..data.builder import walk_files
from ..data.encoding import index_mask, open_stored
from ..data.label_tables import spelling_key
from ..data.multitask_folder import MASK_ENDINGS, MASK_SUFFIXES, parse_mask_values
from ..data.rows import EvaluationRows
from ..errors import BadInputError


FLAG = "--raw_masks"


class RawMaskRows(EvaluationRows):
    """`EvaluationRows` whose `raw_mask` is the source's own mask, an index image at the source's own size.

    Files are matched by case: `case.png`, `case_mask.png` or `case_segmentation.png`, at any depth below the folder and
    in any case of letters. Only the masks of one batch are in memory.

    Args:
        rows: one split of a prepared dataset, one row a case.
        folder: with the mask files.
        mask_values: pixel value -> class index.

    Raises:
        BadInputError: no such folder, a case of several rows, a case with no file or with two, and, when a row is read,
            an unlisted value or another size than that of the source image.
    """

    def __init__(self, rows: datasets.Dataset, folder: Path, mask_values: Mapping[int, int]) -> None:
        super().__init__(rows)
        self.mask_values = dict(mask_values)
        self.files = _files_by_case(rows, folder)
        # One look-up per pixel; 0 marks an unlisted value, which `index_mask` then names.
        self._table = np.zeros(256, dtype=np.uint8)
        self._table[[value for value in self.mask_values if value < 256]] = [
            index + 1 for value, index in self.mask_values.items() if value < 256
        ]

    def __getitem__(self, row_index: int) -> dict[str, Any]:
        row = super().__getitem__(row_index)
        file = self.files.get(row["case_id"])
        return row if file is None else {**row, "raw_mask": self._read(file, tuple(row["original_size"]))}

    def _read(self, file: Path, size: tuple[int, int]) -> Image.Image:
        _, image, _ = open_stored(file)
        values = np.asarray(image.convert("L") if image.mode == "1" else image)
        if values.shape != size:
            raise BadInputError(
                f"{file}: mask is {' x '.join(map(str, values.shape))}, its image {size[0]} x {size[1]} (height x "
                f"width); {FLAG} needs one-channel masks at the size of the source images"
            )
        if values.dtype != np.uint8 or not self._table[values].all():
            return Image.fromarray(index_mask(values, self.mask_values, file))
        return Image.fromarray(self._table[values] - 1)


def mask_values_of(text: str | None, mask_classes: list[str]) -> dict[int, int]:
    """Pixel value -> class index from `0=background,255=lesion`.

    By default 0 and 255 for one foreground class, class indices as they are for several.

    Raises:
        BadInputError: another form, or a name that is no mask class.
    """
    if text is None:
        return {0: 0, 255: 1} if len(mask_classes) == 2 else {index: index for index in range(len(mask_classes))}
    values = parse_mask_values(text)
    if unknown := sorted(set(values.values()) - set(mask_classes)):
        raise BadInputError(f"--raw_mask_values names {unknown}; expected some of the classes {mask_classes}.")
    return {value: mask_classes.index(name) for value, name in values.items()}


def _files_by_case(rows: datasets.Dataset, folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise BadInputError(f"{FLAG} {folder}: no such folder; give the one with the original mask files.")
    case_id, number = Counter(rows["case_id"]).most_common(1)[0]
    if number > 1:
        raise BadInputError(
            f"{FLAG}: case {case_id} has {number} images, and masks are matched by case; expected one each. "
            "Prepare the dataset without --image-size instead, so that it keeps the original masks."
        )
    found: dict[str, list[Path]] = {}
    for path in walk_files(folder):
        if path.suffix.lower() in MASK_SUFFIXES:
            found.setdefault(_case_key(path), []).append(path)
    files = {}
    for case_id, classes in zip(rows["case_id"], rows["mask_classes"], strict=True):
        matches = found.get(spelling_key(Path(case_id).name), [])
        if len(matches) > 1:
            raise BadInputError(
                f"{FLAG} {folder}: {matches[0].name} and {matches[1].name} both fit {case_id}; keep one."
            )
        if not matches and classes is not None:
            raise BadInputError(
                f"{FLAG} {folder}: no mask of case {case_id}; expected e.g. {Path(case_id).name}_segmentation.png."
            )
        if matches and classes is not None:  # a mask that the preparation left out stays out
            files[case_id] = matches[0]
    return files


def _case_key(path: Path) -> str:
    stem = spelling_key(path.stem)
    for ending in MASK_ENDINGS:
        stem = stem.removesuffix(ending)
    return stem
