"""Volumes of every format to voxels, spacing and geometry, and masks back to files that viewers lay over them.

Read are MetaImage (.mhd, .mha), NIfTI-1 (.nii, .nii.gz), DICOM series and files of several frames, and grey TIFFs of several
pages. The slice axis is the same for all: the one that varies slowest in the file (NIfTI's third), which for OCT is the
B-scan; then rows, then columns. Nothing is flipped, resampled or rescaled.

Brightness: uint8 and uint16 voxels mean 0..255 and 0..65535, as in training. DICOM says how many bits it uses. Signed and
float voxels have no range of their own: where they all lie in 0..255 they mean that, else `intensity_range` must be given.
"""

import errno
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import BadInputError, one_line
from ..files import whole_file
from ..limits import DEFAULT_LIMITS, InputLimits
from .claims import check_length, check_volume
from .dicom import Range, Spacing, read_dicom_volume
from .metaimage import Geometry, all_finite, read_with_itk, write_volume
from .metaimage import read_volume as read_metaimage
from .nifti import is_whole, read_nifti_header
from .source import DICOM, METAIMAGE, NIFTI, TIFF, VolumeSource


SHORTEST, LONGEST = 1e-6, 1e6  # mm
TIFF_MODES = ("L", "I;16", "I;16B", "I;16L", "F")
TIFF_RATIO = 2800  # LZW, the densest of its compressions, codes up to 4096 bytes in 12 bits
MOST_PAGES = 4096  # a fraction of a millisecond each to find


@dataclass(frozen=True)
class ScanVolume:
    """One volume in memory.

    Args:
        source: where it came from; the files of a DICOM series in the order of its slices.
        voxels: (slices, rows, columns) at the file's own depth; `voxels[i]` is a view.
        spacing: (slice, row, column) in mm; None where the file does not say, and so is the slices' alone.
        geometry: where the voxels lie, for writing a mask; 1 mm stands for an unknown length.
        value_range: lowest and highest value that the file could hold, None where the voxels' type says it.
    """

    source: VolumeSource
    voxels: np.ndarray
    spacing: Spacing | None
    geometry: Geometry
    value_range: Range | None = None

    @property
    def num_slices(self) -> int:
        return self.voxels.shape[0]

    @property
    def pixel_spacing(self) -> tuple[float, float] | None:
        """(row, column) in mm per pixel, or None."""
        return None if self.spacing is None else self.spacing[1:]

    @property
    def slice_spacing(self) -> float | None:
        """Distance of neighbouring slices in mm, or None."""
        return None if self.spacing is None else self.spacing[0]

    def intensity_range(self, configured: Sequence[float] | None = None) -> Range | None:
        """Returns the `intensity_range` to hand to the image processor with the slices of this volume.

        Args:
            configured: the processor's own setting, or the user's; it wins.

        Raises:
            BadInputError: signed or float voxels that do not lie in 0..255, and nothing configured.
        """
        if configured is not None:
            return tuple(configured)
        if self.value_range is not None or self.voxels.dtype in (np.uint8, np.uint16):
            return self.value_range
        low = min(float(image.min()) for image in self.voxels)
        high = max(float(image.max()) for image in self.voxels)
        unclear = self.voxels.dtype.kind == "f" and 0 < high <= 1
        if low < 0 or high > 255 or unclear:
            raise BadInputError(
                f"{self.source.path}: {self.voxels.dtype} voxels of {low:g}..{high:g} have no brightness of their own; "
                "set intensity_range to (darkest, brightest) in preprocessor_config.json, or save it as uint8 or uint16"
            )
        return 0.0, 255.0


def read_scan(source: VolumeSource, limits: InputLimits = DEFAULT_LIMITS) -> ScanVolume:
    """Reads one volume; nothing but it is held.

    Args:
        source: where it lies.
        limits: the largest volume.

    Raises:
        BadInputError: anything about the file that cannot be used, in one line that names it.
    """
    try:
        volume = READERS[source.kind](source, limits)
    except MemoryError as error:
        raise BadInputError(f"{source.path}: does not fit into memory; crop it or use a larger machine") from error
    if not all_finite(volume.voxels):
        raise BadInputError(f"{source.path}: holds NaN or infinite values; export it again")
    _check_place(source.path, volume.geometry)
    return volume


