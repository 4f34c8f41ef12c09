"""One image's cost. In a process of its own its memory goes away with it, and a kill there kills nobody else.

    python -m modeling_resformer.training.image_cost < workload.json

Reads a `Workload` as JSON and writes one JSON line for each stage that it lived to see, see `Stage`.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..configuration_resformer import ResFormerConfig
from ..heads import TASKS, Task
from ..modeling_resformer import ResFormerPreTrainedModel
from ..rivals.rival_models import RivalConfig, rival_model


try:
    import resource
except ImportError:  # Windows
    resource = None

SLOW_SECONDS = 10.0  # a step that takes longer is not measured at batch size 2
VERY_SLOW_SECONDS = 60.0  # nor repeated
ENOUGH_SECONDS = 3.0
ENOUGH_OF_BATCHES = 15.0
QUICK_SECONDS = 2.0  # all of these where the measurement shall be quick


@dataclass(frozen=True)
class Workload:
    """What is measured.

    Attributes:
        task: a key of `TASKS`.
        config: the model's config as a dictionary.
        size: height and width of the images in pixels.
        device: torch device.
        threads: of torch on the CPU.
        autocast: `bfloat16`, `float16` or None.
        checkpointing: recompute activations in the backward pass.
        quick: repeat as little as may be.
        cpu_time: measure by the time of the CPU, and not by the wall's clock.
        batch: images of a further measurement, of a step on so many at once; None: none.
    """

    task: str
    config: dict[str, Any]
    size: tuple[int, int]
    device: str
    threads: int
    autocast: str | None = None
    checkpointing: bool = False
    quick: bool = False
    cpu_time: bool = False
    batch: int | None = None


@dataclass(frozen=True)
class Stage:
    """One measurement.

    Attributes:
        name: `start`, `forward`, `step` (a training step on one image), `step_of_two` or `step_of_batch`.
        seconds: of the fastest repetition.
        peak: most memory in bytes up to here: of the process on a CPU, of torch's allocator on a GPU, None elsewhere.
        free: bytes free on the GPU at the start; None elsewhere.
    """

    name: str
    seconds: float
    peak: int | None
    free: int | None = None


def measure(workload: Workload) -> Iterator[Stage]:
    """The stages one after the other, each needing more memory than the one before."""
    torch.set_num_threads(workload.threads)
    device = torch.device(workload.device)
    yield Stage("start", 0.0, peak_memory(device), torch.cuda.mem_get_info(device)[0] if is_cuda(device) else None)
    task = TASKS[workload.task]
    model = model_of(task, workload.config).to(device)
    if workload.checkpointing:
        model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    pooled = norms_of_pooled_maps(model)

    def step(images: int) -> None:
        model.train()
        for norm in pooled if images == 1 else ():
            norm.eval()
        with autocast(workload, device):
            output = model(**make_batch(task, model.config, images, workload.size, device))
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    clock = clock_of(workload)
    yield Stage("forward", forward_seconds(workload, model), peak_memory(device))
    seconds = timed(lambda: step(1), device, workload.quick, clock)
    yield Stage("step", seconds, peak_memory(device))
    if seconds < (QUICK_SECONDS if workload.quick else SLOW_SECONDS):
        yield Stage("step_of_two", timed(lambda: step(2), device, workload.quick, clock), peak_memory(device))
    if (images := workload.batch) is not None:
        seconds = timed(lambda: step(images), device, workload.quick, clock, ENOUGH_OF_BATCHES)
        yield Stage("step_of_batch", seconds, peak_memory(device))


def forward_seconds(workload: Workload, model: nn.Module | None = None) -> float:
    """Of one image through the network, the fastest repetition; the model is built where none is given."""
    device, task = torch.device(workload.device), TASKS[workload.task]
    model = (model_of(task, workload.config).to(device) if model is None else model).eval()

    def forward() -> None:
        with torch.no_grad(), autocast(workload, device):
            model(**make_batch(task, model.config, 1, workload.size, device))

    return timed(forward, device, workload.quick, clock_of(workload))


def clock_of(workload: Workload) -> Callable[[], float]:
    return time.process_time if workload.cpu_time else time.perf_counter


def model_of(task: Task, config: dict[str, Any]) -> ResFormerPreTrainedModel:
    """The model of a task, or the rival, that a config's dictionary describes, from random weights."""
    if config.get("model_type") == RivalConfig.model_type:
        return rival_model(task, RivalConfig.from_dict(config))
    return task.model_class(ResFormerConfig.from_dict(config))


def norms_of_pooled_maps(model: nn.Module) -> list[nn.Module]:
    """The batch norms that have seen a map of a single pixel, filled in as the model runs: of one image they learn nothing,
    and torch refuses to."""
    found: list[nn.Module] = []

    def look(norm: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        if given[0].dim() == 4 and given[0].shape[2:].numel() == 1 and norm not in found:
            found.append(norm)

    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_pre_hook(look)
    return found


def make_batch(
    task: Task, config: ResFormerConfig, images: int, size: tuple[int, int], device: torch.device
) -> dict[str, torch.Tensor]:
    """(images, C, H, W) noise with random labels, under the names that the task's model takes."""
    masks = torch.randint(0, len(config.mask_class_names), (images, *size), device=device)
    classes = len(config.image_class_names)
    # One class an image, which labels of any kind may say.
    labels = torch.eye(classes, device=device)[torch.randint(0, classes, (images,), device=device)]
    pixels = torch.randn(images, config.num_channels, *size, device=device)
    return task.forward_arguments({"pixel_values": pixels, "mask_labels": masks, "class_labels": labels})


def autocast(workload: Workload, device: torch.device) -> torch.autocast | nullcontext:
    if workload.autocast is None:
        return nullcontext()
    return torch.autocast(device.type, getattr(torch, workload.autocast))


def timed(
    run: Callable[[], None],
    device: torch.device,
    quick: bool = False,
    clock: Callable[[], float] = time.perf_counter,
    enough: float = ENOUGH_SECONDS,
) -> float:
    """Seconds of the fastest repetition after the first, which also chooses kernels and fills caches.

    The others are five, or as many as fit into `enough` seconds, but one at least unless the first was slow; if it shall be
    `quick`, one at most.
    """
    enough, slow = (0.0, QUICK_SECONDS) if quick else (enough, VERY_SLOW_SECONDS)
    spent: list[float] = []
    while len(spent) < 2 or (len(spent) < 6 and sum(spent) < enough):
        started = clock()
        run()
        if is_cuda(device):
            torch.cuda.synchronize(device)
        spent.append(clock() - started)
        if spent[0] > slow:
            break
    return min(spent[1:] or spent)


def peak_memory(device: torch.device) -> int | None:
    """Bytes, see `Stage.peak`."""
    if is_cuda(device):
        return torch.cuda.max_memory_reserved(device)
    if device.type != "cpu":
        return None
    with suppress(OSError):  # Linux; getrusage would count what the parent process held when it forked
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def is_cuda(device: torch.device) -> bool:
    return device.type == "cuda"


def main() -> None:
    with suppress(OSError):  # should the memory run out, it is this process that the kernel stops
        Path("/proc/self/oom_score_adj").write_text("1000")
    logging.disable(logging.WARNING)
    for stage in measure(Workload(**json.load(sys.stdin))):
        sys.stdout.write(json.dumps(asdict(stage)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
