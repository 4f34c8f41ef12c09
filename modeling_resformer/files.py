"""Files and folders that appear when they are complete, or not at all, and belong to one run at a time."""

import ctypes
import glob
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import BadInputError, named_write_failure


try:
    import fcntl
except ImportError:  # Windows, where two runs are not kept apart
    fcntl = None

logger = logging.getLogger(__name__)

SCRATCH = "resformer-"  # how folders among the system's temporary ones begin
LOCK = ".lock"
HERE, EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a path beside `path`, with its ending, which takes its place when the block ends well.

    A reader never meets half a file; after an error nothing is left, and what was there stays.
    """
    partial = path.with_name(f".partial-{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes bytes, or text as UTF-8, beside `path` and renames."""
    with whole_file(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def finished_folder(output: Path, overwrite: bool, kind: str, is_one: Callable[[Path], bool]) -> Iterator[Path]:
    """Yields a folder beside `output` that takes its place when the block ends well, and is removed otherwise.

    Args:
        output: the folder to write.
        overwrite: replace an earlier result.
        kind: what is written, for messages.
        is_one: whether a folder holds such a result.

    Raises:
        BadInputError: `output` exists and `overwrite` is False, or it holds something else; it cannot be written, another
            run writes it, or the disk is full.
    """
    output = Path(os.path.abspath(output))
    if output.exists():
        check_replaceable(output, overwrite, kind, is_one)
    check_writable(output.parent, "--output")
    with alone(output, "--output"):
        output.parent.mkdir(parents=True, exist_ok=True)
        sweep(output)
        if output.exists():  # it may have come back
            check_replaceable(output, overwrite, kind, is_one)
        partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.parent))
        try:
            with named_write_failure(output, "--output"):
                partial.chmod(0o755)
                yield partial
                swap_in(partial, output)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def alone(output: Path, flag: str) -> Iterator[None]:
    """Keeps every other run out of a folder for a block; when a run is killed the system lets the next one in.

    Args:
        output: the folder, which need not be there. What keeps others out lies beside it.
        flag: that named it.

    Raises:
        BadInputError: another run writes there.
    """
    output = Path(os.path.abspath(output))
    made = [folder for folder in output.parents if not folder.exists()]
    lock = output.with_name(f".{output.name}{LOCK}")
    held = None
    try:
        with suppress(OSError):  # where nothing can be made, writing will say so
            output.parent.mkdir(parents=True, exist_ok=True)
            held = hold(lock)
            if held is None and fcntl is not None:
                raise BadInputError(
                    f"{output}: another run is writing there; wait for its end, or give another {flag}"
                )
        yield
    finally:
        if held is not None:
            with suppress(OSError):
                lock.unlink()
            os.close(held)
        for folder in made:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def hold(lock: Path, make: bool = True) -> int | None:
    """An open file that no other process holds until it is closed, or its process ends; None where another does.

    Not `flock`, which processes that this one has begun would go on holding after its end.

    Raises:
        OSError: it cannot be opened, or the file system has no locks.
    """
    while fcntl is not None:
        descriptor = os.open(lock, os.O_RDWR | (os.O_CREAT if make else 0) | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError | PermissionError):
                return None
            raise
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                return descriptor
        os.close(descriptor)  # whoever held it before has removed it
    return None


def sweep(output: Path) -> None:
    """Removes what killed runs left beside a folder, and puts back a result that one of them had just set aside."""
    beside = f".{glob.escape(output.name)}"
    for left in sorted(output.parent.glob(f"{beside}.replaced-*/{glob.escape(output.name)}")):
        if not output.exists():
            left.rename(output)
    for left in sorted([*output.parent.glob(f"{beside}.partial-*"), *output.parent.glob(f"{beside}.replaced-*")]):
        logger.warning("%s: was left by a run that was killed, and is removed", left)
        shutil.rmtree(left, ignore_errors=True)


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """Yields a folder among the system's temporary ones that is gone afterwards; those of killed runs go now."""
    for left in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*/{LOCK}"):
        with suppress(OSError):  # another user's
            held = hold(left, make=False)
            if held is not None:
                shutil.rmtree(left.parent, ignore_errors=True)
                os.close(held)
    with tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{purpose}-") as scratch:
        held = hold(Path(scratch) / LOCK)
        try:
            yield Path(scratch)
        finally:
            if held is not None:
                os.close(held)


def check_replaceable(output: Path, overwrite: bool, kind: str, is_one: Callable[[Path], bool]) -> None:
    """Refuses to replace anything but an empty folder or, when asked to, an earlier result."""
    if output.is_dir() and not any(output.iterdir()):
        return
    if not overwrite:
        raise BadInputError(f"{output}: exists already; give another --output, or --overwrite to replace it")
    if not is_one(output):
        raise BadInputError(f"{output}: is no {kind}, so --overwrite leaves it alone; give another --output")


def swap_in(partial: Path, output: Path) -> None:
    """Renames `partial` to `output`; what was there goes away afterwards. Where the system can, at one stroke."""
    old = None
    if output.exists():
        if exchanged(partial, output):
            shutil.rmtree(partial, ignore_errors=True)
            return
        old = Path(tempfile.mkdtemp(prefix=f".{output.name}.replaced-", dir=output.parent))
        output.rename(old / output.name)
    partial.rename(output)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def exchanged(first: Path, second: Path) -> bool:
    """Whether Linux has exchanged two names at one stroke; False where system or file system cannot."""
    if sys.platform != "linux":
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    return rename(HERE, os.fsencode(first), HERE, os.fsencode(second), EXCHANGE) == 0


@contextmanager
def work_folder(folder: Path) -> Iterator[Path]:
    """Yields a scratch folder inside `folder` that is gone afterwards."""
    work = folder / ".work"
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


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


def leads_out(file: Path, folder: Path) -> bool:
    """Whether a file found in `folder` is a link to somewhere else. The folder itself may be one: its user named it."""
    return file.is_symlink() and not file.resolve().is_relative_to(folder.resolve())
