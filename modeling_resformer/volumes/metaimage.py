"""Volumes: MetaImage (`.mhd` with `.raw`) read here byte by byte, others by SimpleITK. The only file that imports SimpleITK.

A MetaImage header can name any file of the machine as its data, and says how that is to be read. So that what was checked is
what is read, ITK is not asked at all: the header is taken apart as MetaIO does (either separator, `=` or `:`; the data
begin after ElementDataFile), what is ambiguous is refused, and the voxels come from the one file that was checked.

Axis order is fixed here and nowhere else. A header lists x, y, z; the data on disk has x fastest. Arrays
are therefore (z, y, x): z the B-scan (slowest), y the depth (rows, vitreous first), x the A-scan (columns). The
array is used in its stored order: nothing is flipped or resampled, whatever the header's direction says.
"""

import math
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

import numpy as np
import SimpleITK

from ..errors import BadInputError
from ..limits import DEFAULT_LIMITS, InputLimits
from .claims import DEFLATE_RATIO, check_volume


SimpleITK.ProcessObject_GlobalWarningDisplayOff()  # several lines of the library about what is told in one, or not at all

MAX_HEADER_BYTES = 1 << 16
MAX_VOLUME_BYTES = 1 << 32  # 4 GiB; the largest RETOUCH volume has 64 MiB
MAX_DIGITS = 15  # of a whole number in a header
PIECE_BYTES = 1 << 20
ELEMENT_TYPES = {
    "MET_CHAR": "int8",
    "MET_UCHAR": "uint8",
    "MET_SHORT": "int16",
    "MET_USHORT": "uint16",
    "MET_INT": "int32",
    "MET_UINT": "uint32",
    "MET_FLOAT": "float32",
    "MET_DOUBLE": "float64",
}
# Names for one thing: where a header uses several, they must agree.
BYTE_ORDER = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
ORIGIN = ("Offset", "Position", "Origin")
DIRECTION = ("TransformMatrix", "Rotation", "Orientation")
# Fields that would change what the voxels or lengths mean, and the values that change nothing.
ONLY = {
    "ObjectType": ("Image",),
    "BinaryData": ("True", "true", "TRUE", "T", "t", "1"),
    "ElementNumberOfChannels": ("1",),
    "ElementToIntensityFunctionSlope": ("1", "1.0"),
    "ElementToIntensityFunctionOffset": ("0", "0.0"),
    "DistanceUnits": ("mm", "?"),
}
LOCAL = ("LOCAL", "Local", "local")
UNIT_LENGTH = 1e-2  # largest deviation of direction cosines from orthonormal

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Geometry:
    """Where voxels lie in the patient, as ITK has it: axes in the order x, y, z, mm, and cosines row by row."""

    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    origin: tuple[float, ...] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @property
    def is_default(self) -> bool:
        """Whether this is what ITK assumes, and writes, where nothing is known."""
        return self == Geometry()


@dataclass(frozen=True)
class VolumeHeader:
    """What a MetaImage header claims, checked against its data file.

    `shape` is (slices, rows, columns), `spacing` the same axes in mm (None where the header has none and may do so),
    `origin` x, y, z in mm, `direction` the nine numbers of TransformMatrix, `skipped` the bytes before the voxels.
    """

    path: Path
    data_path: Path
    shape: tuple[int, int, int]
    spacing: Triple | None
    origin: Triple
    direction: tuple[float, ...]
    element_type: str
    big_endian: bool
    compressed: bool
    skipped: int

    @property
    def dtype(self) -> np.dtype:
        """As the voxels are stored."""
        return np.dtype(ELEMENT_TYPES[self.element_type]).newbyteorder(">" if self.big_endian else "<")

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def geometry(self) -> Geometry:
        """As ITK reads it: the header gives an axis a row, ITK has it in a column; 1 mm where it says no length."""
        spacing = Geometry().spacing if self.spacing is None else self.spacing[::-1]
        axes = (self.direction[start::3] for start in range(3))
        return Geometry(spacing, self.origin, tuple(cosine for axis in axes for cosine in axis))


@dataclass(frozen=True)
class Volume:
    """Voxels (slices, rows, columns) in stored order, spacing (slice, row, column) in mm."""

    voxels: np.ndarray
    header: VolumeHeader
    geometry: Geometry


