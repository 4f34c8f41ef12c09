"""How time grows with pixels, with the batch and with processes.

    taskset -c 1 python benchmarks/speed/scaling.py --part pixels
    taskset -c 1 python benchmarks/speed/scaling.py --part batch
    python benchmarks/speed/scaling.py --part processes --processes 2

    pixels      the fused network at 512 and at 224 pixels a side, same windows; the area is 5.2 times as large
    batch       the fused network for 1 and for 8 images at 224; an image in a batch over one alone
    processes   training steps under DistributedDataParallel with gloo, a thread and a core each, over those of one process with
                as many images: time of one / time of many. Wall times, so it needs as many idle cores as processes, and says
                where they were not: from the CPU time that the processes got

Rounds alternate; the table gives medians. --hidden_sizes makes a smaller network, to try the script.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed
import torch.multiprocessing
from networks import ROOT, alternating, middle_ratio, package_in, training_step
from torch import nn
from torch.nn.parallel import DistributedDataParallel


SIDES = (512, 224)
BATCHES = (8, 1)
QUIET = 0.9  # of its wall time a process has to compute, or the machine was busy


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--part", choices=("pixels", "batch", "processes"), required=True)
    add("--window", type=int, default=7)
    add("--rounds", type=int, default=7)
    add("--processes", type=int, default=2)
    add("--size", type=int, default=224, help="of training images")
    add("--images", type=int, default=2, help="of a process in a training step")
    add("--hidden_sizes", type=int, nargs=4, help="channels by level; by default the paper's")
    return parser.parse_args()


def main() -> None:
    given = parse()
    torch.set_num_threads(1)
    if given.part == "processes":
        processes(given)
        return
    model = network(given).eval().fuse()
    if given.part == "pixels":
        inputs = {f"{side} x {side}": torch.randn(1, 3, side, side) for side in SIDES}
        unit = {name: 1.0 for name in inputs}
    else:
        inputs = {f"batch of {count}": torch.randn(count, 3, given.size, given.size) for count in BATCHES}
        unit = {name: float(len(pixels)) for name, pixels in inputs.items()}
    with torch.no_grad():
        calls = {name: lambda pixels=pixels: model(pixels) for name, pixels in inputs.items()}
        for call in calls.values():
            call()
        seconds, _ = alternating(calls, given.rounds)
    first, second = inputs
    ratio = middle_ratio(seconds[first], seconds[second]) / unit[first]
    sys.stdout.write(f"window {given.window}, {given.rounds} rounds\n| input | CPU seconds |\n|---|---|\n")
    for name, times in seconds.items():
        sys.stdout.write(f"| {name} | {statistics.median(times):.3f} |\n")
    each = " an image" if given.part == "batch" else ""
    sys.stdout.write(f"{first} over {second}{each}: {ratio:.2f}\n")


def network(given: argparse.Namespace) -> nn.Module:
    torch.manual_seed(0)
    package = package_in(ROOT)
    sizes = {} if given.hidden_sizes is None else {"hidden_sizes": given.hidden_sizes}
    return package.ResFormerForMultiTask(package.ResFormerConfig(window_size=given.window, **sizes))


def processes(given: argparse.Namespace) -> None:
    """Alternates rounds of one process, the others idle, with rounds of all."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(timed_process, (given, folder), nprocs=given.processes)
        alone, together, shares = torch.load(Path(folder) / "times.pt", weights_only=True)
    efficiency = middle_ratio(alone, together)
    sys.stdout.write(
        f"{given.images} images of {given.size} a process and step, {given.rounds} rounds\n"
        "| processes | seconds a step | of it computing |\n|---|---|---|\n"
        f"| 1 | {statistics.median(alone):.3f} | {shares[0]:.2f} |\n"
        f"| {given.processes} | {statistics.median(together):.3f} | {shares[1]:.2f} |\n"
        f"efficiency {efficiency:.2f}\n"
    )
    if min(shares) < QUIET:
        sys.stdout.write("not valid: the cores were busy with other work; run it on an idle machine\n")


def timed_process(rank: int, given: argparse.Namespace, folder: str) -> None:
    """Writes the times of one process alone and of all together, as the first process sees them."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=given.processes
    )
    model = network(given)
    pixels = torch.randn(given.images, 3, given.size, given.size)
    single, joined = training_step(model, pixels), training_step(Joined(model), pixels)
    single()
    joined()
    alone, together, busy = [], [], []
    for _ in range(given.rounds):
        torch.distributed.barrier()
        if rank == 0:
            alone.append(timed(single, busy))
        torch.distributed.barrier()
        together.append(timed(joined, busy))
    if rank == 0:
        shares = statistics.median(busy[::2]), statistics.median(busy[1::2])
        torch.save((alone, together, shares), Path(folder) / "times.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


class Joined(DistributedDataParallel):
    """With the inner model's config and heads, by which `networks.losses` knows it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.config = model.config
        self.classification_head = True


def timed(step: Callable[[], None], busy: list[float]) -> float:
    """Wall seconds of a step; adds the share of them in which this process computed."""
    start, computed = time.perf_counter(), time.process_time()
    step()
    wall = time.perf_counter() - start
    busy.append((time.process_time() - computed) / wall)
    return wall


if __name__ == "__main__":
    main()
