"""What goes wrong while something is loaded from a folder or the Hub, as one line that names the flag and the cure."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ..data.problems import BadInputError


@contextmanager
def named_failure(flag: str, name_or_path: str, expected: str) -> Iterator[None]:
    """Raises `BadInputError` in place of the several lines that transformers and the Hub client give.

    Args:
        flag: of the command line, e.g. `--model`.
        name_or_path: what it was given.
        expected: what would do, as the end of "expected ...".
    """
    there = Path(name_or_path).exists()
    if not there and is_path(name_or_path):
        raise BadInputError(f"{flag} {name_or_path}: there is no such folder; expected {expected}.")
    try:
        yield
    except BadInputError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        if not there:
            reason = f"there is no such folder here, and looked for on the Hub: {reason}"
        raise BadInputError(f"{flag} {name_or_path}: {reason}; expected {expected}.") from error


def is_path(name: str) -> bool:
    """Whether it can only be meant as a path: it is no Hub id (`name` or `owner/name`), or starts with a folder here."""
    owner, slash, rest = name.partition("/")
    return "/" in rest or owner in ("", ".", "..") or name.startswith("~") or (slash != "" and Path(owner).is_dir())
