"""What to predict on: images, volumes and rows of a prepared dataset, and under which names their results go."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from glob import escape, glob
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import BadInputError
from ..files import leads_out
from ..image_processing_pil_resformer import open_image
from ..limits import DEFAULT_LIMITS, InputLimits
from ..volumes.finding import find_dicom_images, find_volumes, is_dicom, looks_like_input
from ..volumes.source import DICOM, VolumeSource


# Formats Pillow lists and cannot read without a program or a plug-in that is not there.
UNREADABLE = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "WMF"}

# RETOUCH keeps a scan and its truth in a folder of the volume's name.
SCAN, REFERENCE = "oct", "reference"

LONGEST_STEM = 180  # bytes; systems take 255 for a name, endings and numbers included

Spacing = tuple[float, float]
Stamp = list[int]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Case:
    """Something with results of its own.

    Attributes:
        source: the input as tables and messages call it; unique in a run.
        name: stem of its result files; unique in an output folder.
        case_id: the volume, patient or image it belongs to.
    """

    source: str
    name: str
    case_id: str


@dataclass(frozen=True)
class ImageCase(Case):
    """An image in a file, found in `folder` unless the user named it."""

    slice_index: int = 0
    spacing: Spacing | None = None
    folder: Path | None = None

    def stamp(self) -> Stamp:
        """Differs once the file has changed."""
        return files_stamp([Path(self.source)])

    def open(self, limits: InputLimits = DEFAULT_LIMITS) -> Any:
        """The image at its full bit depth, as it is stored."""
        path = Path(self.source)
        if self.folder is not None and leads_out(path, self.folder):
            raise BadInputError(
                f"{path}: is a link that leads out of its folder; put the file itself there, or name it"
            )
        if is_dicom(path):
            from ..volumes.dicom import read_dicom_image

            return read_dicom_image(path, limits)
        return open_image(path, max_pixels=limits.pixels)


@dataclass(frozen=True)
class RowCase(Case):
    """A row of a prepared dataset, whose `images` hold encoded bytes; `spacing` is (row, column) in mm per pixel."""

    images: Any = None
    row: int = 0
    slice_index: int = 0
    spacing: Spacing | None = None
    files: tuple[Path, ...] = ()

    def stamp(self) -> Stamp:
        """Differs once the dataset's files have changed."""
        return files_stamp(self.files)

    def open(self, limits: InputLimits = DEFAULT_LIMITS) -> Any:
        stored = self.images[self.row]["image"]
        return open_image(stored["path"] if stored["bytes"] is None else stored["bytes"], max_pixels=limits.pixels)


@dataclass(frozen=True)
class VolumeCase(Case):
    """A volume in a file or a folder of slices."""

    volume: VolumeSource | None = None

    def stamp(self) -> Stamp:
        """Differs once one of its files has changed."""
        header = self.volume.path
        beside = header.parent.glob(f"{escape(header.stem)}.*") if header.suffix.lower() == ".mhd" else ()
        return files_stamp([*self.volume.files, *beside])


StillCase = ImageCase | RowCase


def is_dicom_case(case: Case) -> bool:
    if isinstance(case, VolumeCase):
        return case.volume.kind == DICOM
    return isinstance(case, ImageCase) and is_dicom(Path(case.source))


def files_stamp(files: Iterable[Path]) -> Stamp:
    """[number of files, bytes in all, time of the last change in ns], of those that exist."""
    facts = []
    for path in files:
        with suppress(OSError):
            facts.append(path.stat())
    return [len(facts), sum(one.st_size for one in facts), max((one.st_mtime_ns for one in facts), default=0)]


def image_suffixes() -> set[str]:
    """File suffixes Pillow can read, in lower case."""
    Image.init()
    readable = set(Image.OPEN) | {"MPO"}
    extensions = Image.registered_extensions().items()
    return {suffix for suffix, kind in extensions if kind in readable and kind not in UNREADABLE}


def find_cases(inputs: Iterable[str], known: Mapping[str, str] | None = None) -> list[Case]:
    """Cases of files, folders (not their sub-folders) and glob patterns, in order and without repeats.

    `reference.*` beside `oct.*` is the truth of that scan: it is left out unless it was named itself.

    Args:
        inputs: as on the command line.
        known: names of results by source, which an output folder holds already.

    Raises:
        FileNotFoundError: an input matches nothing, or a folder holds no image and no volume.
    """
    found: dict[str, VolumeSource | Path] = {}
    folders: dict[str, Path] = {}
    named: set[str] = set()
    for given in inputs:
        matches = [Path(given)] if Path(given).exists() else sorted(map(Path, glob(given)))
        here: dict[str, VolumeSource | Path] = {}
        for path in matches:
            items = inputs_at(path)
            here |= items
            if not path.is_dir() and (path == Path(given) or REFERENCE in Path(given).name.casefold()):
                named |= set(items)
            folders |= dict.fromkeys(items, path) if path.is_dir() else {}
        if not here:
            raise FileNotFoundError(f"{given}: no image and no volume there; give files, folders or glob patterns.")
        found |= here
    found = without_references(found, named)
    stems = {source: stem_of(item) for source, item in found.items()}
    names = distinct_names(with_parents(stems, found), known or {})
    return [
        ImageCase(source, names[source], names[source], folder=folders.get(source))
        if isinstance(item, Path)
        else VolumeCase(source, names[source], names[source], item)
        for source, item in found.items()
    ]


