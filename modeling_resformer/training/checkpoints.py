"""Checkpoints that are whole or not there: written aside, renamed when complete, checked before they are read.

A run's folder holds `checkpoint-N` for some numbers of steps N. Each is written to `.unfinished/checkpoint-N`, gets a
`manifest.json` last, and is renamed. A run that dies on the way leaves `.unfinished` behind, which the next one removes.

`manifest.json`:

    {"files": {"model.safetensors": {"bytes": 7340032, "crc32": 3735928559}, ...},
     "resumable": true,
     "settings": {"fixed": {"seed": 0, ...}, "noted": {"processes": 1, ...}}}

A resumed run must have the fixed settings of its checkpoint; it may differ in the noted ones, and is told so.
"""

import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..errors import BadInputError, CheckpointWriteError, is_write_failure, one_line


logger = logging.getLogger(__name__)

UNFINISHED = ".unfinished"
MANIFEST = "manifest.json"


def checkpoints_in(run: Path) -> list[Path]:
    """The checkpoint folders of a run, whole or not, by ascending number of steps."""
    found = [path for path in run.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted((path for path in found if path.is_dir()), key=steps_of)


def steps_of(checkpoint: Path) -> int:
    """How many optimiser steps a checkpoint has behind it, by its name."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def choose_checkpoint(requested: str | bool | None, run: Path) -> Path | None:
    """The checkpoint that a run goes on from; None to start afresh.

    Args:
        requested: a checkpoint folder; "true" for the newest whole one of the run, if there is any; or None.
        run: the output folder.

    Raises:
        BadInputError: the checkpoint is broken, or the folder holds checkpoints that would mix with the new ones.
    """
    requested = {"true": True, "false": None, "none": None, "": None}.get(str(requested).lower(), requested)
    if requested is True:
        return newest_whole(run)
    held = checkpoints_in(run)
    if not requested:
        if held:
            raise BadInputError(
                f"{run} holds {held[-1].name} of an earlier run. Go on from it by --resume_from_checkpoint true, give "
                "another --output_dir, or delete the folder."
            )
        return None
    checkpoint = Path(requested)
    if problem := problem_of(checkpoint, to_resume=True):
        raise BadInputError(
            f"--resume_from_checkpoint {checkpoint}: {problem}. Expected a whole folder checkpoint-N of a run of "
            "train.py, or 'true' for the newest whole one in --output_dir."
        )
    own = checkpoint.resolve().parent == run.resolve()
    if others := [path for path in held if not own or steps_of(path) > steps_of(checkpoint)]:
        raise BadInputError(
            f"{run} holds {others[-1].name}, which would mix with those of a run that goes on from {checkpoint}. Go on "
            "from the newest by --resume_from_checkpoint true, delete the newer ones, or give another --output_dir."
        )
    return checkpoint


def newest_whole(run: Path) -> Path | None:
    """The whole checkpoint with the most steps; broken ones are passed over with a warning each."""
    for checkpoint in reversed(checkpoints_in(run)):
        problem = problem_of(checkpoint, to_resume=True)
        if problem is None:
            return checkpoint
        logger.warning("%s is passed over: %s.", checkpoint, problem)
    return None


def problem_of(checkpoint: Path, to_resume: bool = False) -> str | None:
    """Why a checkpoint cannot be used, in a few words; None if it is whole.

    Args:
        checkpoint: the folder.
        to_resume: whether training shall go on from it, for which a model alone is not enough.
    """
    if not checkpoint.is_dir():
        return "there is no such folder"
    if not re.fullmatch(r"checkpoint-\d+", checkpoint.name):
        return "it is not named checkpoint-N, N being its number of steps"
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        files, resumable = manifest["files"], manifest["resumable"]
    except FileNotFoundError:
        return f"it has no {MANIFEST}, so it was never finished or was written by another program"
    except (OSError, ValueError, KeyError, TypeError):
        return f"its {MANIFEST} cannot be read"
    if to_resume and not resumable:
        return "it holds the model alone, as --save_only_model asks"
    return next(filter(None, (_problem_of_file(checkpoint / name, files[name]) for name in files)), None)


def _problem_of_file(path: Path, recorded: Mapping[str, int]) -> str | None:
    """JSON files may have been edited, as thresholds are written into a config; the others must be as recorded."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif (size := path.stat().st_size) != recorded["bytes"]:
            return f"{path.name} has {size} bytes instead of {recorded['bytes']}"
        elif _checksum(path) != recorded["crc32"]:
            return f"{path.name} is not what was written: its checksum differs"
    except FileNotFoundError:
        return f"{path.name} is missing"
    except (OSError, ValueError) as error:
        return f"{path.name} cannot be read ({error})"
    return None


def record_files(checkpoint: Path, settings: Mapping[str, Mapping[str, Any]], resumable: bool) -> None:
    """Record all files of a checkpoint that is otherwise complete, and see that they are on the disk."""
    files = {}
    # Program text and cards go along for whoever loads the model; nothing that resumes reads them.
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.suffix not in (".py", ".md")):
        _flush(path)
        files[path.relative_to(checkpoint).as_posix()] = {"bytes": path.stat().st_size, "crc32": _checksum(path)}
    manifest = {"files": files, "resumable": resumable, "settings": settings}
    (checkpoint / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    _flush(checkpoint / MANIFEST)


def let_appear(unfinished: Path, checkpoint: Path) -> None:
    """Let a complete folder appear under its name; an earlier one of that name goes away."""
    if checkpoint.exists():
        discard(checkpoint)
    unfinished.rename(checkpoint)


def discard(checkpoint: Path) -> None:
    """Delete a checkpoint so that nobody meets half of it: renamed first, removed then."""
    aside = checkpoint.parent / UNFINISHED / f"discarded-{checkpoint.name}"
    aside.parent.mkdir(exist_ok=True)
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def no_empty_folder_left(run: Path) -> Iterator[None]:
    """After an error, removes the folder, and those above it, if they are empty and were not there before."""
    made = [folder for folder in (run, *run.parents) if not folder.exists()]
    try:
        yield
    except BadInputError:
        for folder in made:
            with suppress(OSError):  # it is not empty, or was never made
                folder.rmdir()
        raise


def clean_up(run: Path) -> None:
    """Remove what a killed run left half done."""
    shutil.rmtree(run / UNFINISHED, ignore_errors=True)
    for left in run.glob(".partial-*"):
        with suppress(OSError):
            left.unlink()


def rotate(run: Path, limit: int | None, newest: Path, best: Path | None) -> None:
    """Delete checkpoints until `limit` are left, the oldest first; never the newest nor the best.

    Those of more steps than the newest are broken ones that were passed over, and go before all others.
    """
    if not limit or limit < 0:
        return
    held = checkpoints_in(run)
    kept = {path.resolve() for path in (newest, best) if path is not None} & {path.resolve() for path in held}
    passed_over = [path for path in held if steps_of(path) > steps_of(newest)]
    candidates = [path for path in (*passed_over, *held) if path.resolve() not in kept]
    for checkpoint in list(dict.fromkeys(candidates))[: max(len(held) - max(limit, len(kept)), 0)]:
        discard(checkpoint)


def check_settings(checkpoint: Path, settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What of the noted settings differs from the checkpoint's, as "name here instead of there".

    Raises:
        BadInputError: a fixed setting differs.
    """
    recorded = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["settings"]
    settings = json.loads(json.dumps(settings))
    fixed, noted = (_differences(recorded[kind], settings[kind]) for kind in ("fixed", "noted"))
    if fixed:
        raise BadInputError(
            f"{checkpoint} cannot be resumed with {', '.join(fixed + noted)}. Give the settings it was trained with, "
            f"or start a new run from its weights by --model {checkpoint} and another --output_dir."
        )
    return noted


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    names = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    return [f"{name} {here.get(name)} instead of {there.get(name)}" for name in names]


@contextmanager
def named_checkpoint_failure(what: str, run: Path) -> Iterator[None]:
    """Raises `CheckpointWriteError` in place of what torch, safetensors and the system say when a disk is full.

    Args:
        what: is being written, e.g. "checkpoint-120".
        run: the output folder.
    """
    try:
        yield
    except CheckpointWriteError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:
        if not is_write_failure(error):
            raise
        # Room for whatever is written next, and for whoever shares the disk.
        clean_up(run)
        held = checkpoints_in(run)
        left = f" from {held[-1].name}, which is whole" if held else ""
        raise CheckpointWriteError(
            f"{run}: {what} cannot be written ({one_line(error)}); {_free_megabytes(run)} MB are free on "
            f"that disk. Make room there, and go on by --resume_from_checkpoint true{left}."
        ) from error


def _free_megabytes(folder: Path) -> int:
    existing: Iterable[Path] = (path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(next(iter(existing))).free // 2**20


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
