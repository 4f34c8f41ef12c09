"""Tables that come with images: CSV and JSON lines, read strictly."""

import csv
import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import BadInputError, Problems


Row = dict[str, Any]


def read_table(path: Path, required: Iterable[str] = ()) -> list[Row]:
    """Reads a `.csv` or `.jsonl` file with any line ending and with or without a byte-order mark.

    Returns:
        One dict per row; CSV values are stripped strings.

    Raises:
        BadInputError: a missing column (the ones found are named), a row of another length, or broken JSON.
    """
    rows = _read_jsonl(path) if path.suffix.lower() in (".jsonl", ".ndjson") else _read_csv(path)
    found = list(dict.fromkeys(name for row in rows for name in row)) if rows else []
    missing = [name for name in required if name not in found]
    if missing:
        raise BadInputError(f"{path}: column {', '.join(missing)} is missing; found {', '.join(found) or 'no rows'}")
    return rows


def _read_csv(path: Path) -> list[Row]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            rows = []
            for row in reader:
                if None in row or None in row.values():
                    raise BadInputError(
                        f"{path}: line {reader.line_num} has another number of fields than the header's "
                        f"{len(reader.fieldnames or [])}; quote fields that hold commas"
                    )
                rows.append({name.strip(): value.strip() for name, value in row.items()})
            return rows
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInputError(f"{path}: not a UTF-8 CSV table ({error}); save it as CSV with UTF-8 encoding") from error


def _read_jsonl(path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInputError(f"{path}: line {number} is not JSON ({error}); write one object per line") from error
        if not isinstance(row, dict):
            raise BadInputError(f"{path}: line {number} is not a JSON object; write one object per line")
        rows.append(row)
    return rows


def binary_label(value: Any, path: Path, where: str) -> bool:
    """Reads 0, 1, 0.0 or 1.0, as number or text; anything else (NaN included) is refused."""
    text = str(value).strip()
    if text not in ("0", "1", "0.0", "1.0", "True", "False"):
        raise BadInputError(f"{path}: {where} is {text!r}, expected 0 or 1; correct the table")
    return text in ("1", "1.0", "True")


def spelling_key(identifier: str) -> str:
    """Maps the spellings that stand for one id (case, outer spaces, Unicode form) to one key."""
    return unicodedata.normalize("NFC", identifier).strip().casefold()


def by_spelling(identifiers: Iterable[tuple[str, Any]], what: str, problems: Problems) -> dict[str, tuple[str, Any]]:
    """Indexes (identifier, value) pairs by `spelling_key`; an id that comes twice, or in two spellings, is a problem.

    Returns:
        spelling key -> (identifier as first spelled, its first value).
    """
    index: dict[str, tuple[str, Any]] = {}
    for identifier, value in identifiers:
        key = spelling_key(identifier)
        if key not in index:
            index[key] = (identifier, value)
            continue
        first = index[key][0]
        wrong = f"{identifier} comes twice" if first == identifier else f"{first} and {identifier} are one id"
        problems.report(f"{what}: {wrong}; keep one", identifier)
    return index
