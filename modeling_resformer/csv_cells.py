"""Text in cells of CSV tables, which spreadsheet programs run as a formula where it begins like one. By the standard library alone."""

from typing import Any


FORMULA = ("=", "+", "-", "@", "\t", "\r")
MARK = "'"  # which such programs take for "this is text"


def safe_cell(value: Any) -> Any:
    """Text that no program takes for a formula; anything but text as it is. `stored_cell` undoes it."""
    return f"{MARK}{value}" if isinstance(value, str) and value.lstrip(MARK).startswith(FORMULA) else value


def stored_cell(text: str) -> str:
    """The text that `safe_cell` was given."""
    return text[1:] if text.startswith(MARK) and text.lstrip(MARK).startswith(FORMULA) else text
