"""Zip archives of raw data, unpacked without trusting them."""

import lzma
import shutil
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from tqdm.auto import tqdm

from ..errors import BadInputError, is_write_failure, one_line
from ..files import leads_out


BOMB_BYTES = 1 << 30  # what is smaller in all may be as compressible as it likes
BOMB_RATIO = 200  # a source of scans or photographs stays far below
# LZMA asks for as much memory as its header says, gigabytes for a few bytes.
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
NESTING = 2  # archives within archives
# What zipfile and its decoders raise on archives that lie.
ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, OSError, RuntimeError),
    *(struct.error, IndexError, OverflowError, ValueError),
)


@dataclass
class Unpacked:
    """What the archives of one source hold and claim, all of them together.

    Attributes:
        packed: bytes of those that were given; archives inside archives are among what these claim.
        claimed: bytes that members seen so far unpack to.
    """

    packed: int
    claimed: int = 0


def unpack(source: Path, target: Path) -> Path:
    """Makes a raw source readable as a folder.

    A folder is returned as it is, unless it holds nothing but archives and loose files (as downloaded): then, and when
    `source` itself is a zip, the archives are unpacked below `target`, archives inside archives too.

    Args:
        source: folder or zip archive.
        target: empty folder to unpack into.

    Returns:
        The folder to read.

    Raises:
        BadInputError: damaged or encrypted archive, a member that would land outside `target`, a zip bomb, no room.
    """
    if source.is_dir():
        loose = [path for path in sorted(source.iterdir()) if not path.name.startswith(".")]
        archives = [path for path in loose if path.suffix.lower() == ".zip"]
        if not archives or any(path.is_dir() for path in loose):
            return source
        for path in loose:
            if path not in archives:
                if leads_out(path, source):
                    raise BadInputError(f"{path}: is a link that leads out of its folder; put the file itself there")
                shutil.copy2(path, target / path.name)
    elif zipfile.is_zipfile(source):
        archives = [source]
    else:
        raise BadInputError(f"{source}: neither a folder nor a zip archive (or a damaged one); unpack it yourself")
    total = Unpacked(sum(archive.stat().st_size for archive in archives))
    for archive in archives:
        unpack_zip(archive, target / archive.stem, total)
    return target


def unpack_zip(archive: Path, target: Path, total: Unpacked, depth: int = 1) -> None:
    """Unpacks one archive into `target`, which must not exist yet, and the archives inside it."""
    if target.exists():
        raise BadInputError(f"{archive}: {target.name} is there already; rename one of the two")
    target.mkdir(parents=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            check_members(archive, members, target, total)
            for member in tqdm(members, desc=f"Unpacking {archive.name}", unit="file"):
                opened.extract(member, target)
    except BadInputError:
        raise
    except ZIP_ERRORS as error:
        if is_write_failure(error):
            raise
        raise BadInputError(f"{archive}: cannot be unpacked ({one_line(error, 200)}); download it again") from error
    for inner in sorted(target.rglob("*.zip")):
        if depth >= NESTING:
            raise BadInputError(f"{archive}: archives nested deeper than {NESTING} ({inner.name}); unpack it yourself")
        try:
            unpack_zip(inner, inner.with_suffix(""), total, depth + 1)
        except BadInputError as error:  # names a file that nobody but us has seen
            told = str(error).removeprefix(str(inner))
            raise BadInputError(f"{archive}: inside it {inner.relative_to(target)}{told}") from error
        inner.unlink()


def check_members(archive: Path, members: list[zipfile.ZipInfo], target: Path, total: Unpacked) -> None:
    """Refuses an archive before anything of it is written; counts what it claims."""
    for member in members:
        posix, windows = PurePosixPath(member.filename), PureWindowsPath(member.filename)
        if posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
            raise BadInputError(
                f"{archive}: member {member.filename!r:.200} would land outside; do not trust this archive"
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise BadInputError(f"{archive}: member {member.filename!r:.200} is a link; pack the file itself")
        if member.compress_type not in COMPRESSIONS:
            raise BadInputError(
                f"{archive}: member {member.filename!r:.200} is packed by method {member.compress_type}; pack an ordinary zip"
            )
        if member.flag_bits & 1:
            raise BadInputError(f"{archive}: is encrypted; unpack it yourself and give the folder")
    claimed = sum(member.file_size for member in members)
    total.claimed += claimed
    if total.claimed > max(BOMB_BYTES, BOMB_RATIO * total.packed):
        raise BadInputError(
            f"{archive}: {total.packed} bytes of archives claim to unpack to {total.claimed}: a zip bomb; do not unpack it"
        )
    free = shutil.disk_usage(target).free
    if claimed > free:
        raise BadInputError(
            f"{archive}: needs {claimed} bytes unpacked, {free} are free at {target.parent}; make room"
        )
