"""What a volume is read from, and of which kind that is."""

from dataclasses import dataclass
from pathlib import Path


METAIMAGE, NIFTI, DICOM, TIFF = "metaimage", "nifti", "dicom", "tiff"


@dataclass(frozen=True)
class VolumeSource:
    """What one volume is read from.

    Args:
        path: its file, or the folder of a DICOM series.
        name: name for its results; several volumes may share it.
        kind: `metaimage`, `nifti`, `dicom` or `tiff`.
        files: the files of a DICOM series, else just `path`.
    """

    path: Path
    name: str
    kind: str
    files: tuple[Path, ...]
