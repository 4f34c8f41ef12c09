"""Where the runs of `scripts/train_folds.py` lie, for whoever trains, predicts or publishes. By the standard library alone."""

import json
from collections.abc import Iterator
from pathlib import Path

from ..errors import BadInputError, one_line


FOLDS_NAME = "folds.json"  # what a folder of folds tells of itself


def fold_folders(folder: Path, number: int) -> Iterator[Path]:
    """The folder of every run, of `number` folds."""
    return (folder / f"fold-{fold}" for fold in range(number))


def read_fold_folders(folder: Path) -> list[Path]:
    """The folder of every run, of as many folds as `folds.json` says.

    Raises:
        BadInputError: that file is broken.
    """
    path = folder / FOLDS_NAME
    try:
        return list(fold_folders(folder, int(json.loads(path.read_text(encoding="utf-8"))["number"])))
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise BadInputError(f"{path}: cannot be read ({one_line(error)}); run scripts/train_folds.py again") from error
