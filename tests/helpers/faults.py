"""Runs that die, or whose disk fills up: the command in a fork of this process, killed or stopped, then judged and run again.

A fork, since to import everything takes longer than such a run.
"""

import hashlib
import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hub_stand_in import StandInHub
from PIL import Image
from prepared_data import prepared_dataset
from raw_data import write_csv, write_mask, write_photograph
from run_here import run_command
from safetensors import safe_open
from small_model import ARCHITECTURE, tiny_config

from modeling_resformer import ResFormerForMultiTask, ResFormerImageProcessor
from modeling_resformer.data.prepared import is_prepared, load_prepared
from modeling_resformer.training.checkpoints import checkpoints_in, problem_of


ANSWER = "answer: "
PREDICT_SIZE = (64, 48)


@dataclass(frozen=True)
class Command:
    """One command under test.

    Attributes:
        run: the command into a folder; returns its exit status.
        problem: what is wrong with a folder after a kill, None where it holds the old result, the new one or none.
        digest: of what counts of a finished result, equal for equal results.
    """

    run: Callable[[Path], int]
    problem: Callable[[Path], str | None]
    digest: Callable[[Path], str]


@dataclass
class Trials:
    """What became of the trials of one kind."""

    counts: Counter = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def note(self, outcome: str, problem: str | None = None) -> None:
        self.counts[outcome] += 1
        if problem is not None:
            self.counts["bad"] += 1
            self.problems.append(problem)


@dataclass(frozen=True)
class Ended:
    """Exit status of a child, negative for the signal that ended it, and what it wrote."""

    status: int
    said: str


def in_fork(run: Callable[[], int], kill_after: float | None = None, largest_file: int | None = None) -> Ended:
    """Runs a function in a child, which may be killed after some seconds, or whose files may not grow."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(writing, 1)
            os.dup2(writing, 2)
            sys.stderr = os.fdopen(2, "w", buffering=1)
            logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
            if largest_file is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
            os._exit(run())
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        finally:
            os._exit(99)
    os.close(writing)
    timer = None if kill_after is None else threading.Timer(kill_after, os.kill, (child, signal.SIGKILL))
    if timer is not None:
        timer.start()
    with os.fdopen(reading, errors="replace") as pipe:
        said = pipe.read()
    # Until the child is waited for, its number is nobody else's.
    if timer is not None:
        timer.join()
    return Ended(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said)


def told(ask: Callable[[], str | None]) -> str | None:
    """What a function says, asked in a child: Arrow's threads, once begun here, would be missing in every later fork."""

    def run() -> int:
        os.write(1, f"\n{ANSWER}{json.dumps(ask())}".encode())
        return 0

    ended = in_fork(run)
    return (
        json.loads(ended.said.rpartition(ANSWER)[2]) if ended.status == 0 else f"cannot be read: {ended.said[-300:]}"
    )


def try_kills(command: Command, folder: Path, kills: int, seed: int = 0) -> Trials:
    """Kills a command at random moments; each time what is there must be whole, and a rerun must end as a run never killed."""
    trials, rng = Trials(), random.Random(seed)
    reference = folder / "reference" / "out"
    reference.parent.mkdir(parents=True)
    start = time.monotonic()
    ended = in_fork(lambda: command.run(reference))
    if ended.status:
        raise RuntimeError(f"the run without a fault ended with {ended.status}: {ended.said[-2000:]}")
    seconds, expected = time.monotonic() - start, told(partial(command.digest, reference))
    for number in range(kills):
        output = folder / f"trial_{number}" / "out"
        output.parent.mkdir()
        run = partial(command.run, output)
        killed = in_fork(run, kill_after=rng.uniform(0, seconds))
        problem = told(partial(command.problem, output))
        if problem is None and (again := in_fork(run)).status:
            problem = f"the rerun ended with {again.status}: {again.said[-300:]}"
        if problem is None and told(partial(command.digest, output)) != expected:
            problem = "the rerun gave another result"
        left = [path.name for path in output.parent.iterdir() if path.name != "out"]
        if problem is None and left:
            problem = f"the rerun left {left}"
        trials.note("killed" if killed.status == -signal.SIGKILL else "had ended", problem and f"{number}: {problem}")
        shutil.rmtree(output.parent)
    return trials


def try_full_disk(command: Command, folder: Path, sizes: Sequence[int]) -> Trials:
    """Runs a command whose files may have so many bytes; it must end in one line, and with room end as ever."""
    trials = Trials()
    for size in sizes:
        output = folder / str(size) / "out"
        output.parent.mkdir(parents=True)
        run = partial(command.run, output)
        ended = in_fork(run, largest_file=size)
        problem = told(partial(command.problem, output))
        if problem is None and (ended.status not in (0, 1) or "Traceback" in ended.said):
            problem = f"ended with {ended.status}: {ended.said[-300:]}"
        if problem is None and ended.status == 1 and "cannot be written" not in ended.said:
            problem = f"no line says why: {ended.said[-300:]}"
        if problem is None and (again := in_fork(run)).status:
            problem = f"the rerun failed: {again.said[-300:]}"
        trials.note("refused" if ended.status else "fitted", problem and f"{size} bytes: {problem}")
        shutil.rmtree(output.parent)
    return trials


