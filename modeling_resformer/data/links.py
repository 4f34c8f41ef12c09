"""Links in data: what lies in a folder that came from elsewhere does not choose which other files are read."""

from pathlib import Path


def leads_out(file: Path, folder: Path) -> bool:
    """Whether a file found in `folder` is a link to somewhere else. The folder itself may be one: its user named it."""
    return file.is_symlink() and not file.resolve().is_relative_to(folder.resolve())
