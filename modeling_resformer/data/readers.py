"""Volumes by SimpleITK, MetaImage (`.mhd` with `.raw`) checked to the byte. The only file that imports SimpleITK.

Axis order is fixed here and nowhere else. A header lists x, y, z; the data on disk has x fastest. SimpleITK's
arrays are therefore (z, y, x): z the B-scan (slowest), y the depth (rows, vitreous first), x the A-scan (columns). The
array is used in its stored order: nothing is flipped or resampled, whatever the header's direction says.
"""

import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import SimpleITK

from .problems import BadInputError


MAX_HEADER_BYTES = 1 << 16
MAX_VOLUME_BYTES = 1 << 32  # 4 GiB; the largest RETOUCH volume has 64 MiB
MAX_ZLIB_RATIO = 1040  # deflate cannot reach more than 1032
ELEMENT_BYTES = {
    "MET_CHAR": 1,
    "MET_UCHAR": 1,
    "MET_SHORT": 2,
    "MET_USHORT": 2,
    "MET_INT": 4,
    "MET_UINT": 4,
    "MET_FLOAT": 4,
    "MET_DOUBLE": 8,
}


@dataclass(frozen=True)
class VolumeHeader:
    """What a MetaImage header claims, checked against its data file.

    `shape` is (slices, rows, columns), `spacing` the same axes in mm (None where the header has none and may do so),
    `direction` the nine numbers of TransformMatrix.
    """

    path: Path
    data_path: Path
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] | None
    direction: tuple[float, ...]
    element_type: str
    compressed: bool

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * ELEMENT_BYTES[self.element_type]


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
class Volume:
    """Voxels (slices, rows, columns) in stored order, spacing (slice, row, column) in mm."""

    voxels: np.ndarray
    header: VolumeHeader
    geometry: Geometry


def read_header(path: Path, spacing_required: bool = True) -> VolumeHeader:
    """Reads and checks a header without touching the voxels.

    Raises:
        BadInputError: a field is missing or wrong, the data file lies elsewhere, is absent or has another size.
    """
    fields, end = _read_fields(path)
    if fields.get("NDims") != "3":
        raise BadInputError(f"{path}: NDims is {fields.get('NDims')}, expected 3; is this a volume?")
    columns, rows, slices = (int(n) for n in _numbers(fields, "DimSize", path))
    if min(columns, rows, slices) < 1:
        raise BadInputError(f"{path}: DimSize {columns} {rows} {slices} is not positive; correct the header")
    spacing_name = "ElementSpacing" if "ElementSpacing" in fields else "ElementSize"
    spacing = _numbers(fields, spacing_name, path)[::-1] if spacing_required or spacing_name in fields else None
    if spacing is not None and not all(0 < mm < math.inf for mm in spacing):
        x, y, z = spacing[::-1]
        raise BadInputError(f"{path}: {spacing_name} {x} {y} {z} is not positive; correct the header")
    element_type = fields.get("ElementType", "")
    if element_type not in ELEMENT_BYTES or fields.get("ElementNumberOfChannels", "1") != "1":
        raise BadInputError(f"{path}: ElementType {element_type or 'missing'} is not one plain number per voxel")
    header = VolumeHeader(
        path=path,
        data_path=_data_path(fields, path),
        shape=(slices, rows, columns),
        spacing=spacing,
        direction=_direction(fields, path),
        element_type=element_type,
        compressed=fields.get("CompressedData", "False").lower() == "true",
    )
    _check_size(header, end if header.data_path == path else _skipped_bytes(fields, header))
    return header


def read_volume(path: Path, spacing_required: bool = True) -> Volume:
    """Reads a MetaImage volume, compressed or not, of either byte order.

    Raises:
        BadInputError: see `read_header`; also compressed data that does not unpack to the claimed size, and NaN.
    """
    header = read_header(path, spacing_required)
    if header.compressed:
        _check_compressed(header)
    voxels, geometry = read_image(path)
    if voxels.shape != header.shape:
        raise BadInputError(f"{path}: read as {voxels.shape}, the header says {header.shape}; copy the volume again")
    if not all_finite(voxels):
        raise BadInputError(f"{path}: holds NaN ({header.element_type}); expected whole numbers, export it again")
    return Volume(voxels, header, geometry)


def read_image(path: Path) -> tuple[np.ndarray, Geometry]:
    """Reads a file by SimpleITK: (z, y, x) voxels and where they lie. What a header claims must be checked before.

    Raises:
        BadInputError: SimpleITK cannot read it.
    """
    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise BadInputError(f"{path}: SimpleITK cannot read it ({reason}); copy the volume again") from error
    return np.asarray(_Owner(image)), Geometry(image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def write_image(path: Path, voxels: np.ndarray, geometry: Geometry) -> None:
    """Writes (z, y, x) voxels, compressed, in the format that the name's ending says."""
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    SimpleITK.WriteImage(image, str(path), useCompression=True)


def all_finite(voxels: np.ndarray) -> bool:
    """Whether no voxel is NaN or infinite; slice by slice, to hold no second volume."""
    return voxels.dtype.kind != "f" or all(np.isfinite(picture).all() for picture in voxels)


class _Owner:
    """Lends an image's memory to NumPy without a copy, and lives as long as any array that shows it."""

    def __init__(self, image: SimpleITK.Image) -> None:
        self.image = image
        # Read-only: SimpleITK's own view would die with the image and show freed memory.
        self.__array_interface__ = SimpleITK.GetArrayViewFromImage(image).__array_interface__


def _read_fields(path: Path) -> tuple[dict[str, str], int]:
    """Returns the header's fields and the offset behind its last line, ElementDataFile."""
    try:
        with open(path, "rb") as file:
            head = file.read(MAX_HEADER_BYTES)
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror})") from error
    fields, offset = {}, 0
    for line in head.splitlines(keepends=True):
        offset += len(line)
        name, equals, value = line.decode("utf-8", "replace").partition("=")
        if not equals:
            continue
        fields[name.strip()] = value.strip()
        if name.strip() == "ElementDataFile":
            return fields, offset
    raise BadInputError(f"{path}: no ElementDataFile line; this is not a MetaImage header")


