"""What makes a run resumable: its settings, and one line for every finished case, written after that case's files."""

import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import BadInputError, OutputError, one_line
from .cases import safe_stem
from .result_files import write_json


SETTINGS_NAME = "settings.json"
JOURNAL_FOLDER = "journal"
RESULTS = (
    "masks",
    "dicom_seg",
    "overlays",
    "en_face",
    "reports",
    "thumbnails",
    JOURNAL_FOLDER,
)  # folders of results, which --overwrite removes
RESULT_FILES = ("predictions", "volumes", "sheet", "worklist", "problems", "settings")

LONGEST_NAME = 255  # bytes

Record = dict[str, Any]


def prepare_output(output: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Makes the folder ready for a run with `settings`, which may be the continuation of one with the same.

    Raises:
        BadInputError: it holds results of other settings, or something else altogether.
        OutputError: it cannot be written.
    """
    settings = json.loads(json.dumps(settings))
    path = output / SETTINGS_NAME
    if not path.is_file():
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise BadInputError(f"{output}: holds other files and no {SETTINGS_NAME}; give a new or empty --output")
    elif overwrite:
        remove_results(output)
    else:
        check_same_run(output, read_settings(path), settings)
    for pattern in (".*.partial", ".partial-*"):
        for left in output.rglob(pattern):
            left.unlink(missing_ok=True)
    write_json(path, settings)


def read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise BadInputError(
            f"{path}: not JSON ({one_line(error, 160)}); give another --output, or --overwrite to start anew"
        ) from error
    if not isinstance(settings, dict):
        raise BadInputError(f"{path}: no settings of a run; give another --output, or --overwrite to start anew")
    return settings


def check_same_run(output: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    differences = [
        f"{name} {shown(old.get(name))} there, {shown(new.get(name))} now"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    if differences:
        raise BadInputError(
            f"{output}: holds predictions made otherwise ({'; '.join(differences)}); give another --output, or "
            "--overwrite to start anew"
        )


def shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def remove_results(output: Path) -> None:
    for name in RESULTS:
        shutil.rmtree(output / name, ignore_errors=True)
    for name in RESULT_FILES:
        for path in output.glob(f"{name}.*"):
            path.unlink()


def is_record(value: Any) -> bool:
    """Whether a line of a journal is one that `Run.record` made: of its kinds, and with no name that leads out of the folder."""
    if not isinstance(value, dict):
        return False
    source, name, rows, volume = (value.get(key) for key in ("source", "name", "rows", "volume"))
    files, stamp = value.get("files"), value.get("stamp")
    return (
        isinstance(source, str)
        and isinstance(name, str)
        and safe_stem(name, LONGEST_NAME) == name
        and isinstance(stamp, list)
        and isinstance(files, list)
        and all(isinstance(file, str) and not leads_up(file) for file in files)
        and isinstance(rows, list)
        and all(isinstance(row, dict) and row.get("source") == source for row in rows)
        and ("volume" not in value or isinstance(volume, dict))
    )


def leads_up(name: str) -> bool:
    return Path(name).is_absolute() or ".." in Path(name).parts


class Journal:
    """The finished cases of one output folder. Every process appends to a file of its own and reads those of all.

    Args:
        output: folder of the results.
        rank: number of this process.
    """

    def __init__(self, output: Path, rank: int) -> None:
        self.output = output
        self.folder = output / JOURNAL_FOLDER
        self.path = self.folder / f"process-{rank:03d}.jsonl"

    def finished(self) -> dict[str, Record]:
        """Records by source; a line that a killed run left unfinished, or a damaged one, does not count."""
        records = {}
        for path in sorted(self.folder.glob("process-*.jsonl")):
            for line in path.read_bytes().split(b"\n")[:-1]:
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if is_record(record):
                    records[record["source"]] = record
        return records

    def is_finished(self, record: Record | None, stamp: Any) -> bool:
        """Whether a case has a record, has not changed since, and its files are still there."""
        if record is None or record["stamp"] != stamp:
            return False
        return all((self.output / name).is_file() for name in record["files"])

    def add(self, record: Record) -> None:
        """Appends one record by a single write, so that a kill leaves whole lines or an unfinished last one."""
        line = (json.dumps(record) + "\n").encode()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab+", buffering=0) as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else b"\n" + line
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise OutputError(self.path, error) from error