def _check_place(path: Path, geometry: Geometry) -> None:
    """Refuses lengths that no scan has: areas would overflow, and no viewer's file could hold them."""
    known = all(SHORTEST <= mm <= LONGEST for mm in geometry.spacing) and all(
        abs(mm) <= LONGEST for mm in geometry.origin
    )
    if not known or not all(map(math.isfinite, geometry.direction)):
        shown = ", ".join(f"{mm:g}" for mm in (*geometry.spacing, *geometry.origin))
        raise BadInputError(
            f"{path}: spacing and origin are {shown} mm, expected lengths of {SHORTEST:g} to {LONGEST:g}; correct them"
        )


def write_mask_volume(path: Path, mask: np.ndarray, volume: ScanVolume) -> Path:
    """Writes class indices with the volume's spacing, origin and direction; whole or not at all.

    Args:
        path: file to write; its ending (`.mha`, `.nii.gz`, `.nii`) decides the format.
        mask: (slices, rows, columns) uint8, one index per voxel of `volume`.
        volume: the volume that was segmented.

    Raises:
        ValueError: the mask has another shape than its volume.
        OSError: there is no room for it.
        RuntimeError: SimpleITK cannot write it, for whatever reason.
    """
    if mask.shape != volume.voxels.shape or mask.dtype != np.uint8:
        raise ValueError(f"{path}: a mask {mask.shape} {mask.dtype} for {volume.voxels.shape} voxels; expected uint8.")
    with whole_file(path) as partial:
        write_volume(partial, mask, volume.geometry)
        if path.name.endswith((".nii", ".nii.gz")) and not is_whole(partial):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return path


def _read_metaimage(source: VolumeSource, limits: InputLimits) -> ScanVolume:
    volume = read_metaimage(source.path, spacing_required=False, limits=limits)
    unknown = volume.header.spacing is None or volume.geometry.is_default
    return ScanVolume(source, volume.voxels, None if unknown else volume.header.spacing, volume.geometry)


def _read_nifti(source: VolumeSource, limits: InputLimits) -> ScanVolume:
    header = read_nifti_header(source.path, limits)
    voxels, geometry = read_with_itk(source.path)
    if voxels.shape != header.shape:
        raise BadInputError(f"{source.path}: read as {voxels.shape}, its header says {header.shape}; export it again")
    if not header.has_units or geometry.is_default:
        return ScanVolume(source, voxels, None, geometry)
    # The file holds 32-bit floats: 0.0039 comes back as 0.0038999999.
    z, y, x = (float(str(np.float32(mm))) for mm in geometry.spacing[::-1])
    return ScanVolume(source, voxels, (z, y, x), geometry)


def _read_dicom(source: VolumeSource, limits: InputLimits) -> ScanVolume:
    volume = read_dicom_volume(source.files, limits)
    ordered = replace(source, files=volume.files)
    return ScanVolume(ordered, volume.voxels, volume.spacing, volume.geometry, volume.value_range)


def _read_tiff(source: VolumeSource, limits: InputLimits) -> ScanVolume:
    try:
        with Image.open(source.path) as image:
            if image.mode not in TIFF_MODES:
                raise BadInputError(f"{source.path}: pages of mode {image.mode}, expected grey of 8 or 16 bits")
            first = image.mode, image.height, image.width
            check_volume(source.path, (1, *first[1:]), limits)
            shape = _count_pages(source.path, image), *first[1:]
            check_volume(source.path, shape, limits)
            image.seek(0)
            samples = np.asarray(image)
            check_length(source.path, shape[0] * samples.nbytes, TIFF_RATIO)
            voxels = np.empty(shape, samples.dtype.newbyteorder("="))
            for index in range(shape[0]):
                image.seek(index)
                if (image.mode, image.height, image.width) != first:
                    raise BadInputError(
                        f"{source.path}: page {index} has another size or depth than the first; split the file"
                    )
                voxels[index] = np.asarray(image)
    except (BadInputError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise what they meet: struct, key, index and type errors too
        raise BadInputError(f"{source.path}: cannot be read ({one_line(error, 160)}); copy it again") from error
    return ScanVolume(source, voxels, None, Geometry())


def _count_pages(path: Path, image: Image.Image) -> int:
    """Pages of an open TIFF, each of which Pillow has to look for."""
    for count in range(MOST_PAGES + 1):
        try:
            image.seek(count)
        except EOFError:
            return count
    raise BadInputError(f"{path}: has more than {MOST_PAGES} pages; split the file")


READERS = {METAIMAGE: _read_metaimage, NIFTI: _read_nifti, DICOM: _read_dicom, TIFF: _read_tiff}
