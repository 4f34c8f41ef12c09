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
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
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


SLOWEST = 300  # seconds
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


def in_fork(
    run: Callable[[], int], log: Path, kill_after: float | None = None, largest_file: int | None = None
) -> int:
    """Exit status of a function in a child; negative for a signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(output, 1)
            os.dup2(output, 2)
            logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
            if largest_file is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
            sys.stderr = os.fdopen(2, "w", buffering=1)
            os._exit(run())
        except BaseException as error:
            os.write(2, f"Traceback: {type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(99)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def try_kills(command: Command, folder: Path, kills: int, seed: int = 0) -> Trials:
    """Kills a command at random moments; each time what is there must be whole, and a rerun must end as a run never killed."""
    trials, rng = Trials(), random.Random(seed)
    reference = folder / "reference" / "out"
    reference.parent.mkdir(parents=True)
    start = time.monotonic()
    assert in_fork(lambda: command.run(reference), folder / "log") == 0, (folder / "log").read_text()[-2000:]
    seconds, expected = time.monotonic() - start, command.digest(reference)
    for number in range(kills):
        output = folder / f"trial_{number}" / "out"
        output.parent.mkdir()
        status = in_fork(lambda: command.run(output), folder / "log", kill_after=rng.uniform(0, seconds))  # noqa: B023
        problem = command.problem(output)
        if problem is None and (again := in_fork(lambda: command.run(output), folder / "log")) != 0:  # noqa: B023
            problem = f"the rerun ended with {again}: {(folder / 'log').read_text()[-300:]}"
        if problem is None and command.digest(output) != expected:
            problem = "the rerun gave another result"
        left = [path.name for path in output.parent.iterdir() if path.name != "out"]
        if problem is None and left:
            problem = f"the rerun left {left}"
        trials.note("killed" if status == -signal.SIGKILL else "had ended", problem and f"{number}: {problem}")
        shutil.rmtree(output.parent)
    return trials


def try_full_disk(command: Command, folder: Path, sizes: list[int]) -> Trials:
    """Runs a command whose files may have so many bytes; it must end in one line, and with room end as ever."""
    trials = Trials()
    folder.mkdir(parents=True)
    for size in sizes:
        output = folder / str(size) / "out"
        output.parent.mkdir()
        status = in_fork(lambda: command.run(output), folder / "log", largest_file=size)  # noqa: B023
        said = (folder / "log").read_text()
        problem = command.problem(output)
        if problem is None and status not in (0, 1):
            problem = f"ended with {status}: {said[-300:]}"
        if problem is None and "Traceback" in said:
            problem = f"a traceback: {said[-300:]}"
        if problem is None and status == 1 and "cannot be written" not in said and "Hub" not in said:
            problem = f"no line says why: {said[-300:]}"
        if problem is None and in_fork(lambda: command.run(output), folder / "log") != 0:  # noqa: B023
            problem = f"the rerun failed: {(folder / 'log').read_text()[-300:]}"
        trials.note("refused" if status == 1 else "fitted", problem and f"{size} bytes: {problem}")
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
    prepared_dataset(train=6, validation=4, test=4).save_to_disk(str(folder / "dataset"))
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
