"""DICOM files to voxels, spacing and geometry. The only file that imports pydicom.

Grey frames become volumes: the files of one series, or the frames of one file (Ophthalmic Tomography, enhanced CT and MR).
Stored values pass Modality LUT's slope and intercept; MONOCHROME1 is inverted, so that high always means bright. What a
file says of bits (BitsStored) and not what its type could hold gives the range of unsigned values. pydicom's
warnings are off: they quote what they find, and where a length is wrong that may be a person's name.
"""

import math
import mmap
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.config import disable_value_validation
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels import apply_color_lut, iter_pixels

from ..errors import BadInputError, one_line
from ..limits import DEFAULT_LIMITS, InputLimits
from .claims import DEFLATE_RATIO, check_image, check_length, check_volume
from .metaimage import MAX_VOLUME_BYTES, Geometry
from .source import DICOM, VolumeSource


# What pydicom and its decoders raise on files that lie.
DICOM_ERRORS = (
    BytesLengthException,
    InvalidDicomError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
VOLUME, SLICE, IMAGE = "volume", "slice", "image"
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOURS = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420")
QUOTED = re.compile(r"""b?(['"])(.*?)\1""")
SAME_DIRECTION = 1e-3  # largest difference of two cosines taken as equal
DEFLATED = b"1.2.840.10008.1.2.1.99"  # transfer syntax of a header and pixels that are deflated together
HEAD_BYTES = 1 << 12  # in which a file names its transfer syntax
ITEM_BYTES = 8  # of a frame that is compressed by itself, at least
DECIMALS = 9  # of mm; differences of decimal positions have no more
UNEVEN = 0.1  # largest deviation from the usual distance of two slices, as a share of it

Spacing = tuple[float | None, float, float]
Range = tuple[float, float]


@dataclass(frozen=True)
class DicomVolume:
    """Voxels (slices, rows, columns); spacing (slice, row, column) in mm, the slices' None where no file says it.

    `value_range` holds the lowest and highest value the file can store, None where that is the range of the voxels' type
    or, for signed values, says nothing about brightness. `files` are those of the slices, in their order, or the one of all.
    """

    voxels: np.ndarray
    spacing: Spacing | None
    geometry: Geometry
    value_range: Range | None
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Frame:
    """Where one slice lies: position (3,) of its first pixel, orientation (6,) of its rows and columns; None if unsaid."""

    position: np.ndarray | None
    orientation: np.ndarray | None
    pixel_spacing: tuple[float, float] | None


@disable_value_validation()
def sort_files(files: Sequence[Path], folder: Path) -> tuple[list[VolumeSource], list[Path]]:
    """Sorts DICOM files of one folder into volumes and single images.

    A grey series of two or more files is a volume, and so is a file of several frames; the rest are images. A file that
    cannot be read counts as a volume of its own, so that reading it says what is wrong.
    """
    series: dict[str, list[tuple[Path, str]]] = {}
    volumes, images = [], []
    for path in files:
        try:
            header = read_dataset(path)
            kind, uid, number = _kind(header), str(header.get("SeriesInstanceUID", "")), _series_number(header)
        except Exception:  # pydicom reads a field when it is asked for, and raises what it meets there
            kind, uid, number = VOLUME, "", ""
        if kind == VOLUME:
            volumes.append(VolumeSource(path, path.stem, DICOM, (path,)))
        elif kind == SLICE:
            series.setdefault(uid, []).append((path, number))
        elif kind == IMAGE:
            images.append(path)
    images += [members[0][0] for members in series.values() if len(members) == 1]
    stacks = [members for members in series.values() if len(members) > 1]
    for number, members in enumerate(stacks, start=1):
        name = folder.resolve().name
        if len(stacks) > 1:
            name += f"_series{members[0][1] or number}"
        volumes.append(VolumeSource(folder, name, DICOM, tuple(path for path, _ in members)))
    return volumes, sorted(images)


def _kind(header: Dataset) -> str | None:
    """What a file holds, as far as it alone can tell; None for a report or the index of a disc."""
    if "Rows" not in header:
        is_other = "SOPClassUID" in header and "Image Storage" not in header.SOPClassUID.name
        return None if is_other or "DirectoryRecordSequence" in header else VOLUME
    if frame_count(header) > 1:
        return VOLUME
    return SLICE if header.get("PhotometricInterpretation") in GREY else IMAGE


def _series_number(header: Dataset) -> str:
    """As text for names; empty where there is no number that can be read."""
    try:
        number = str(header.get("SeriesNumber"))
    except Exception:
        return ""
    return number if re.fullmatch(r"-?\d{1,12}", number) else ""


def without_values(error: Exception) -> str:
    """What pydicom met, on one line, without the values that it quotes: where a length is wrong, they may be a name."""

    def blanked(quoted: re.Match[str]) -> str:
        return quoted[0] if tag_for_keyword(quoted[2].replace(" ", "")) else "a value"

    return one_line(QUOTED.sub(blanked, one_line(error)), 160)


def field_text(value: object) -> str:
    """A field for a message: numbers and kinds of pixels as they are, other text not, which may be a person's."""
    return str(value) if isinstance(value, int) or value in (None, *GREY, *COLOURS) else "no such value"


@disable_value_validation()
def read_dataset(path: Path) -> Dataset:
    """Reads all but the pixels.

    Raises:
        BadInputError: not DICOM.
    """
    try:
        _check_deflated(path)
        with _mapped(path) as file:
            dataset = pydicom.dcmread(file, stop_before_pixels=True)
        frame_count(dataset)
    except BadInputError:
        raise
    except DICOM_ERRORS as error:
        raise BadInputError(
            f"{path}: not a DICOM file that can be read ({without_values(error)}); copy it again"
        ) from error
    return dataset


def _check_deflated(path: Path) -> None:
    """pydicom unpacks a deflated file as a whole before it reads anything of it."""
    with open(path, "rb") as file:
        is_deflated = DEFLATED in file.read(HEAD_BYTES)
    if is_deflated and path.stat().st_size * DEFLATE_RATIO > MAX_VOLUME_BYTES:
        raise BadInputError(f"{path}: a deflated file of this size may unpack to anything; export it uncompressed")


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    """A file that gives no more than it holds: asked for a length of 4 GiB, an ordinary one would make room for it first."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        yield mapped


def frame_count(dataset: Dataset) -> int:
    return int(dataset.get("NumberOfFrames") or 1)


@disable_value_validation()
def read_dicom_volume(files: Sequence[Path], limits: InputLimits = DEFAULT_LIMITS) -> DicomVolume:
    """Reads one series or one file of several frames.

    Args:
        files: of the series, or the one file.
        limits: the largest volume.

    Raises:
        BadInputError: mixed sizes, missing or doubled slices, colour, a compression no installed decoder takes,
            truncation, or more bytes than a volume may have; the message names the file.
    """
    headers = [read_dataset(path) for path in files]
    try:
        _check_samples(files[0], headers[0])
        _check_claim(files[0], headers[0], max(len(files), frame_count(headers[0])), limits)
        for path, header in zip(files, headers, strict=True):
            _check_frames(path, header)
        if len(files) > 1:
            return _read_series(files, headers)
        return _read_frames(files[0], headers[0])
    except BadInputError:
        raise
    except DICOM_ERRORS as error:
        raise BadInputError(f"{files[0]}: its header does not hold together ({without_values(error)})") from error


def _read_series(files: Sequence[Path], headers: Sequence[Dataset]) -> DicomVolume:
    for path, header in zip(files, headers, strict=True):
        for name in ("Rows", "Columns", "BitsAllocated", "PixelRepresentation"):
            if header.get(name) != headers[0].get(name):
                raise BadInputError(
                    f"{path}: {name} is {field_text(header.get(name))}, that of {files[0].name} in the same series "
                    f"{field_text(headers[0].get(name))}; give volumes whose slices are of one kind"
                )
        if frame_count(header) > 1:
            raise BadInputError(f"{path}: holds several frames amid a series; move it to a folder of its own")
    frames = [_frame(header, 0) for header in headers]
    order = _order(files, headers, frames)
    files, headers = [files[i] for i in order], [headers[i] for i in order]
    frames = [frames[i] for i in order]
    slice_spacing = _number(headers[0].get("SpacingBetweenSlices"))
    gaps = _gaps(frames)
    if gaps is not None:
        slice_spacing = _series_spacing(gaps, files)
    return _assembled(files, headers, frames, slice_spacing)


def _read_frames(path: Path, header: Dataset) -> DicomVolume:
    count = frame_count(header)
    frames = [_frame(header, index) for index in range(count)]
    measures = _macro(header, 0, "PixelMeasuresSequence")
    slice_spacing = _number(measures.get("SpacingBetweenSlices", header.get("SpacingBetweenSlices")))
    gaps = _gaps(frames)
    if gaps is not None and len(gaps):
        # Radial and repeated scans are no stack: without one distance there is no volume in mm3.
        usual = float(np.median(gaps))
        even = abs(usual) > 0 and bool((abs(gaps - usual) <= UNEVEN * abs(usual)).all())
        slice_spacing = abs(round(float(np.mean(gaps)), DECIMALS)) if even else None
    elif any(frame.position is not None for frame in frames):
        slice_spacing = None
    return _assembled([path], [header], frames, slice_spacing)


def _assembled(
    files: Sequence[Path], headers: Sequence[Dataset], frames: Sequence[Frame], slice_spacing: float | None
) -> DicomVolume:
    voxels = _voxels(files, headers, len(frames))
    ranges = {_value_range(header) for header in headers}
    pixel_spacings = {frame.pixel_spacing for frame in frames}
    pixel_spacing = pixel_spacings.pop() if len(pixel_spacings) == 1 else None
    return DicomVolume(
        voxels=voxels,
        spacing=None if pixel_spacing is None else (slice_spacing, *pixel_spacing),
        geometry=_geometry(frames, pixel_spacing, slice_spacing),
        value_range=ranges.pop() if len(ranges) == 1 else None,
        files=tuple(files),
    )


def _order(files: Sequence[Path], headers: Sequence[Dataset], frames: Sequence[Frame]) -> list[int]:
    """Indices of a series' files along the normal of its slices, as ITK sorts them; by InstanceNumber without positions."""
    if all(frame.position is not None and frame.orientation is not None for frame in frames):
        for path, frame in zip(files, frames, strict=True):
            if abs(frame.orientation - frames[0].orientation).max() > SAME_DIRECTION:
                raise BadInputError(f"{path}: lies at an angle to {files[0].name} of the same series; take it out")
        normal = _normal(frames[0])
        return sorted(range(len(files)), key=lambda i: float(frames[i].position @ normal))
    numbers = [header.get("InstanceNumber") for header in headers]
    if None in numbers:
        raise BadInputError(
            f"{files[numbers.index(None)]}: neither ImagePositionPatient nor InstanceNumber says where this slice "
            "belongs; export the series again"
        )
    present = sorted(int(number) for number in numbers)
    missing = [before + 1 for before, after in pairwise(present) if after > before + 1]
    if missing or len(set(present)) < len(present):
        problem = f"InstanceNumber {missing[0]} is missing" if missing else "two slices have one InstanceNumber"
        raise BadInputError(f"{files[0].parent}: {problem} in the series of {files[0].name}; copy the series again")
    return sorted(range(len(files)), key=lambda i: int(numbers[i]))


def _series_spacing(gaps: np.ndarray, files: Sequence[Path]) -> float:
    usual = float(np.median(gaps))
    for gap, path in zip(gaps, files[1:], strict=True):
        if gap <= 1e-6 or usual <= 1e-6:
            raise BadInputError(f"{path}: lies where another slice of its series lies; give one acquisition at a time")
        if abs(gap - usual) > UNEVEN * usual:
            raise BadInputError(
                f"{path}: lies {gap:.4g} mm from the slice before it, the others {usual:.4g} mm; slices are missing, "
                "copy the series again"
            )
    return round(float(np.mean(gaps)), DECIMALS)


def _gaps(frames: Sequence[Frame]) -> np.ndarray | None:
    """Distances (N - 1,) in mm along the common normal, None where positions or one direction are lacking."""
    if any(frame.position is None or frame.orientation is None for frame in frames):
        return None
    orientations = np.stack([frame.orientation for frame in frames])
    if np.ptp(orientations, axis=0).max() > SAME_DIRECTION:
        return None
    return np.diff(np.stack([frame.position for frame in frames]) @ _normal(frames[0]))


def _normal(frame: Frame) -> np.ndarray:
    return np.cross(frame.orientation[:3], frame.orientation[3:])


def _geometry(
    frames: Sequence[Frame], pixel_spacing: tuple[float, float] | None, slice_spacing: float | None
) -> Geometry:
    """ITK's geometry; 1 mm and the patient's axes stand for what is unknown."""
    row, column = pixel_spacing or (1.0, 1.0)
    first, gaps = frames[0], _gaps(frames)
    spacing = column, row, slice_spacing or 1.0
    if first.orientation is None:
        return Geometry(spacing, tuple(map(float, (0, 0, 0) if first.position is None else first.position)))
    along = -_normal(first) if gaps is not None and len(gaps) and gaps[0] < 0 else _normal(first)
    direction = np.stack([first.orientation[:3], first.orientation[3:], along], axis=1)
    origin = np.zeros(3) if first.position is None else first.position
    return Geometry(spacing, tuple(map(float, origin)), tuple(map(float, direction.ravel())))


def _frame(header: Dataset, index: int) -> Frame:
    position = _macro(header, index, "PlanePositionSequence").get("ImagePositionPatient")
    orientation = _macro(header, index, "PlaneOrientationSequence").get("ImageOrientationPatient")
    spacing = _macro(header, index, "PixelMeasuresSequence").get("PixelSpacing")
    return Frame(
        _vector(position or header.get("ImagePositionPatient"), 3),
        _orientation(orientation or header.get("ImageOrientationPatient")),
        _pixel_spacing(spacing or header.get("PixelSpacing")),
    )


def _macro(header: Dataset, index: int, name: str) -> Dataset:
    """A functional group of one frame, its own before the shared one; empty where neither has it."""
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for groups in ([per_frame[index]] if index < len(per_frame) else [], shared):
        if groups and groups[0].get(name):
            return groups[0].get(name)[0]
    return Dataset()


def _vector(values: Sequence[float] | None, length: int) -> np.ndarray | None:
    if values is None or len(values) != length:
        return None
    vector = np.array([float(value) for value in values])
    return vector if np.isfinite(vector).all() else None


def _orientation(values: Sequence[float] | None) -> np.ndarray | None:
    """Cosines (6,) made orthonormal, since files round them; None where they are none."""
    vector = _vector(values, 6)
    if vector is None or abs(vector).max() > 1 + SAME_DIRECTION:
        return None
    if not np.linalg.norm(np.cross(vector[:3], vector[3:])) > 0.5:
        return None
    row = vector[:3] / np.linalg.norm(vector[:3])
    column = vector[3:] - (vector[3:] @ row) * row
    return np.concatenate([row, column / np.linalg.norm(column)])


def _pixel_spacing(values: Sequence[float] | None) -> tuple[float, float] | None:
    vector = _vector(values, 2)
    return None if vector is None or not (vector > 0).all() else (float(vector[0]), float(vector[1]))


def _number(value: float | None) -> float | None:
    number = None if value is None else abs(float(value))
    return number if number is not None and 0 < number < math.inf else None


def _voxels(files: Sequence[Path], headers: Sequence[Dataset], count: int) -> np.ndarray:
    """Decodes frame by frame into one array (count, rows, columns)."""
    first = headers[0]
    linear = [_slope_and_intercept(header) for header in headers]
    plain = all(pair == (1.0, 0.0) for pair in linear)
    stored = np.dtype(f"{'i' if first.PixelRepresentation else 'u'}{first.BitsAllocated // 8}")
    shape = count, int(first.Rows), int(first.Columns)
    voxels = np.empty(shape, stored if plain else np.float32)
    index = 0
    for path, header, (slope, intercept) in zip(files, headers, linear, strict=True):
        _check_samples(path, header)
        low, high = _bounds(header)
        for frame in _decoded(path, frame_count(header)):
            if frame.shape != shape[1:]:
                raise BadInputError(f"{path}: decodes to {frame.shape}, its header says {shape[1:]}; export it again")
            values = low + high - frame.astype(np.int64) if _is_inverted(header) else frame
            voxels[index] = values if plain else values * np.float32(slope) + np.float32(intercept)
            index += 1
    return voxels


def _decoded(path: Path, count: int) -> Iterator[np.ndarray]:
    """Yields all frames of a file."""
    found = 0
    try:
        with _mapped(path) as file:
            for frame in iter_pixels(file, raw=True):
                found += 1
                if found <= count:
                    yield frame
    except DICOM_ERRORS as error:
        raise BadInputError(
            f"{path}: its pixels cannot be decoded ({without_values(error)}); copy it again, or export it uncompressed"
        ) from error
    if found != count:
        raise BadInputError(f"{path}: holds {found} frames, its header says {count}; copy it again")


def _check_samples(path: Path, header: Dataset) -> None:
    if "Rows" not in header:
        raise BadInputError(f"{path}: its header ends before the image begins; copy it again")
    photometric = header.get("PhotometricInterpretation")
    if photometric not in GREY:
        raise BadInputError(
            f"{path}: frames in colour ({field_text(photometric)}), expected grey; give single images instead"
        )
    if header.get("BitsAllocated") not in (8, 16):
        raise BadInputError(f"{path}: BitsAllocated is {field_text(header.get('BitsAllocated'))}, expected 8 or 16")


def _check_claim(path: Path, header: Dataset, count: int, limits: InputLimits) -> None:
    shape = count, int(header.Rows), int(header.Columns)
    if min(shape) < 1:
        raise BadInputError(
            f"{path}: claims {' x '.join(map(str, shape))} voxels; expected one or more; export it again"
        )
    check_volume(path, shape, limits)


def _check_frames(path: Path, header: Dataset) -> None:
    """Refuses a file that is too short for the frames it claims."""
    count = frame_count(header)
    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_encapsulated:
        check_length(path, ITEM_BYTES * count)
        return
    samples = count * int(header.Rows) * int(header.Columns) * int(header.get("SamplesPerPixel") or 1)
    is_deflated = syntax is not None and syntax.is_deflated
    check_length(path, samples * int(header.get("BitsAllocated") or 8) // 8, DEFLATE_RATIO if is_deflated else 1)


def _bounds(header: Dataset) -> tuple[int, int]:
    bits = int(header.get("BitsStored") or header.BitsAllocated)
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if header.get("PixelRepresentation") else (0, (1 << bits) - 1)


def _is_inverted(header: Dataset) -> bool:
    return header.get("PhotometricInterpretation") == "MONOCHROME1"


def _slope_and_intercept(header: Dataset) -> tuple[float, float]:
    transform = _macro(header, 0, "PixelValueTransformationSequence")
    slope = transform.get("RescaleSlope", header.get("RescaleSlope"))
    intercept = transform.get("RescaleIntercept", header.get("RescaleIntercept"))
    return float(1 if slope is None else slope), float(intercept or 0)


def _value_range(header: Dataset) -> Range | None:
    if header.get("PixelRepresentation"):
        return None
    slope, intercept = _slope_and_intercept(header)
    low, high = (float(value) * slope + intercept for value in _bounds(header))
    return None if (low, high) == (0.0, float((1 << header.BitsAllocated) - 1)) else (min(low, high), max(low, high))


@disable_value_validation()
def read_dicom_image(path: Path, limits: InputLimits = DEFAULT_LIMITS) -> Image.Image:
    """Reads a single photograph or X-ray: RGB, or grey of 8 bits or of 16, fewer bits spread over all sixteen.

    Raises:
        BadInputError: signed values, several frames, or nothing that can be decoded.
    """
    header = read_dataset(path)
    if frame_count(header) > 1:
        raise BadInputError(f"{path}: holds {frame_count(header)} frames, a volume; expected one image")
    try:
        photometric = header.get("PhotometricInterpretation")
        columns, rows = (int(header.get(name) or 0) for name in ("Columns", "Rows"))
        check_image(path, columns, rows, limits)
        _check_frames(path, header)
        with _mapped(path) as file:
            (pixels,) = iter_pixels(file)
        if photometric == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, header)
    except BadInputError:
        raise
    except DICOM_ERRORS as error:
        raise BadInputError(
            f"{path}: its pixels cannot be decoded ({without_values(error)}); convert it to PNG"
        ) from error
    try:
        return _as_image(path, header, pixels)
    except BadInputError:
        raise
    except DICOM_ERRORS as error:
        raise BadInputError(f"{path}: its header does not hold together ({without_values(error)})") from error


def _as_image(path: Path, header: Dataset, pixels: np.ndarray) -> Image.Image:
    photometric = header.get("PhotometricInterpretation")
    if pixels.ndim == 3:
        return Image.fromarray((pixels >> 8 if pixels.dtype == np.uint16 else pixels).astype(np.uint8))
    low, high = _bounds(header)
    if photometric not in GREY or low < 0:
        raise BadInputError(f"{path}: {field_text(photometric)} pixels that may be negative; convert it to PNG")
    values = high - pixels.astype(np.int64) if photometric == "MONOCHROME1" else pixels
    full = 255 if high <= 255 else 65535
    spread = np.rint(np.clip(values, 0, high) * (full / high))
    return Image.fromarray(spread.astype(np.uint8 if full == 255 else np.uint16))