def _numbers(fields: dict[str, str], name: str, path: Path) -> tuple[float, float, float]:
    text = fields.get(name, "")
    pattern = r"\d+" if name == "DimSize" else r"[-+.\deE]+"
    parts = text.split()
    try:
        if len(parts) != 3 or not all(re.fullmatch(pattern, part) for part in parts):
            raise ValueError
        return float(parts[0]), float(parts[1]), float(parts[2])
    except ValueError:
        raise BadInputError(f"{path}: {name} is {text or 'missing'!r}, expected three numbers") from None


def _direction(fields: dict[str, str], path: Path) -> tuple[float, ...]:
    text = fields.get("TransformMatrix", "1 0 0 0 1 0 0 0 1")
    try:
        return tuple(float(part) for part in text.split())
    except ValueError:
        raise BadInputError(f"{path}: TransformMatrix is {text!r}, expected nine numbers") from None


def _data_path(fields: dict[str, str], path: Path) -> Path:
    name = fields["ElementDataFile"]
    if name == "LOCAL":
        return path
    windows = PureWindowsPath(name)
    outside = PurePosixPath(name).is_absolute() or windows.drive or windows.root or ".." in windows.parts
    if outside or not name:
        raise BadInputError(
            f"{path}: ElementDataFile {name!r} points outside the volume's folder; put the data beside the header"
        )
    if name.upper().startswith("LIST") or "%" in name:
        raise BadInputError(f"{path}: ElementDataFile {name!r} is a list of files, expected one; merge the slices")
    data_path = path.parent / name
    if not data_path.is_file():
        raise BadInputError(f"{path}: its data file {name!r} is missing; copy it beside the header")
    return data_path


def _skipped_bytes(fields: dict[str, str], header: VolumeHeader) -> int:
    """Returns the bytes before the voxels in the data file; HeaderSize -1 means whatever precedes them."""
    try:
        skipped = int(fields.get("HeaderSize", "0"))
    except ValueError:
        raise BadInputError(f"{header.path}: HeaderSize is not a number; correct the header") from None
    return max(header.data_path.stat().st_size - header.num_bytes if skipped == -1 else skipped, 0)


def _check_size(header: VolumeHeader, skipped: int) -> None:
    found, size = header.data_path.stat().st_size - skipped, " x ".join(str(n) for n in header.shape[::-1])
    claim = f"{header.path}: DimSize {size} of {header.element_type} claims {header.num_bytes} bytes"
    if header.num_bytes > MAX_VOLUME_BYTES:
        raise BadInputError(f"{claim}, more than the {MAX_VOLUME_BYTES} a volume may have; correct the header")
    if header.compressed:
        if header.num_bytes > MAX_ZLIB_RATIO * max(found, 1) + MAX_HEADER_BYTES:
            raise BadInputError(f"{claim}, {header.data_path.name} cannot hold that in {found}; copy it again")
    elif found < header.num_bytes:
        raise BadInputError(f"{claim}, {header.data_path.name} holds {found}: it is truncated; copy it again")
    elif found > header.num_bytes:
        raise BadInputError(
            f"{claim}, {header.data_path.name} holds {found}: the dimensions do not match; correct them"
        )


def _check_compressed(header: VolumeHeader) -> None:
    """Unpacks in pieces and counts: ITK itself may fill the rest of a truncated stream with what memory held."""
    unpacker, unpacked = zlib.decompressobj(wbits=47), 0  # zlib or gzip, as MetaIO takes it
    try:
        with open(header.data_path, "rb") as file:
            if header.data_path == header.path:
                file.seek(_read_fields(header.path)[1])
            while unpacked <= header.num_bytes and (piece := file.read(1 << 20)):
                while piece and unpacked <= header.num_bytes:
                    unpacked += len(unpacker.decompress(piece, 1 << 24))
                    piece = unpacker.unconsumed_tail
        unpacked += len(unpacker.flush())
    except zlib.error as error:
        raise BadInputError(f"{header.data_path}: compressed data is damaged ({error}); copy it again") from error
    if unpacked != header.num_bytes:
        more = "more than " if unpacked > header.num_bytes else ""
        raise BadInputError(
            f"{header.data_path}: unpacks to {more}{min(unpacked, header.num_bytes)} bytes, "
            f"the header claims {header.num_bytes}; copy it again"
        )
