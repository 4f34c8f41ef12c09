"""Files and folders that appear when they are complete, or not at all."""

import glob
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import BadInputError, named_write_failure


logger = logging.getLogger(__name__)


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
        BadInputError: `output` exists and `overwrite` is False, or it holds something else; it cannot be written, or the
            disk is full.
    """
    output = Path(os.path.abspath(output))
    if output.exists():
        check_replaceable(output, overwrite, kind, is_one)
    check_writable(output.parent, "--output")
    output.parent.mkdir(parents=True, exist_ok=True)
    for left in sorted(output.parent.glob(f".{glob.escape(output.name)}.*-*")):
        logger.warning("%s: left by a run that was killed (or one that still runs); delete it if none runs", left)
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.parent))
    try:
        with named_write_failure(output, "--output"):
            partial.chmod(0o755)
            yield partial
            swap_in(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_replaceable(output: Path, overwrite: bool, kind: str, is_one: Callable[[Path], bool]) -> None:
    """Refuses to replace anything but an empty folder or, when asked to, an earlier result."""
    if output.is_dir() and not any(output.iterdir()):
        return
    if not overwrite:
        raise BadInputError(f"{output}: exists already; give another --output, or --overwrite to replace it")
    if not is_one(output):
        raise BadInputError(f"{output}: is no {kind}, so --overwrite leaves it alone; give another --output")


def swap_in(partial: Path, output: Path) -> None:
    """Renames `partial` to `output`; what was there goes away afterwards."""
    old = None
    if output.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{output.name}.replaced-", dir=output.parent))
        output.rename(old / output.name)
    partial.rename(output)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


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
