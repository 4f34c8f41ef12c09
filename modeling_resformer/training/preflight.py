"""Whether a run fits into the memory that is free, and how long it will take, before its first step.

A training step on one image and on two is measured (`image_cost.py`), and scaled to the batch and to the length of the run:
in this process where the run is small by a rule of thumb, else in one of its own, which may run out of memory.
"""

import json
import logging
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil
import torch
from transformers.trainer_utils import IntervalStrategy

from ..errors import BadInputError
from ..heads import TASKS
from .image_cost import Stage, Workload, measure
from .trainer import ResFormerTrainer


logger = logging.getLogger(__name__)

SMALL_RECIPE = "scripts/recipes/small_cpu.json"
LONG_HOURS = 6.0
TIMEOUT_SECONDS = 300.0
GIB = 2**30

# Rule of thumb, measured at 80 to 512 pixels with 1.8 and 45 million parameters on one thread: bytes of activations a
# pixel and channel of the first level, seconds a parameter and pixel. The larger networks need less.
BYTES_A_CHANNEL = 330
SECONDS_A_PARAMETER = 5e-12
QUICK_SECONDS = 1800.0
MODEST_SHARE = 0.25  # of the memory that is free
# A data-loading worker shares most of its memory with the process that forked it.
BYTES_A_WORKER = 150 * 2**20
# Weights, gradients and the two moments of Adam, in float32.
BYTES_A_PARAMETER = 16


@dataclass(frozen=True)
class Plan:
    """What one process will do.

    Attributes:
        batch, evaluation_batch: images of one forward pass in training and in evaluation.
        accumulation: batches of one step.
        images, epochs: of the training split, and how often each is learned from.
        training_images, evaluated_images: passed through the network in the whole run.
        local_processes: on this machine, each doing the same.
        parameters: of the model.
        averaged: whether a second copy of the weights is kept.
        pixels: of an image.
        width: channels of the first level.
        workers: data-loading processes.
        data_seconds: to read, augment and collate one image.
    """

    batch: int
    evaluation_batch: int
    accumulation: int
    images: int
    epochs: float
    training_images: int
    evaluated_images: int
    local_processes: int
    parameters: int
    averaged: bool
    pixels: int
    width: int
    workers: int
    data_seconds: float


@dataclass(frozen=True)
class Estimate:
    """What a run will need beyond what its processes have already.

    Attributes:
        seconds: from the first step to the last evaluation; None if it was not measured.
        memory: bytes for all local processes on a CPU, for one on its GPU; None if it was not measured.
        one_image: the same at batch size 1.
    """

    seconds: float | None
    memory: int | None
    one_image: int | None = None


@dataclass(frozen=True)
class Measurement:
    """What the measuring process told, and why it told no more.

    Attributes:
        stages: that it lived to see.
        problem: one line; None where it came to its end.
        short_of_memory: whether that is what stopped it.
    """

    stages: Sequence[Stage]
    problem: str | None = None
    short_of_memory: bool = False


def check_resources(trainer: ResFormerTrainer, go_on: bool, free: int | None = None) -> None:
    """Logs what a run will cost; refuses one that does not fit. One process of each machine does so for all.

    Args:
        trainer: before training.
        go_on: only warn.
        free: bytes, measured where they are not given.

    Raises:
        BadInputError: the memory does not suffice. The message is one line with the cure.
    """
    if trainer.args.local_process_index != 0:
        return
    on_gpu = trainer.args.device.type == "cuda"
    if free is None and not on_gpu:
        free = free_memory()
    plan = make_plan(trainer)
    small = is_small(plan, math.inf if free is None else free, on_gpu)
    measurement = (measure_here if small else run_measurement)(make_workload(trainer))
    if on_gpu and free is None:
        free = next((stage.free for stage in measurement.stages if stage.free is not None), None)
    estimate = scale(plan, measurement.stages)
    logger.info("%s", describe_estimate(plan, estimate, measurement, free, small))
    if problem := shortage(plan, estimate, measurement, free):
        if not go_on:
            raise BadInputError(problem)
        logger.warning("%s", problem)
    if trainer.args.device.type == "cpu" and (estimate.seconds or 0) > LONG_HOURS * 3600:
        logger.warning(
            "On a CPU this run takes %s. %s trains a network that is some twenty times faster.",
            rough_duration(estimate.seconds),
            SMALL_RECIPE,
        )


