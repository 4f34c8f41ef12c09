"""Which files to predict on, and under which names to write their results."""

from collections.abc import Iterable
from glob import glob
from pathlib import Path

from PIL import Image


# Formats Pillow lists and cannot read without a program or a plug-in that is not there.
UNREADABLE = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "WMF"}


def picture_suffixes() -> set[str]:
    """File suffixes Pillow can read, in lower case."""
    readable = set(Image.OPEN) | {"MPO"}
    extensions = Image.registered_extensions().items()
    return {suffix for suffix, kind in extensions if kind in readable and kind not in UNREADABLE}


def find_pictures(inputs: Iterable[str]) -> list[Path]:
    """Expands files, folders (not their sub-folders) and glob patterns to a sorted list of files without repeats.

    Raises:
        FileNotFoundError: an input matches nothing, or a folder holds no picture.
    """
    found: list[Path] = []
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            matches = [file for file in path.iterdir() if file.suffix.lower() in picture_suffixes()]
        else:
            matches = [path] if path.is_file() else [Path(match) for match in glob(given)]
        if not matches:
            raise FileNotFoundError(f"{given}: no picture there; give files, folders or glob patterns.")
        found.extend(sorted(matches))
    return list(dict.fromkeys(found))


def result_names(pictures: Iterable[Path]) -> dict[Path, str]:
    """A name for each picture's results: its stem, numbered where several pictures share it."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in pictures:
        name, number = path.stem, 2
        while name in taken:
            name, number = f"{path.stem}-{number}", number + 1
        names[path] = name
        taken.add(name)
    return names