# The commands -----------------------------------------------------------------------------------------------------------


def preparing(folder: Path) -> Command:
    source = folder / "source"
    for number in range(6):
        write_photograph(source / "images" / f"{number}.png", seed=number)
        write_mask(source / "masks" / f"{number}.png")
    write_csv(source / "labels.csv", [["file_name", "class_labels"], *([f"{n}.png", "ab"[n % 2]] for n in range(6))])
    options = ["--mask-values", "0=background,255=lesion", "--test-fraction", "0.3", "--overwrite"]
    return Command(
        lambda output: run_command("prepare_folder", "--source", source, "--output", output, *options),
        lambda output: None if not output.exists() or (is_prepared(output) and load_prepared(output)) else "half",
        lambda output: json.dumps({k: str(v.to_dict()) for k, v in load_prepared(output).dataset.items()}),
    )


def predicting(folder: Path) -> Command:
    images, model = folder / "images", small_model(folder)
    for number in range(12):
        write_photograph(images / f"{number}.png", size=PREDICT_SIZE, seed=number)

    def problem(output: Path) -> str | None:
        for path in output.rglob("[!.]*.png"):
            with Image.open(path) as image:
                image.load()
        tables = [path for path in output.glob("*.json") if not path.name.startswith(".")]
        return next((f"{path.name} is broken" for path in tables if not _is_json(path)), None)

    return Command(
        lambda output: run_command(
            "predict", model, images, "--output", output, "--batch-size", 2, "--cpu-threads", 1
        ),
        problem,
        lambda output: _digest([output / "predictions.csv", *sorted((output / "masks").iterdir())]),
    )


def training(folder: Path) -> Command:
    told(lambda: prepared_dataset(train=6, validation=4, test=4).save_to_disk(str(folder / "dataset")))
    recipe = {
        "config": ARCHITECTURE,
        "image_size": 32,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "save_strategy": "steps",
        "eval_strategy": "steps",
        "save_steps": 2,
        "eval_steps": 2,
        "bootstrap_samples": 0,
        "use_cpu": True,
        "cpu_threads": 1,
        "report_to": "none",
        "disable_tqdm": True,
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    places = [folder / "recipe.json", "--dataset", folder / "dataset", "--resume_from_checkpoint", "true"]

    def problem(output: Path) -> str | None:
        broken = [(path, problem_of(path)) for path in checkpoints_in(output)]
        found = next((f"{path.name}: {said}" for path, said in broken if said), None)
        return found or next((f"{path.name} is broken" for path in output.glob("*.json") if not _is_json(path)), None)

    def digest(output: Path) -> str:
        with safe_open(output / "model.safetensors", framework="pt") as weights:
            return hashlib.sha256(
                b"".join(weights.get_tensor(n).numpy().tobytes() for n in sorted(weights.keys()))
            ).hexdigest()

    return Command(lambda output: run_command("train", *places, "--output_dir", output), problem, digest)


def pushing(folder: Path) -> Command:
    """The sending alone; what `make_repository` writes appears as a whole like a prepared dataset."""
    import huggingface_hub

    from modeling_resformer.errors import BadInputError
    from modeling_resformer.publishing.hub import Push, push_folder

    server = StandInHub().start()
    huggingface_hub.constants.ENDPOINT = server.url
    huggingface_hub.constants.HF_HUB_DISABLE_XET = True
    os.environ["HF_TOKEN"] = "hf_test"
    repository = small_model(folder)
    (repository / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A\n")
    names = {path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()}

    def run(output: Path) -> int:
        try:
            push_folder(repository, Push(f"me/{output.parent.name}"))
        except BadInputError as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
        return 0

    def files(output: Path) -> set[str]:
        return set(server.repositories.get(f"me/{output.parent.name}", {"files": {}})["files"])

    return Command(
        run,
        lambda output: (
            None if files(output) in (set(), names) else f"holds {len(files(output))} of {len(names)} files"
        ),
        lambda output: ",".join(sorted(files(output))),
    )


COMMANDS = {"prepare": preparing, "predict": predicting, "train": training, "push": pushing}


def small_model(folder: Path) -> Path:
    config = tiny_config(id2label={0: "background", 1: "lesion"}, classification_labels=["a", "b"])
    ResFormerForMultiTask(config).save_pretrained(folder / "model")
    ResFormerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "model")
    return folder / "model"


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except ValueError:
        return False
    return True


def _digest(paths: list[Path]) -> str:
    """Of files by name; tables name their inputs, which all trials share."""
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in paths)).hexdigest()
