"""Which files and folders are volumes. Needs Pillow alone, and pydicom once a DICOM file turns up."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..errors import BadInputError
from ..files import leads_out
from .source import DICOM, METAIMAGE, NIFTI, TIFF, VolumeSource


SUFFIXES = {".mhd": METAIMAGE, ".mha": METAIMAGE, ".nii": NIFTI, ".nii.gz": NIFTI}
TIFF_SUFFIXES = (".tif", ".tiff")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima", "")


def is_volume(path: Path) -> bool:
    """Whether a file, or a folder of DICOM files, is a volume and no image."""
    if path.is_dir():
        return any(source.kind == DICOM for source in find_volumes(path))
    return bool(find_volumes(path))


def find_volumes(path: Path) -> list[VolumeSource]:
    """Lists the volumes in a file or directly in a folder, without reading their voxels.

    DICOM files of a folder are sorted into series, each a volume; several are told apart by their number. A damaged file
    that looks like a volume is listed, so that reading it says what is wrong.
    """
    files = files_at(path)
    folder = path if path.is_dir() else path.parent
    sources = [VolumeSource(file, volume_stem(file), kind, (file,)) for file in files if (kind := _kind_by_name(file))]
    return sources + _sorted_dicom([file for file in files if _looks_like_dicom(file)], folder)[0]


def files_at(path: Path) -> list[Path]:
    """The file itself, or the files directly in a folder, sorted, without links that lead out of it."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.is_file() and not leads_out(file, path))


def find_dicom_images(path: Path) -> list[Path]:
    """Lists the single photographs and X-rays among DICOM files: the file itself, or those directly in a folder."""
    files = files_at(path)
    return _sorted_dicom([file for file in files if is_dicom(file)], path)[1]


def volume_stem(path: Path) -> str:
    """The file's name without its ending, `.nii.gz` being one."""
    name = path.name
    return name[: -len(".nii.gz")] if name.lower().endswith(".nii.gz") else path.stem


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do."""
    if path.suffix.lower() not in DICOM_SUFFIXES:
        return False
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def mask_suffix(source: VolumeSource) -> str:
    """Ending of the mask's file: `.mha` for MetaImage, `.nii.gz` for everything else."""
    return ".mha" if source.kind == METAIMAGE else ".nii.gz"


def looks_like_input(path: Path) -> bool:
    """Whether a file is a volume or DICOM by its name alone."""
    name = path.name.lower()
    return any(name.endswith(suffix) for suffix in (*SUFFIXES, *TIFF_SUFFIXES, ".dcm", ".dicom", ".ima"))


def _kind_by_name(path: Path) -> str | None:
    name = path.name.lower()
    known = next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)
    if known is None and path.suffix.lower() in TIFF_SUFFIXES and _has_pages(path):
        return TIFF
    return known


def _looks_like_dicom(path: Path) -> bool:
    return path.suffix.lower() in (".dcm", ".dicom") or is_dicom(path)


def _has_pages(path: Path) -> bool:
    """Whether a TIFF has several pages; False where it cannot be opened: then it is for the reader of images to say so."""
    try:
        with Image.open(path) as image:
            return bool(getattr(image, "is_animated", False))
    except Exception:  # Pillow's readers raise what they meet: struct, key, index and type errors too
        return False


def _sorted_dicom(files: Sequence[Path], folder: Path) -> tuple[list[VolumeSource], list[Path]]:
    if not files:
        return [], []
    try:
        from .dicom import sort_files
    except ImportError as error:
        raise BadInputError(
            f"{files[0]}: DICOM needs pydicom and SimpleITK; install 'modeling-resformer[predict]'"
        ) from error
    return sort_files(files, folder)
