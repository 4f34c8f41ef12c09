"""Text that others chose, such as names of classes and cases, made plain text where it is shown. By the standard library alone."""

import re
from typing import Any


FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that spreadsheet programs run
MARK = "'"  # which such programs take for "this is text"


def safe_cell(value: Any) -> Any:
    """Text for a cell of CSV that no program takes for a formula; anything but text as it is. `stored_cell` undoes it."""
    return f"{MARK}{value}" if isinstance(value, str) and value.lstrip(MARK).startswith(FORMULA) else value


def stored_cell(text: str) -> str:
    """The text that `safe_cell` was given."""
    return text[1:] if text.startswith(MARK) and text.lstrip(MARK).startswith(FORMULA) else text


def plain_name(name: Any) -> str:
    """A name as text in Markdown: it links, draws and formats nothing, and no HTML begins in it."""
    text = " ".join(str(name).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~$])", r"\\\1", text)
    # Within words an underscore means nothing; at their ends it would.
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