def read_header(path: Path, spacing_required: bool = True, limits: InputLimits = DEFAULT_LIMITS) -> VolumeHeader:
    """Reads and checks a header without touching the voxels.

    Raises:
        BadInputError: a field is missing, wrong, given twice or not understood; the data file lies anywhere but beside
            the header, is absent or has another size.
    """
    fields, end = _read_fields(path)
    for name, accepted in ONLY.items():
        if fields.get(name, accepted[0]) not in accepted:
            raise BadInputError(
                f"{path}: {name} is {_short(fields[name])}, expected {accepted[0]}; save it as one plain number per voxel, in mm"
            )
    if fields.get("NDims") != "3":
        raise BadInputError(f"{path}: NDims is {_short(fields.get('NDims'))}, expected 3; is this a volume?")
    element_type = fields.get("ElementType", "missing")
    if element_type not in ELEMENT_TYPES:
        raise BadInputError(f"{path}: ElementType {_short(element_type)} is not one plain number per voxel")
    data_path = _data_path(fields, path)
    header = VolumeHeader(
        path=path,
        data_path=data_path,
        shape=_shape(fields, path),
        spacing=_spacing(fields, path, spacing_required),
        origin=_numbers(fields, _one_of(fields, ORIGIN, path), path, 3, (0.0, 0.0, 0.0)),
        direction=_direction(fields, path),
        element_type=element_type,
        big_endian=_flag(fields, _one_of(fields, BYTE_ORDER, path), path),
        compressed=_flag(fields, "CompressedData", path),
        skipped=end if data_path == path else 0,
    )
    check_volume(path, header.shape, limits)
    header = replace(header, skipped=header.skipped + _header_bytes(fields, header))
    _check_size(header, _whole_number(fields, "CompressedDataSize", path))
    return header


def read_volume(path: Path, spacing_required: bool = True, limits: InputLimits = DEFAULT_LIMITS) -> Volume:
    """Reads a MetaImage volume, compressed or not, of either byte order.

    Raises:
        BadInputError: see `read_header`; also compressed data that does not unpack to the claimed size, and NaN.
    """
    header = read_header(path, spacing_required, limits)
    try:
        with open(header.data_path, "rb") as file:
            file.seek(header.skipped)
            stored = _unpacked(file, header) if header.compressed else np.fromfile(file, np.uint8, header.num_bytes)
    except OSError as error:
        raise BadInputError(f"{header.data_path}: cannot be read ({error.strerror})") from error
    if stored.size != header.num_bytes:
        raise BadInputError(f"{header.data_path}: became shorter while it was read; copy it again")
    voxels = stored.view(header.dtype).reshape(header.shape)
    if not header.dtype.isnative:
        voxels = voxels.byteswap(inplace=True).view(header.dtype.newbyteorder("="))
    voxels.flags.writeable = False
    if not all_finite(voxels):
        raise BadInputError(f"{path}: holds NaN ({header.element_type}); expected whole numbers, export it again")
    return Volume(voxels, header, header.geometry)


def read_with_itk(path: Path) -> tuple[np.ndarray, Geometry]:
    """Reads a NIfTI file by SimpleITK: (z, y, x) voxels and where they lie. What it claims must be checked before.

    Raises:
        BadInputError: SimpleITK cannot read it.
    """
    try:
        # Named, so that no other of ITK's readers takes the file for its own.
        image = SimpleITK.ReadImage(str(path), imageIO="NiftiImageIO")
    except (RuntimeError, UnicodeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise BadInputError(f"{path}: SimpleITK cannot read it ({reason}); copy the volume again") from error
    return np.asarray(_Owner(image)), Geometry(image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def write_volume(path: Path, voxels: np.ndarray, geometry: Geometry) -> None:
    """Writes (z, y, x) voxels, compressed, in the format that the name's ending says."""
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    SimpleITK.WriteImage(image, str(path), useCompression=True)


def all_finite(voxels: np.ndarray) -> bool:
    """Whether no voxel is NaN or infinite; slice by slice, to hold no second volume."""
    return voxels.dtype.kind != "f" or all(np.isfinite(image).all() for image in voxels)


class _Owner:
    """Lends an image's memory to NumPy without a copy, and lives as long as any array that shows it."""

    def __init__(self, image: SimpleITK.Image) -> None:
        self.image = image
        # Read-only: SimpleITK's own view would die with the image and show freed memory.
        self.__array_interface__ = SimpleITK.GetArrayViewFromImage(image).__array_interface__


def _lines(path: Path) -> Iterator[tuple[str, int]]:
    """Yields the lines of a header without their ends, and the offset behind each."""
    try:
        with open(path, "rb") as file:
            head = file.read(MAX_HEADER_BYTES)
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror})") from error
    offset = 0
    for line in head.split(b"\n")[:-1]:
        offset += len(line) + 1
        yield os.fsdecode(line.removesuffix(b"\r")), offset


