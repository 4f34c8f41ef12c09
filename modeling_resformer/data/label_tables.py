"""Tables that come with images: CSV and JSON lines, read strictly."""

import csv
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import BadInputError, Problems
from ..escaping import stored_cell


Row = dict[str, Any]

MOST_DIGITS = 9  # of a whole number; Arrow's int32 holds them
DEEPEST = 4  # levels of JSON in a row; a list of labels has two
MOST_SHOWN = 60  # characters of a value in a message


def read_table(path: Path, required: Iterable[str] = ()) -> list[Row]:
    """Reads a `.csv` or `.jsonl` file with any line ending and with or without a byte-order mark.

    Returns:
        One dict per row; CSV values are stripped strings. Required columns hold text or a number in every row.

    Raises:
        BadInputError: a missing column (the ones found are named), a row of another length or without a value that is
            required, a column that comes twice, broken JSON, or text that no file can hold.
    """
    try:
        rows = _read_jsonl(path) if path.suffix.lower() in (".jsonl", ".ndjson") else _read_csv(path)
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path}: not UTF-8 (byte {error.start}); save the table with UTF-8 encoding") from error
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror})") from error
    found = list(dict.fromkeys(name for row in rows for name in row)) if rows else []
    required = list(required)
    missing = [name for name in required if name not in found]
    if missing:
        shown = shortened(", ".join(found), 300) or "no rows"
        raise BadInputError(f"{path}: column {', '.join(missing)} is missing; found {shown}")
    for number, row in enumerate(rows, start=1):
        _check_row(path, number, row, required)
    return rows


def _check_row(path: Path, number: int, row: Row, required: Iterable[str]) -> None:
    for name in required:
        value = row.get(name)
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise BadInputError(
                f"{path}: row {number} has {shortened(repr(value))} as {name}, expected text or a number; correct it"
            )
    for name, value in row.items():
        if not (_is_storable(name) and _is_storable(value)):
            raise BadInputError(
                f"{path}: row {number} holds a control character, half a character (a lone surrogate) or nested values in "
                f"{shortened(repr(name))}; correct it"
            )


def _is_storable(value: Any, depth: int = 1) -> bool:
    """Whether Arrow, CSV and names of files can hold a value."""
    if isinstance(value, str):
        return not any(unicodedata.category(one) in ("Cc", "Cs") and one not in "\t\n\r" for one in value)
    if isinstance(value, dict | list):
        parts = [*value, *(value.values() if isinstance(value, dict) else ())]
        return depth < DEEPEST and all(_is_storable(part, depth + 1) for part in parts)
    return True


def shortened(text: str, most: int = MOST_SHOWN) -> str:
    """Text for a message, on one line of at most `most` characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _read_csv(path: Path) -> list[Row]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            names = Counter(name.strip() for name in reader.fieldnames or [])
            if twice := [name for name, count in names.items() if count > 1]:
                raise BadInputError(
                    f"{path}: column {shortened(twice[0])!r} comes {names[twice[0]]} times; keep or rename one"
                )
            rows = []
            for row in reader:
                if None in row or None in row.values():
                    raise BadInputError(
                        f"{path}: line {reader.line_num} has another number of fields than the header's "
                        f"{len(reader.fieldnames or [])}; quote fields that hold commas"
                    )
                rows.append({name.strip(): stored_cell(value.strip()) for name, value in row.items()})
            return rows
    except csv.Error as error:
        raise BadInputError(f"{path}: not a UTF-8 CSV table ({error}); save it as CSV with UTF-8 encoding") from error


def _read_jsonl(path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:  # the latter of JSON nested too deep
            reason = shortened(str(error), 160)
            raise BadInputError(f"{path}: line {number} is not JSON ({reason}); write one object per line") from error
        if not isinstance(row, dict):
            raise BadInputError(f"{path}: line {number} is not a JSON object; write one object per line")
        rows.append(row)
    return rows


def _once(pairs: list[tuple[str, Any]]) -> Row:
    names = Counter(name for name, _ in pairs)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"{shortened(twice[0])!r} comes twice")
    return dict(pairs)


def whole_number(value: Any) -> int | None:
    """0, 1, 2, ... as a number or in ASCII digits, of at most nine; None for anything else."""
    text = str(value).strip()
    return int(text) if re.fullmatch(rf"[0-9]{{1,{MOST_DIGITS}}}", text) else None


def binary_label(value: Any, path: Path, where: str) -> bool:
    """Reads 0, 1, 0.0 or 1.0, as number or text; anything else (NaN included) is refused."""
    text = str(value).strip()
    if text not in ("0", "1", "0.0", "1.0", "True", "False"):
        raise BadInputError(f"{path}: {shortened(where)} is {shortened(text)!r}, expected 0 or 1; correct the table")
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
        one, other = shortened(str(first)), shortened(str(identifier))
        wrong = f"{other} comes twice" if first == identifier else f"{one} and {other} are one id"
        problems.report(f"{what}: {wrong}; keep one", identifier)
    return index
