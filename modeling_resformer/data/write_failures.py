"""A folder that cannot be written, or a disk that is full: one line instead of what each library makes of it."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from .problems import BadInputError


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
# torch says RuntimeError and nothing of the reason when a file cannot be written to its end.
TORCH_WRITERS = ("inline_container", "PytorchStreamWriter", "iostream")


def is_write_failure(error: BaseException) -> bool:
    """Whether an error says that a disk takes no more, in the words of the system, torch or safetensors."""
    if isinstance(error, OSError):
        return error.errno in NO_ROOM
    if isinstance(error, SafetensorError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in TORCH_WRITERS)


def check_writable(folder: Path, flag: str) -> None:
    """Tries to write into a folder, or where it would be made, before any work is done; leaves nothing behind.

    Args:
        folder: where results will go.
        flag: that named it.

    Raises:
        BadInputError: it cannot be made or written.
    """
    folder = Path(os.path.abspath(folder))
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"0")
    except OSError as error:
        raise BadInputError(f"{folder}: cannot be written ({error.strerror}); give another {flag}") from error


@contextmanager
def named_write_failure(output: Path, flag: str) -> Iterator[None]:
    """Raises `BadInputError` in place of an error, or of one caused by an error, that says that a disk takes no more.

    Args:
        output: the folder that is being written.
        flag: that named it.
    """
    try:
        yield
    except BadInputError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not is_write_failure(cause):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        reason = " ".join(str(getattr(cause, "strerror", None) or cause).split())
        raise BadInputError(
            f"{output}: cannot be written ({reason}); make room there, or give another {flag}"
        ) from error
