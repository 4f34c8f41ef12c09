"""What a NIfTI-1 header claims, checked against its file before ITK reads it.

Fields and offsets are those of the NIfTI-1.1 standard (Cox et al., nifti.nimh.nih.gov/nifti-1).
"""

import gzip
import math
import struct
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import BadInputError
from ..limits import DEFAULT_LIMITS, InputLimits
from .claims import DEFLATE_RATIO, check_volume
from .metaimage import MAX_VOLUME_BYTES


HEADER_BYTES = 348
FIRST_OFFSET = 352  # of the voxels in a single file
PIECE_BYTES = 1 << 24
SHORTEST, LONGEST = 1e-12, 1e12  # of an axis in the file's own unit; scan.py judges mm
LEAST_SLOPE = 1e-9
ROUNDING = 1e-2  # by which files round
LEAST_VOLUME = 1e-3  # of the box that three axes of length one span
SAMPLE_BYTES = {2: 1, 4: 2, 8: 4, 16: 4, 64: 8, 256: 1, 512: 2, 768: 4}  # datatype code: one plain number
LENGTH_UNITS = (1, 2, 3)  # metre, mm, micrometre, which ITK turns into mm; 0 says that nobody knows


@dataclass(frozen=True)
class NiftiHeader:
    """`shape` is (slices, rows, columns), the third axis of the file first; `has_units` says whether lengths mean mm."""

    shape: tuple[int, int, int]
    has_units: bool


def read_nifti_header(path: Path, limits: InputLimits = DEFAULT_LIMITS) -> NiftiHeader:
    """Reads and checks the header of a `.nii` or `.nii.gz` file, and that the file holds all it claims.

    Raises:
        BadInputError: not NIfTI-1 in one file, not three axes, colour or complex samples, truncated, or too large.
    """
    packed = path.name.lower().endswith(".gz")
    head = next(_pieces(path, packed, HEADER_BYTES), b"")
    order = next((sign for sign in "<>" if head[:4] == struct.pack(f"{sign}i", HEADER_BYTES)), None)
    if len(head) < HEADER_BYTES or order is None or head[344:348] != b"n+1\0":
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
    check_volume(path, (slices, rows, columns), limits)
    (offset,) = struct.unpack_from(f"{order}f", head, 108)
    if not FIRST_OFFSET <= offset < MAX_VOLUME_BYTES:  # ITK would begin elsewhere without a word
        raise BadInputError(f"{path}: vox_offset is {offset:g}, expected {FIRST_OFFSET} or more; export it again")
    _check_place(path, head, order)
    claimed = columns * rows * slices * SAMPLE_BYTES[datatype] + int(offset)
    _check_size(path, claimed, packed)
    _check_content(path, claimed, packed, int(offset), {16: f"{order}f4", 64: f"{order}f8"}.get(datatype))
    lengths = struct.unpack_from(f"{order}3f", head, 80)
    has_units = (
        head[123] & 7 in LENGTH_UNITS and all(0 < length < math.inf for length in lengths) and _agree(head, order)
    )
    return NiftiHeader((slices, rows, columns), has_units)


def _check_place(path: Path, head: bytes, order: str) -> None:
    """Refuses axes and numbers that ITK would look for a rotation in for ever, or replace by others without a word."""
    qform, sform = struct.unpack_from(f"{order}2h", head, 252)
    matrix = np.array(struct.unpack_from(f"{order}12f", head, 280)).reshape(3, 4)
    quaternion = struct.unpack_from(f"{order}3f", head, 256)
    slope, intercept = struct.unpack_from(f"{order}2f", head, 112)
    for name, used, numbers in (
        ("pixdim", True, struct.unpack_from(f"{order}4f", head, 76)),
        ("scl_slope and scl_inter", True, (slope, intercept)),
        ("qform", qform, (*quaternion, *struct.unpack_from(f"{order}3f", head, 268))),
        ("sform", sform, matrix.ravel()),
    ):
        if used and not np.isfinite(numbers).all():
            raise BadInputError(f"{path}: its {name} holds NaN or infinite values; export it again")
    if sform > 0 and not _are_axes(matrix[:, :3]):
        raise BadInputError(f"{path}: its sform gives no three axes; export it again")
    if qform > 0 and sum(number**2 for number in quaternion) > 1 + ROUNDING:
        raise BadInputError(f"{path}: its qform gives no rotation; export it again")
    # By the standard a slope of 0 means that nothing is scaled; ITK takes the smallest ones for that too, and adds the rest.
    if (slope != 0 and not LEAST_SLOPE < abs(slope) < 1 / LEAST_SLOPE) or (slope == 0 and intercept != 0):
        raise BadInputError(f"{path}: scl_slope is {slope:g} and scl_inter {intercept:g}; export it again")


