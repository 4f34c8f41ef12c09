"""Errors that users see: one line that says what came, what was expected, and the cure."""

import errno
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError


logger = logging.getLogger(__name__)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
# torch says RuntimeError and nothing of the reason when a file cannot be written to its end.
WORKER_DEATHS = ("DataLoader worker", "abruptly died")
TORCH_WRITERS = ("inline_container", "PytorchStreamWriter", "iostream")


# What transformers, safetensors and the Hub's client raise on a folder whose files lie: fields of another type or size, tensors
# that do not fit or are no safetensors, JSON nested too deep, a package that a backbone needs.
LOAD_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SafetensorError,
    StopIteration,
    StrictDataclassError,
    TypeError,
    ValueError,
)
MOST_REASON = 300  # characters


class BadInputError(ValueError):
    """Input that cannot become a dataset. The message is one line: the file, what is wrong, and the cure."""


class CheckpointWriteError(OSError):
    """A checkpoint or a saved model cannot be written. The message is one line: where, why, and the cure."""


class NonFiniteLossError(ArithmeticError):
    """A loss or an output is NaN or infinite. The message is one line: where, in which cases, and the cure."""


class OutputError(Exception):
    """A result that cannot be written, which ends a run: the next one would fail as well."""

    def __init__(self, path: Path, error: Exception) -> None:
        number, text = getattr(error, "errno", None), getattr(error, "strerror", None)
        reason = "no space left on the disk" if number == errno.ENOSPC else text or str(error).strip().split("\n")[-1]
        super().__init__(
            f"{path}: cannot be written, {reason}; what is finished is kept, so mend it and run the same command again"
        )


@dataclass(frozen=True)
class Problems:
    """What happens to a bad case: stop at the first (`on_error="raise"`) or leave it out and record it (`"skip"`).

    Args:
        on_error: `"raise"` or `"skip"`.
        log: JSON-lines file that gets one record per skipped case; several processes may write to it.
    """

    on_error: str = "raise"
    log: str | None = None

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "skip"):
            raise BadInputError(f"on_error is {self.on_error!r}; expected 'raise' or 'skip'")

    def report(self, message: str, case_id: str | None = None) -> None:
        """Raises `BadInputError(message)`, or records it when cases may be skipped."""
        if self.on_error == "raise":
            raise BadInputError(message)
        logger.warning("skipped: %s", message)
        if self.log is not None:
            line = json.dumps({"case_id": case_id, "problem": message}) + "\n"
            # One write in append mode keeps the lines of parallel processes whole.
            descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)


def read_skipped(log: str | Path) -> list[dict[str, str | None]]:
    """Returns the records that `Problems.report` wrote, in a stable order; `[]` when nothing was skipped."""
    path = Path(log)
    if not path.exists():
        return []
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(records, key=lambda record: (record["case_id"] or "", record["problem"]))


def one_line(error: object, most: int | None = None) -> str:
    """What an error says, on one line of at most `most` characters; the name of its class where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def unforeseen(path: Path, error: Exception) -> str:
    """One line for what none of our checks foresaw in a file; the traceback is logged for whoever wants to know more."""
    message = f"{path}: cannot be used ({type(error).__name__}: {one_line(error, 200)}); replace the file"
    logger.debug("%s", message, exc_info=error)
    return message


@contextmanager
def named_load_failure(flag: str, name_or_path: str, expected: str) -> Iterator[None]:
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
    except LOAD_ERRORS as error:
        logger.debug("%s %s", flag, name_or_path, exc_info=error)
        reason = _reason(error)
        if not there:
            reason = f"there is no such folder here, and looked for on the Hub: {reason}"
        raise BadInputError(f"{flag} {name_or_path}: {reason}; expected {expected}.") from error


def _reason(error: BaseException) -> str:
    """The first line that says something; the class of an error that was not written for users stands before it."""
    lines = [one_line(line, MOST_REASON) for line in str(error).splitlines() if line.strip()]
    said = lines[0].rstrip(".:") if lines else "no reason given"
    if len(lines) > 1 and isinstance(
        error, StrictDataclassError
    ):  # the first names the field, the second what is wrong
        said = f"{said}: {lines[1].rstrip('.')}"
    if isinstance(error, OSError | ValueError | SafetensorError | StrictDataclassError):
        return said
    return f"{type(error).__name__}: {said}"


def is_path(name: str) -> bool:
    """Whether it can only be meant as a path: it is no Hub id (`name` or `owner/name`), or starts with a folder here."""
    owner, slash, rest = name.partition("/")
    return "/" in rest or owner in ("", ".", "..") or name.startswith("~") or (slash != "" and Path(owner).is_dir())


@contextmanager
def named_worker_failure(where: str, cure: str) -> Iterator[None]:
    """Raises `BadInputError` in place of what torch and `datasets` say when one of their processes is killed.

    Args:
        where: what was being worked on.
        cure: what to do, as the end of a sentence.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in WORKER_DEATHS):
            raise
        raise BadInputError(
            f"{where}: a process that read its data was killed, perhaps for want of memory; {cure}"
        ) from error


def is_write_failure(error: BaseException) -> bool:
    """Whether an error says that a disk takes no more, in the words of the system, torch or safetensors."""
    if isinstance(error, OSError):
        return error.errno in NO_ROOM
    if isinstance(error, SafetensorError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in TORCH_WRITERS)


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
        reason = one_line(getattr(cause, "strerror", None) or cause)
        raise BadInputError(
            f"{output}: cannot be written ({reason}); make room there, or give another {flag}"
        ) from error
