"""Mutants of every kind of file that is read, each judged in a child with limits: a result or one line of ours, nothing else.

A child reads one mutant after the other. Its memory is limited, an audit hook reports whatever it should not do, and its
parent ends it where one takes too long; a child that dies is charged to the mutant it died of, and the next one goes on.
"""

import faulthandler
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mutants import mutant


MEMORY = 3 << 30  # bytes of address space that a child may have beyond what it starts with
GROWTH = 400 << 20  # bytes that a mutant of some kilobytes may need
CHILD = 200  # mutants of one child
FORBIDDEN = (
    "socket.connect",
    "socket.getaddrinfo",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.fork",
    "pickle.find_class",
)
FINE = ("read", "refused")


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        seeds: makes whole files in a folder; returns their bytes.
        read: reads a mutant at a path as a command would; the folder around it may be written.
        name: of the mutant's file.
        errors: what may be raised; the message is one line that holds `names`.
        is_text: whether words are changed rather than bytes.
        names: what a refusal must name, of the mutant's path; the path itself by default.
    """

    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path], object]
    name: str
    errors: tuple[type[BaseException], ...]
    is_text: bool = False
    names: Callable[[Path], str] = str
    seconds: float = 60.0


@dataclass
class Tally:
    """Outcomes of one target, and for each bad one the number of the first mutant."""

    counts: Counter = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)
    slowest: float = 0.0

    def add(self, outcome: str, number: int, seconds: float) -> None:
        self.counts[outcome.split(": ")[0]] += 1
        self.slowest = max(self.slowest, seconds)
        if outcome.split(": ")[0] not in FINE:
            self.counts["bad"] += 1
            self.first.setdefault(outcome, number)


def fuzz(target: Target, numbers: range, folder: Path) -> Tally:
    """Tries the mutants of these numbers in children."""
    seeds = target.seeds(_made(folder / "seeds"))
    tally, waiting = Tally(), list(numbers)
    while waiting:
        begun, start = None, time.monotonic()
        for number, outcome in _child(target, seeds, waiting[:CHILD], folder):
            now = time.monotonic()
            if outcome is None:
                begun, start = number, now
            else:
                tally.add(outcome, number, now - start)
                waiting.remove(number)
                begun = None
                if outcome.startswith("memory"):
                    break
        if begun is not None:
            took = time.monotonic() - start
            tally.add("hang" if took >= target.seconds else "crash", begun, took)
            waiting.remove(begun)
    return tally


def _made(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _child(target: Target, seeds: list[bytes], numbers: list[int], folder: Path) -> Iterator[tuple[int, str | None]]:
    """Yields (number, None) when a mutant is begun and (number, outcome) when it is done, until the child ends."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            _run_child(target, seeds, numbers, folder, writing)
        finally:
            os._exit(0)
    os.close(writing)
    rest = b""
    try:
        while select.select([reading], [], [], target.seconds)[0]:
            piece = os.read(reading, 1 << 16)
            if not piece:
                return
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield tuple(json.loads(line))
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _run_child(target: Target, seeds: list[bytes], numbers: list[int], folder: Path, writing: int) -> None:
    faulthandler.disable()  # a crash is counted, not told at length
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seen: list[str] = []
    work = folder / "work"
    sys.addaudithook(lambda event, arguments: _watch(event, arguments, seen, work))
    for number in numbers:
        _made(work)
        path = work / target.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mutant(seeds, number, target.is_text))
        os.write(writing, json.dumps([number, None]).encode() + b"\n")
        seen.clear()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcome = judged(target, path)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        if seen:
            outcome = f"forbidden: {seen[0]}"
        elif grown > GROWTH:
            outcome = f"memory: {grown >> 20} MiB"
        os.write(writing, json.dumps([number, outcome]).encode() + b"\n")


def _watch(event: str, arguments: tuple, seen: list[str], work: Path) -> None:
    if event in FORBIDDEN:
        seen.append(f"{event} {arguments!r:.100}")
    elif event == "open":
        name, _, flags = arguments
        if (
            isinstance(name, str | bytes | os.PathLike)
            and isinstance(flags, int)
            and flags & (os.O_WRONLY | os.O_RDWR)
        ):
            place = os.path.realpath(os.fsdecode(name))
            scratch = os.path.join(tempfile.gettempdir(), "resformer-")
            if not place.startswith((str(work.resolve()), "/dev/", "/proc/", scratch)):
                seen.append(f"writes {place}")


def judged(target: Target, path: Path) -> str:
    """What became of one mutant."""
    try:
        target.read(path)
    except target.errors as error:
        message = str(error)
        if "\n" in message or "\r" in message or len(message) > 1200:
            return f"message: of several lines or too long, {_where(error)}"
        if target.names(path) not in message:
            return f"message: names no file, {_where(error)}: {message[:150]}"
        if "memory" in message:
            return f"memory: {message[-100:]}"
        return "refused"
    except MemoryError as error:
        return f"memory: {_where(error)}"
    except BaseException as error:
        return f"traceback: {type(error).__name__} {_where(error)} {str(error)[:100]!r}"
    return "read"


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "modeling_resformer" in frame.filename]
    frame = (ours or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"
