"""What a header claims, held against the limits and against the file's own length before anything is allocated."""

from collections.abc import Sequence
from math import prod
from pathlib import Path

from ..errors import BadInputError
from ..limits import InputLimits


DEFLATE_RATIO = 1032  # bytes that one byte of a deflate stream unpacks to at most


def check_image(path: Path, width: int, height: int, limits: InputLimits) -> None:
    """Raises `BadInputError` naming the file where an image, or a slice of a volume, is too large."""
    if width * height > limits.pixels:
        raise BadInputError(
            f"{path}: has {width} x {height} pixels, more than {limits.pixels}; give a smaller one, or allow more by "
            "--max-pixels"
        )


def check_volume(path: Path, shape: Sequence[int], limits: InputLimits) -> None:
    """Raises `BadInputError` naming the file where a volume of `shape` (slices, rows, columns) is too large."""
    check_image(path, shape[2], shape[1], limits)
    if prod(shape) > limits.voxels:
        raise BadInputError(
            f"{path}: claims {' x '.join(map(str, shape))} voxels, more than {limits.voxels}; crop it, or allow more by "
            "--max-voxels"
        )


def check_length(path: Path, claimed: int, ratio: int = 1) -> None:
    """Raises `BadInputError` naming the file where it is too short for `claimed` bytes, packed by `ratio` at most."""
    stored = path.stat().st_size
    if claimed > ratio * stored:
        raise BadInputError(f"{path}: its header claims {claimed} bytes, {stored} cannot hold that; copy it again")