def _read_fields(path: Path) -> tuple[dict[str, str], int]:
    """Returns the header's fields and the offset behind its last line, ElementDataFile.

    Both separators count, whichever comes first, as in MetaIO. Refused is what MetaIO and a reader line by line
    would take apart differently: names twice, lines without a separator, control characters, a second separator.
    """
    fields: dict[str, str] = {}
    for line, end in _lines(path):
        if not line.strip():
            continue
        name, *value = re.split("[=:]", line, maxsplit=1)
        name = name.strip()
        if not value or not name.isascii() or not _is_plain(line):
            break
        text = value[0].strip()
        if name.casefold() in map(str.casefold, fields):
            raise BadInputError(f"{path}: {_short(name)} comes twice; keep one of the two lines")
        if text.startswith(("=", ":")):
            raise BadInputError(f"{path}: {_short(name)} has two separators; write {name} = {_short(text[1:])}")
        fields[name] = text
        if name == "ElementDataFile":
            return fields, end
    raise BadInputError(
        f"{path}: no ElementDataFile line after lines of the form 'name = value'; this is not a MetaImage header"
    )


def _is_plain(line: str) -> bool:
    """Whether there is no control character but tabs; undecodable bytes may be part of a file's name."""
    return not any(character < " " and character != "\t" for character in line)


def _short(text: str | None) -> str:
    text = str(text)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _one_of(fields: dict[str, str], names: tuple[str, ...], path: Path) -> str:
    """The first of several names for one field that the header uses; the first of all where it uses none."""
    used = [name for name in names if name in fields]
    if len({fields[name] for name in used}) > 1:
        raise BadInputError(f"{path}: {used[0]} and {used[1]} mean the same and differ; keep the right one of the two")
    return used[0] if used else names[0]


def _flag(fields: dict[str, str], name: str, path: Path) -> bool:
    """MetaIO goes by the first letter alone."""
    text = fields.get(name, "False").lower()
    if text not in ("true", "t", "1", "false", "f", "0"):
        raise BadInputError(f"{path}: {name} is {_short(text)!r}, expected True or False")
    return text[0] in "t1"


def _whole_number(fields: dict[str, str], name: str, path: Path) -> int | None:
    text = fields.get(name)
    if text is not None and not re.fullmatch(rf"-?[0-9]{{1,{MAX_DIGITS}}}", text):
        raise BadInputError(f"{path}: {name} is {_short(text)!r}, expected a whole number; correct the header")
    return None if text is None else int(text)