def make_plan(trainer: ResFormerTrainer) -> Plan:
    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    rows, held_out = len(trainer.train_dataset), len(trainer.eval_dataset)
    micro_batches = math.ceil(math.ceil(rows / args.world_size) / args.per_device_train_batch_size)
    steps = math.ceil(micro_batches / args.gradient_accumulation_steps)
    epochs = args.max_steps / steps if args.max_steps > 0 else args.num_train_epochs
    size = trainer.processing_class.size
    return Plan(
        batch=min(args.per_device_train_batch_size, rows),
        evaluation_batch=min(args.per_device_eval_batch_size, held_out),
        accumulation=args.gradient_accumulation_steps,
        images=rows,
        epochs=epochs,
        training_images=math.ceil(epochs * rows / args.world_size),
        evaluated_images=math.ceil(evaluations(args.eval_strategy, args.eval_steps, epochs, steps))
        * math.ceil(held_out / args.world_size),
        local_processes=local_processes(args.world_size),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        averaged=trainer.average is not None,
        pixels=size["height"] * size["width"],
        width=model.config.hidden_sizes[0],
        workers=args.dataloader_num_workers,
        data_seconds=reading_seconds(trainer),
    )


def make_workload(trainer: ResFormerTrainer) -> Workload:
    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    size = trainer.processing_class.size
    return Workload(
        task=next(name for name, task in TASKS.items() if task is trainer.task),
        config=model.config.to_dict(),
        size=(size["height"], size["width"]),
        device=str(args.device),
        threads=torch.get_num_threads(),
        autocast="bfloat16" if args.bf16 else "float16" if args.fp16 else None,
        checkpointing=args.gradient_checkpointing,
    )


def evaluations(strategy: IntervalStrategy, eval_steps: float | None, epochs: float, steps: int) -> float:
    """How often the validation split is evaluated."""
    if strategy == IntervalStrategy.NO:
        return 0
    if strategy == IntervalStrategy.EPOCH or not eval_steps:
        return epochs
    return 1 / eval_steps if eval_steps < 1 else epochs * steps / eval_steps


