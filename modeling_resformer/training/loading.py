"""What goes wrong while something is loaded from a folder or the Hub, as one line that names the flag and the cure."""

from collections.abc import Iterator
from contextlib import contextmanager

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
    try:
        yield
    except BadInputError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise BadInputError(f"{flag} {name_or_path}: {reason}; expected {expected}.") from error
