"""Masks that other programs predicted, found by case and slice in a folder: images, and whole volumes."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import BadInputError
from ..volumes.finding import find_volumes, volume_stem
from ..volumes.scan import read_scan
from .builder import walk_files
from .encoding import index_mask, open_stored
from .label_tables import spelling_key
from .multitask_folder import MASK_ENDINGS, MASK_SUFFIXES


FLAG = "--predictions"
VOLUME_SUFFIXES = (".mha", ".mhd", ".nii", ".nii.gz")


class PredictedMasks:
    """A mask for every row, read when it is asked for; of volumes the last one is held.

    Names, in any case of letters: `CASE.png` (or `_mask`, `_segmentation` behind it) for a case of one image, `CASE_7.png` or
    `CASE_007.png` for its slice 7, `CASE.nii.gz`, `.nii`, `.mha` or `.mhd` for a whole volume in the order of its file.

    Args:
        folder: with the files, at any depth.
        mask_values: pixel value -> class index.

    Raises:
        BadInputError: there is no such folder, or two files have one name.
    """

    def __init__(self, folder: Path, mask_values: Mapping[int, int]) -> None:
        if not folder.is_dir():
            raise BadInputError(f"{FLAG} {folder}: no such folder; expected the one with the predicted masks")
        self.folder, self.mask_values = folder, dict(mask_values)
        self.files: dict[str, Path] = {}
        for path in walk_files(folder):
            if path.suffix.lower() in MASK_SUFFIXES or path.name.lower().endswith(VOLUME_SUFFIXES):
                for name in _names_of(path):
                    if name in self.files:
                        there = self.files[name].name
                        raise BadInputError(f"{FLAG} {folder}: {there} and {path.name} mean one image; keep one")
                    self.files[name] = path
        self._volume: tuple[Path, np.ndarray] | None = None

    def of(self, case_id: str, slice_index: int | None, is_alone: bool) -> np.ndarray | None:
        """(H, W) class indices of a row at the file's own size; None where there is no file.

        Args:
            case_id: of the row.
            slice_index: likewise.
            is_alone: whether it is the only row of its case.

        Raises:
            BadInputError: the file is damaged, has no such slice, or holds a value that means nothing.
        """
        case, number = spelling_key(Path(case_id).name), slice_index or 0
        one, whole = self.files.get(_slice_name(case, number)), self.files.get(case)
        if one is None and whole is not None and whole.suffix.lower() not in MASK_SUFFIXES:
            voxels = self._read_volume(whole)
            if number >= len(voxels):
                raise BadInputError(f"{whole}: has {len(voxels)} slices; expected a slice {number} of case {case_id}")
            return index_mask(voxels[number], self.mask_values, whole)
        path = one or (whole if is_alone else None)
        if path is None:
            return None
        _, image, _ = open_stored(path)
        values = np.asarray(image.convert("L") if image.mode in ("1", "P") else image)
        if values.ndim != 2:
            raise BadInputError(f"{path}: has {values.shape[-1]} channels; expected a mask of one")
        return index_mask(values, self.mask_values, path)

    def _read_volume(self, path: Path) -> np.ndarray:
        if self._volume is None or self._volume[0] != path:
            self._volume = path, read_scan(find_volumes(path)[0]).voxels
        return self._volume[1]


def _names_of(path: Path) -> set[str]:
    """The case that a file may mean, and the case and slice."""
    stem = spelling_key(volume_stem(path))
    for ending in MASK_ENDINGS:
        stem = stem.removesuffix(ending)
    found = re.fullmatch(r"(.+)_(\d+)", stem) if path.suffix.lower() in MASK_SUFFIXES else None
    return {stem} if found is None else {stem, _slice_name(found[1], int(found[2]))}


def _slice_name(case: str, number: int) -> str:
    return f"{case}\n{number}"