def local_processes(world_size: int) -> int:
    """Processes on this machine, by the launchers' variable."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size))


def reading_seconds(trainer: ResFormerTrainer, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds to read, augment and collate one training image: the median of some, once files are open."""
    rows, spent = trainer.train_dataset, []
    for position in range(5):
        started = clock()
        trainer.data_collator([rows[position * len(rows) // 5]])
        spent.append(clock() - started)
    return statistics.median(spent)


def is_small(plan: Plan, free: float, on_gpu: bool) -> bool:
    """Whether a rule of thumb says so, with a margin of several times."""
    activations = BYTES_A_CHANNEL * plan.pixels * plan.width * plan.batch
    memory = (BYTES_A_PARAMETER * plan.parameters + activations) * plan.local_processes
    images = plan.training_images + plan.evaluated_images / 3
    seconds = images * (SECONDS_A_PARAMETER * plan.parameters * plan.pixels + plan.data_seconds)
    return memory < MODEST_SHARE * free and (seconds < QUICK_SECONDS or (on_gpu and seconds < 20 * QUICK_SECONDS))


def measure_here(workload: Workload) -> Measurement:
    """The same in this process, cheaply, and without leaving a trace in its random numbers.

    Of a CPU's memory this tells nothing: the process may have needed more before, and the system counts the most.
    """
    device, stages = torch.device(workload.device), []
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            stages.extend(measure(replace(workload, quick=True)))
    except RuntimeError as error:
        problem = str(error).strip().split("\n")[0]
        return Measurement(stages, problem, "memory" in problem.lower())
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return Measurement(stages if device.type == "cuda" else [replace(stage, peak=None) for stage in stages])


def run_measurement(workload: Workload, timeout: float = TIMEOUT_SECONDS) -> Measurement:
    """Trains on one image and on two in a process of its own, which may be killed for want of memory, or be too slow."""
    alone = {name: value for name, value in os.environ.items() if name not in LAUNCHERS_VARIABLES}
    package = str(Path(__file__).resolve().parents[2])
    alone["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", f"{__package__}.image_cost"]
    given = json.dumps(asdict(workload))
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, env=alone, timeout=timeout)
    except subprocess.TimeoutExpired as expired:
        written = expired.stdout.decode() if isinstance(expired.stdout, bytes) else expired.stdout
        return Measurement(read_stages(written or ""), f"it took more than {timeout:.0f} s")
    stages = read_stages(done.stdout)
    if done.returncode == 0:
        return Measurement(stages)
    last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
    # The kernel kills without a word; torch says "out of memory" of a GPU, and "not enough memory" of the machine.
    short = done.returncode == -signal.SIGKILL or "memory" in last.lower()
    return Measurement(stages, last, short)


def read_stages(text: str) -> list[Stage]:
    return [Stage(**json.loads(line)) for line in text.splitlines() if line.startswith('{"name"')]


# With these the process would wait for its siblings.
LAUNCHERS_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def scale(plan: Plan, stages: Sequence[Stage]) -> Estimate:
    """The costs of a run from those of one image and of two."""
    found = {stage.name: stage for stage in stages}
    if "step" not in found:
        return Estimate(None, None)
    start, forward, one, two = (found.get(name) for name in ("start", "forward", "step", "step_of_two"))
    # What a further image of a batch costs; on a busy machine the difference of two timings may be anything.
    further = one.seconds if two is None else min(max(two.seconds - one.seconds, one.seconds / 4), one.seconds)
    training = plan.training_images / plan.batch * (one.seconds + further * (plan.batch - 1))
    reading = plan.data_seconds
    evaluating = plan.evaluated_images * forward.seconds
    images = plan.training_images + plan.evaluated_images
    # Workers read while the network computes.
    waiting = max(0.0, images * reading / plan.workers - training) if plan.workers else images * reading
    seconds = training + evaluating + waiting
    if one.peak is None:
        return Estimate(seconds, None)
    memory = [memory_of(plan, batch, start, forward, one, two) for batch in (plan.batch, 1)]
    return Estimate(seconds, *memory)


def memory_of(plan: Plan, batch: int, start: Stage, forward: Stage, one: Stage, two: Stage | None) -> int:
    """Bytes for all local processes at a batch size: those of training or of an evaluation, if that takes more."""
    held = BYTES_A_PARAMETER * plan.parameters
    first = one.peak - start.peak
    another = max(first - held, 0) if two is None else two.peak - one.peak
    training = first + another * (batch - 1)
    evaluating = held + max(forward.peak - start.peak - 4 * plan.parameters, 0) * plan.evaluation_batch
    # This process has the weights already, and needs room for a copy of them where they are averaged.
    fixed = (0 if plan.averaged else -4) * plan.parameters + plan.workers * BYTES_A_WORKER
    return (max(training, evaluating) + fixed) * plan.local_processes


def describe_estimate(plan: Plan, estimate: Estimate, measurement: Measurement, free: int | None, small: bool) -> str:
    """One line."""
    if estimate.seconds is None:
        return f"Time and memory of this run are not known: {measurement.problem}."
    memory = "memory was not measured on this kind of device"
    if estimate.memory is not None:
        known = "" if free is None else f" of {gib(free)} free"
        several = f" in {plan.local_processes} processes" if plan.local_processes > 1 else ""
        memory = f"{gib(estimate.memory)} of memory{several}{known}"
    elif small and free is not None:
        memory = f"memory is no matter ({gib(free)} free)"
    epochs = f"{round(plan.epochs, 2):g} epoch{'' if plan.epochs == 1 else 's'}"
    return f"Expected: {rough_duration(estimate.seconds)} for {plan.images} images x {epochs}; {memory}."


def shortage(plan: Plan, estimate: Estimate, measurement: Measurement, free: int | None) -> str | None:
    """What does not fit and what would, in one line; None where it fits or nobody knows."""
    if estimate.memory is not None and free is not None and estimate.memory > free:
        need = f"This run needs about {gib(estimate.memory)} of memory beyond what it has, and {gib(free)} are free"
    elif estimate.seconds is None and measurement.short_of_memory:
        need = f"One image is too much for the memory that is free{'' if free is None else f', {gib(free)}'}"
    else:
        return None
    cures = []
    if plan.batch > 1 and estimate.one_image is not None and estimate.one_image < free:
        per_image = (estimate.memory - estimate.one_image) / (plan.batch - 1)
        most = int(1 + (free - estimate.one_image) * 0.9 / max(per_image, 1))
        # A divisor, so that a step still learns from as many images.
        fitting = max(size for size in range(1, plan.batch) if plan.batch % size == 0 and size <= most)
        cures.append(
            f"--per_device_train_batch_size {fitting} with --gradient_accumulation_steps "
            f"{plan.accumulation * plan.batch // fitting}"
        )
    cures += ["a smaller --image_size", "--gradient_checkpointing", SMALL_RECIPE]
    return f"{need}; choose {', '.join(cures[:-1])} or {cures[-1]}. --yes goes on regardless."


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may still get: the machine's, or those of its control group on Linux if they are fewer."""
    return min([psutil.virtual_memory().available, *group_memory(root)])


def group_memory(root: Path) -> list[int]:
    """Bytes left in the control groups (v1 and v2) of this process and those above, one for each that has a limit."""
    left = []
    for folder, limit, usage, reclaimable in _groups(root):
        try:
            most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
            lines = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no such file, or a limit of "max"
            continue
        left.append(max(most - used + int(lines.get(reclaimable, 0)), 0))
    return left


def _groups(root: Path) -> list[tuple[Path, str, str, str]]:
    """Folder and names of limit, usage and what of it the kernel gives back for the asking."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    groups = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # In a container the path may be one of the host's; the top is then the container's own.
        own = top / path.strip("/")
        inside = [own, *own.parents]
        groups += [(folder, *names) for folder in inside if folder == top or top in folder.parents]
    return groups


def gib(number: float) -> str:
    return f"{number / GIB:.1f} GiB"


def rough_duration(seconds: float) -> str:
    """Rounded to what can be believed."""
    if seconds < 90:
        return f"about {max(seconds, 1):.0f} s"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h" if seconds < 36000 else f"about {seconds / 3600:.0f} h"
