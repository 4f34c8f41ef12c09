"""What a NIfTI-1 header claims, checked against its file before ITK reads it. Nothing but the standard library.

Fields and offsets are those of the NIfTI-1.1 standard (Cox et al., nifti.nimh.nih.gov/nifti-1).
"""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from ..data.problems import BadInputError
from ..data.readers import MAX_VOLUME_BYTES, MAX_ZLIB_RATIO


HEADER_BYTES = 348
SAMPLE_BYTES = {2: 1, 4: 2, 8: 4, 16: 4, 64: 8, 256: 1, 512: 2, 768: 4}  # datatype code: one plain number
LENGTH_UNITS = (1, 2, 3)  # metre, mm, micrometre, which ITK turns into mm; 0 says that nobody knows


@dataclass(frozen=True)
class NiftiHeader:
    """`shape` is (slices, rows, columns), the third axis of the file first; `has_units` says whether lengths mean mm."""

    shape: tuple[int, int, int]
    has_units: bool


def read_nifti_header(path: Path) -> NiftiHeader:
    """Reads and checks the header of a `.nii` or `.nii.gz` file, and that the file holds all it claims.

    Raises:
        BadInputError: not NIfTI-1 in one file, not three axes, colour or complex samples, truncated, or too large.
    """
    packed = path.name.lower().endswith(".gz")
    head = _unpacked(path, HEADER_BYTES)[0] if packed else _head(path)
    order = next((sign for sign in "<>" if head[:4] == struct.pack(f"{sign}i", HEADER_BYTES)), None)
    if len(head) < HEADER_BYTES or order is None or head[344:347] != b"n+1":
        raise BadInputError(f"{path}: no NIfTI-1 header of a single file; save it as NIfTI-1 (.nii or .nii.gz)")
    count, *sizes = struct.unpack_from(f"{order}8h", head, 40)
    if count < 3 or count > 7 or any(size != 1 for size in sizes[3:count]):
        shown = " x ".join(str(size) for size in sizes[: max(min(count, 7), 0)])
        raise BadInputError(f"{path}: its axes are {shown}, expected three; save one volume without time or channels")
    columns, rows, slices = sizes[:3]
    (datatype,) = struct.unpack_from(f"{order}h", head, 70)
    if min(columns, rows, slices) < 1 or datatype not in SAMPLE_BYTES:
        raise BadInputError(
            f"{path}: {columns} x {rows} x {slices} of data type {datatype}, expected positive sizes and one plain "
            "number per voxel; export it again"
        )
    (offset,) = struct.unpack_from(f"{order}f", head, 108)
    claimed = columns * rows * slices * SAMPLE_BYTES[datatype] + (int(offset) if 0 <= offset < 1e9 else 0)
    _check_size(path, claimed, packed)
    lengths = struct.unpack_from(f"{order}3f", head, 80)
    has_units = head[123] & 7 in LENGTH_UNITS and all(0 < length < math.inf for length in lengths)
    return NiftiHeader((slices, rows, columns), has_units)


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(HEADER_BYTES)
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror})") from error


def _check_size(path: Path, claimed: int, packed: bool) -> None:
    stored = path.stat().st_size
    claim = f"{path}: its header claims {claimed} bytes"
    if claimed > MAX_VOLUME_BYTES:
        raise BadInputError(f"{claim}, more than the {MAX_VOLUME_BYTES} a volume may have; correct the header")
    if packed and claimed > MAX_ZLIB_RATIO * stored:
        raise BadInputError(f"{claim}, {stored} cannot hold that; copy it again")
    found = _unpacked(path, claimed)[1] if packed else stored
    if found < claimed:
        raise BadInputError(f"{claim}, it holds {found}: it is truncated; copy it again")


def _unpacked(path: Path, limit: int) -> tuple[bytes, int]:
    """Returns the first piece of a gzip file, and how many bytes up to `limit` it unpacks to; holds 16 MiB at a time."""
    first, found = b"", 0
    try:
        with gzip.open(path) as file:
            while found < limit and (piece := file.read(min(limit - found, 1 << 24))):
                first, found = first or piece, found + len(piece)
    except (EOFError, OSError, zlib.error) as error:
        raise BadInputError(f"{path}: cannot be unpacked ({error}); copy it again") from error
    return first, found