def _numbers(
    fields: dict[str, str], name: str, path: Path, count: int, default: tuple[float, ...] | None = None
) -> tuple[float, ...]:
    words = {3: "three numbers", 9: "nine numbers"}
    if name not in fields and default is not None:
        return default
    text = fields.get(name, "")
    parts = text.split()
    if len(parts) != count or not all(re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", part) for part in parts):
        raise BadInputError(f"{path}: {name} is {_short(text or 'missing')!r}, expected {words[count]}")
    numbers = tuple(float(part) for part in parts)
    if not all(map(math.isfinite, numbers)):
        raise BadInputError(f"{path}: {name} is {_short(text)!r}, beyond any number; correct the header")
    return numbers


def _shape(fields: dict[str, str], path: Path) -> tuple[int, int, int]:
    """(slices, rows, columns)."""
    text = fields.get("DimSize", "")
    parts = text.split()
    if len(parts) != 3 or not all(re.fullmatch(rf"[0-9]{{1,{MAX_DIGITS}}}", part) for part in parts):
        raise BadInputError(f"{path}: DimSize is {_short(text or 'missing')!r}, expected three numbers")
    columns, rows, slices = map(int, parts)
    if min(columns, rows, slices) < 1:
        raise BadInputError(f"{path}: DimSize {columns} {rows} {slices} is not positive; correct the header")
    return slices, rows, columns


def _spacing(fields: dict[str, str], path: Path, required: bool) -> Triple | None:
    """(slice, row, column) in mm. ElementSpacing is the distance of voxels, ElementSize, which may differ, their size."""
    name = "ElementSpacing" if "ElementSpacing" in fields else "ElementSize"
    if name not in fields and not required:
        return None
    x, y, z = _numbers(fields, name, path, 3)
    if min(x, y, z) <= 0:
        raise BadInputError(f"{path}: {name} {x} {y} {z} is not positive; correct the header")
    return z, y, x


def _direction(fields: dict[str, str], path: Path) -> tuple[float, ...]:
    name = _one_of(fields, DIRECTION, path)
    cosines = _numbers(fields, name, path, 9, Geometry().direction)
    matrix = np.array(cosines).reshape(3, 3)
    with np.errstate(over="ignore", invalid="ignore"):
        orthonormal = np.allclose(matrix @ matrix.T, np.eye(3), rtol=0, atol=UNIT_LENGTH)
    if not orthonormal:
        raise BadInputError(
            f"{path}: {name} {_short(fields[name])} is no direction; expected three unit vectors at right angles"
        )
    return cosines


def _data_path(fields: dict[str, str], path: Path) -> Path:
    """The one file the voxels are in: the header's own, or one that lies beside it, itself and not as a link out."""
    name = fields["ElementDataFile"]
    if name in LOCAL:
        return path
    windows = PureWindowsPath(name)
    outside = PurePosixPath(name).is_absolute() or windows.drive or windows.root or len(windows.parts) != 1
    if outside or name in ("", ".", ".."):
        raise BadInputError(
            f"{path}: ElementDataFile {_short(name)!r} points outside the header's own folder; put the data beside it"
        )
    if name.upper().startswith("LIST") or "%" in name:
        raise BadInputError(
            f"{path}: ElementDataFile {_short(name)!r} is a list of files, expected one; merge the slices"
        )
    data_path = path.parent / name
    if not os.path.isfile(data_path):  # False of a name that is too long, too
        raise BadInputError(f"{path}: its data file {_short(name)!r} is missing; copy it beside the header")
    if data_path.resolve().parent != path.parent.resolve():
        raise BadInputError(
            f"{path}: its data file {_short(name)!r} is a link that points outside the header's own folder; copy the file itself"
        )
    return data_path


def _header_bytes(fields: dict[str, str], header: VolumeHeader) -> int:
    """Returns the bytes before the voxels in a data file of its own; HeaderSize -1 means whatever precedes them."""
    size = _whole_number(fields, "HeaderSize", header.path) or 0
    if size == -1 and not header.compressed:
        return max(header.data_path.stat().st_size - header.skipped - header.num_bytes, 0)
    if size < 0 or (size > 0 and (header.compressed or header.data_path == header.path)):
        raise BadInputError(
            f"{header.path}: HeaderSize is {size}, expected 0, or for a data file of its own that is not compressed "
            "the bytes before the voxels or -1"
        )
    return size


def _check_size(header: VolumeHeader, packed: int | None) -> None:
    found = header.data_path.stat().st_size - header.skipped
    size = " x ".join(str(n) for n in header.shape[::-1])
    claim = f"{header.path}: DimSize {size} of {header.element_type} claims {header.num_bytes} bytes"
    if header.num_bytes > MAX_VOLUME_BYTES:
        raise BadInputError(f"{claim}, more than the {MAX_VOLUME_BYTES} a volume may have; correct the header")
    if header.compressed:
        if packed not in (None, found):
            raise BadInputError(
                f"{header.path}: CompressedDataSize is {packed}, {header.data_path.name} holds {found}; copy it again"
            )
        if header.num_bytes > DEFLATE_RATIO * max(found, 1):
            raise BadInputError(f"{claim}, {header.data_path.name} cannot hold that in {found}; copy it again")
    elif found < header.num_bytes:
        raise BadInputError(f"{claim}, {header.data_path.name} holds {found}: it is truncated; copy it again")
    elif found > header.num_bytes:
        raise BadInputError(
            f"{claim}, {header.data_path.name} holds {found}: the dimensions do not match; correct them"
        )


def _unpacked(file: BinaryIO, header: VolumeHeader) -> np.ndarray:
    """Unpacks a stream of zlib or gzip, as MetaIO takes it, in pieces: exactly the bytes the header claims, sums checked."""
    unpacker, unpacked, claimed = zlib.decompressobj(wbits=47), 0, header.num_bytes
    voxels = np.empty(claimed, np.uint8)
    try:
        while not unpacker.eof and unpacked <= claimed:
            piece = unpacker.unconsumed_tail or file.read(PIECE_BYTES)
            part = unpacker.decompress(piece, PIECE_BYTES)
            if not (piece or part):
                break
            voxels[unpacked : unpacked + len(part)] = np.frombuffer(part, np.uint8)[: claimed - unpacked]
            unpacked += len(part)
    except zlib.error as error:
        raise BadInputError(f"{header.data_path}: compressed data is damaged ({error}); copy it again") from error
    if unpacked != claimed:
        more = "more than " if unpacked > claimed else ""
        raise BadInputError(
            f"{header.data_path}: unpacks to {more}{min(unpacked, claimed)} bytes, "
            f"the header claims {claimed}; copy it again"
        )
    if not unpacker.eof or unpacker.unused_data or file.read(1):
        raise BadInputError(f"{header.data_path}: compressed data does not end where it should; copy it again")
    return voxels