def inputs_at(path: Path) -> dict[str, VolumeSource | Path]:
    """Volumes and images in a file or directly in a folder, by source, sorted."""
    volumes = find_volumes(path)
    if path.is_dir():
        suffixes, parts = image_suffixes(), {file for volume in volumes for file in volume.files}
        files = {file for file in path.iterdir() if file.is_file()}
        images = {file for file in files if file.suffix.lower() in suffixes} - parts
        images |= set(find_dicom_images(path))
        # Links that lead out are listed, so that opening them says so.
        images |= {file for file in files if looks_like_input(file) and leads_out(file, path)}
    else:
        images = set() if volumes else {path}
    found: dict[str, VolumeSource | Path] = {str(image): image for image in images}
    shared = Counter(volume.path for volume in volumes)
    for volume in volumes:
        # Several series in one folder are told apart by their names.
        found[f"{volume.path}#{volume.name}" if shared[volume.path] > 1 else str(volume.path)] = volume
    return dict(sorted(found.items()))


def without_references(found: Mapping[str, VolumeSource | Path], named: set[str]) -> dict[str, VolumeSource | Path]:
    """Leaves out each `reference.*` that lies beside an `oct.*` and was not named itself, and says so in one line."""
    paths = {source: path_of(item) for source, item in found.items()}
    left_out = [
        source
        for source, path in paths.items()
        if source not in named and is_called(path, REFERENCE) and any(is_called(one, SCAN) for one in beside(path))
    ]
    if left_out:
        more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
        logger.warning(
            "%s%s: not predicted, the reference of the oct file beside it; name the file itself to predict it",
            *(left_out[0], more),
        )
    return {source: item for source, item in found.items() if source not in left_out}


def path_of(item: VolumeSource | Path) -> Path:
    return item if isinstance(item, Path) else item.path


def beside(path: Path) -> Iterable[Path]:
    """The images and volumes of a file's folder; none where `path` is a folder."""
    files = path.parent.iterdir() if path.is_file() else ()
    return (file for file in files if looks_like_input(file) or file.suffix.lower() in image_suffixes())


def is_called(path: Path, stem: str) -> bool:
    return path.name.split(".")[0].casefold() == stem


def stem_of(item: VolumeSource | Path) -> str:
    """Stem of the item's results; a scan called no more than `oct` has its folder's name."""
    stem = item.stem if isinstance(item, Path) else item.name
    return path_of(item).absolute().parent.name or stem if stem.casefold() == SCAN else stem


def with_parents(stems: Mapping[str, str], found: Mapping[str, VolumeSource | Path]) -> dict[str, str]:
    """Stems by source, with the name of its folder (of a scan named after that, the next) before each that several share."""
    shared = Counter(stem.casefold() for stem in stems.values())
    places = {source: path_of(item) for source, item in found.items()}
    folders = {
        source: path.absolute().parent.parent.name if is_called(path, SCAN) else path.parent.name
        for source, path in places.items()
    }
    return {
        source: f"{folders[source]}-{stem}" if shared[stem.casefold()] > 1 and folders[source] else stem
        for source, stem in stems.items()
    }


def dataset_cases(folder: str, split: str, known: Mapping[str, str] | None = None) -> list[Case]:
    """Cases of the rows of one split of a prepared dataset.

    Raises:
        BadInputError: no prepared dataset, or no such part.
    """
    from datasets import Image as ImageFeature

    from ..data.prepared import load_prepared

    prepared = load_prepared(folder)
    if split not in prepared.dataset:
        raise BadInputError(f"--split {split}: {folder} has no such part; it has {', '.join(prepared.dataset)}.")
    part = prepared.dataset[split]
    images = part.select_columns(["image"]).cast_column("image", ImageFeature(decode=False))
    files = tuple(Path(file["filename"]) for file in part.cache_files)
    facts = part.select_columns(["case_id", "slice_index", "spacing"]).to_dict()
    several = len(set(facts["case_id"])) < len(part)
    stems = {
        f"{folder}#{split}[{row}]": f"{case_id}-{index:03d}" if several else case_id
        for row, (case_id, index) in enumerate(zip(facts["case_id"], facts["slice_index"], strict=True))
    }
    names = distinct_names(stems, known or {})
    return [
        RowCase(
            source=source,
            name=names[source],
            case_id=facts["case_id"][row],
            images=images,
            row=row,
            slice_index=facts["slice_index"][row],
            spacing=None if facts["spacing"][row] is None else tuple(facts["spacing"][row]),
            files=files,
        )
        for row, source in enumerate(stems)
    ]


def safe_stem(text: str, most: int = LONGEST_STEM) -> str:
    """A stem of at most `most` bytes for a file that every system takes and that leads nowhere else."""
    # Surrogates stand for bytes of a name that is not UTF-8; tables and captions could not hold them.
    stem = re.sub(r'[/\\:*?"<>|\x00-\x1f\x7f\ud800-\udfff]', "_", text).lstrip(".") or "unnamed"
    return stem.encode()[:most].decode(errors="ignore")


def distinct_names(stems: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """A file name for the results of each source: its stem, numbered where several share it, upper and lower case alike.

    Args:
        stems: by source.
        known: names of results by source; they stay what they are, and no other source gets them.
    """
    names: dict[str, str] = {}
    taken = {name.casefold() for name in known.values()}
    for source, stem in stems.items():
        stem = safe_stem(stem)
        name, number = stem, 2
        while source not in known and name.casefold() in taken:
            name, number = f"{stem}-{number}", number + 1
        names[source] = known.get(source, name)
        taken.add(names[source].casefold())
    return names