def _agree(head: bytes, order: str) -> bool:
    """Whether the two places that tell the lengths of a voxel tell the same; ITK goes by the one, others by the other."""
    (sform,) = struct.unpack_from(f"{order}h", head, 254)
    matrix = np.array(struct.unpack_from(f"{order}12f", head, 280)).reshape(3, 4)
    lengths = struct.unpack_from(f"{order}3f", head, 80)
    return sform <= 0 or np.allclose(np.linalg.norm(matrix[:, :3], axis=0), np.abs(lengths), rtol=ROUNDING, atol=0)


def _are_axes(matrix: np.ndarray) -> bool:
    """Whether the columns (3, 3) have lengths that a scan may have, and span the space."""
    lengths = np.linalg.norm(matrix, axis=0)
    if not ((lengths > SHORTEST) & (lengths < LONGEST)).all():
        return False
    return abs(np.linalg.det(matrix / lengths)) > LEAST_VOLUME


def is_whole(path: Path) -> bool:
    """Whether a file that was just written holds all that its header says: ITK does not tell when a disk is full."""
    try:
        read_nifti_header(path, InputLimits(MAX_VOLUME_BYTES, MAX_VOLUME_BYTES))
        # To the end, where gzip keeps its sum.
        deque(_pieces(path, path.name.lower().endswith(".gz"), 2 * MAX_VOLUME_BYTES), maxlen=0)
    except BadInputError:
        return False
    return True


def _check_size(path: Path, claimed: int, packed: bool) -> None:
    stored = path.stat().st_size
    claim = f"{path}: its header claims {claimed} bytes"
    if claimed > MAX_VOLUME_BYTES:
        raise BadInputError(f"{claim}, more than the {MAX_VOLUME_BYTES} a volume may have; correct the header")
    if packed and claimed > DEFLATE_RATIO * stored:
        raise BadInputError(f"{claim}, {stored} cannot hold that; copy it again")


def _check_content(path: Path, claimed: int, packed: bool, offset: int, floats: str | None) -> None:
    """Reads all the file claims: what is missing, and float samples that ITK would silently set to zero."""
    found, rest = 0, b""
    for piece in _pieces(path, packed, claimed):
        if floats is not None:
            rest += piece[max(offset - found, 0) :]
            whole = len(rest) - len(rest) % int(floats[-1])
            if not np.isfinite(np.frombuffer(rest[:whole], floats)).all():
                raise BadInputError(f"{path}: holds NaN or infinite values; export it again")
            rest = rest[whole:]
        found += len(piece)
    if found < claimed:
        raise BadInputError(
            f"{path}: its header claims {claimed} bytes, it holds {found}: it is truncated; copy it again"
        )


def _pieces(path: Path, packed: bool, limit: int) -> Iterator[bytes]:
    """Yields the first `limit` bytes of a file, unpacked, in pieces."""
    found = 0
    try:
        with gzip.open(path) if packed else open(path, "rb") as file:
            while found < limit and (piece := file.read(min(limit - found, PIECE_BYTES))):
                found += len(piece)
                yield piece
    except (EOFError, OSError, zlib.error) as error:
        action = "unpacked" if packed else "read"
        raise BadInputError(f"{path}: cannot be {action} ({error}); copy it again") from error
