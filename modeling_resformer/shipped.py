"""Files that come along and are no code: in a checkout beside the package, in an installed wheel inside it."""

from pathlib import Path


PACKAGE = Path(__file__).resolve().parent
INSTALLED = PACKAGE / "shipped_files"  # where setup.py puts them


def shipped(name: str) -> Path:
    """Path of a file or folder by its place in a checkout, such as `hub_cards/card.yaml`; it need not be there."""
    return (INSTALLED if INSTALLED.is_dir() else PACKAGE.parent) / name
