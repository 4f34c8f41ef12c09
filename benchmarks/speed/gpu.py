"""How fast the network answers and learns on a GPU in bfloat16, beside other networks, and what the GPU could do at best.

    python benchmarks/speed/gpu.py --size 512 --batch 8 --window 8
    python benchmarks/speed/gpu.py --device cpu --tiny

Milliseconds are medians over the rounds, in which every way has its turn; a training step is forward, backward and fused AdamW.
Beside them stand two bounds of the same GPU: what the multiply-adds would take at the rate at which it multiplies 8192 x 8192
matrices in bfloat16, and what the tensors that the operators read and write would take at the rate at which it copies memory. The
roofline is the larger one. Fusing operators lowers the second, so that a compiled network may stay under it.

    eager, fused, compiled    ours: as loaded (trained: plain), its evaluation form, and torch.compile of that
    unet, unet++, deeplab, upernet, segformer, swinunetr    with random weights, channels last
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from networks import PEERS, ROOT, losses, package_in, peer_network
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


OURS = ("eager", "fused", "compiled")
MATRIX, COPIED = 8192, 1 << 30  # bytes
TINY = {"hidden_sizes": [8, 16, 24, 32], "cnn_depths": [1, 1, 1, 1], "num_attention_heads": [2, 2, 2, 4]}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--ways", nargs="+", choices=(*OURS, *PEERS), default=[*OURS, *PEERS])
    add("--device", default="cuda", help="cuda, cuda:1, ... or cpu")
    add("--tiny", action="store_true", help="a small network of ours alone at 64 pixels, to try the script")
    add("--size", type=int, default=512)
    add("--window", type=int, default=8)
    add("--batch", type=int, default=8)
    add("--rounds", type=int, default=20)
    given = parser.parse_args()
    if given.tiny:
        given.ways, given.size, given.batch, given.rounds = ["eager", "fused"], 64, 2, 2
    return given


def main() -> int:
    given = parse()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        sys.stdout.write("This machine has no GPU that torch can use; nothing was measured.\n")
        return 0
    device = torch.device(given.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    rate, bandwidth = multiplications(device, given.tiny), copied_bytes(device, given.tiny)
    sys.stdout.write(
        f"{name}, torch {torch.__version__}: {rate / 1e12:.3g} TMAC/s in bfloat16, {bandwidth / 1e9:.3g} GB/s\n"
        f"size {given.size}, window {given.window}, batch {given.batch}, {given.rounds} rounds\n"
    )
    for training in (False, True):
        kind = "training step" if training else "inference"
        sys.stdout.write(
            f"\n| {kind} | ms | GMAC | of the GEMM rate | ms by multiply-adds | ms by memory | of the roofline | GiB |\n"
            "|---|---|---|---|---|---|---|---|\n"
        )
        ways = [way for way in given.ways if not (training and way == "fused")]
        for way, seconds, work, moved, held in measured(ways, training, given, device):
            computing, moving = work / rate, moved / bandwidth
            sys.stdout.write(
                f"| {way} | {1000 * seconds:.2f} | {work / 1e9:.0f} | {computing / seconds:.2f} | {1000 * computing:.2f} | "
                f"{1000 * moving:.2f} | {max(computing, moving) / seconds:.2f} | {held:.1f} |\n"
            )
    return 0


def measured(
    ways: list[str], training: bool, given: argparse.Namespace, device: torch.device
) -> list[tuple[str, float, float, float, float]]:
    """Of each way its name, seconds, multiply-adds, bytes that its operators move, and GiB of memory at most."""
    pixels = torch.randn(given.batch, 3, given.size, given.size, device=device)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    calls, costs = {}, {}
    for way in ways:
        model = network(way, training, given).to(device=device, memory_format=torch.channels_last)
        call = step(model, pixels, training)
        with FlopCounterMode(display=False) as counter, Traffic() as traffic:
            call()
        if way == "compiled":
            call = step(torch.compile(model), pixels, training)
        held = peak_gib(call, device)
        calls[way], costs[way] = call, (counter.get_total_flops() / 2, traffic.moved, held)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(given.rounds):
        for way, call in calls.items():
            seconds[way].append(timed(call, device))
    return [(way, statistics.median(seconds[way]), *costs[way]) for way in ways]


def network(way: str, training: bool, given: argparse.Namespace) -> nn.Module:
    if way in PEERS:
        return peer_network(way, given.size).train(training)
    torch.manual_seed(0)
    package = package_in(ROOT)
    config = package.ResFormerConfig(window_size=given.window, **(TINY if given.tiny else {}))
    model = package.ResFormerForMultiTask(config).train(training)
    return model if training or way == "eager" else model.fuse()


def step(model: nn.Module, pixels: torch.Tensor, training: bool) -> Callable[[], Any]:
    """A forward pass, or a whole training step, under autocast to bfloat16."""
    kind = pixels.device.type
    if not training:

        def answer() -> Any:
            with torch.inference_mode(), torch.autocast(kind, torch.bfloat16):
                return model(pixels)

        return answer
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def learn() -> None:
        with torch.autocast(kind, torch.bfloat16):
            loss = losses(model, pixels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return learn


class Traffic(TorchDispatchMode):
    """Counts the bytes of all tensors that operators read and write; views move none."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [one for one in tree_leaves((args, kwargs or {}, result)) if isinstance(one, torch.Tensor)]
            self.moved += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def timed(call: Callable[[], Any], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_gib(call: Callable[[], Any], device: torch.device) -> float:
    """After two calls, which let kernels be chosen and compiled; NaN on a CPU."""
    call()
    call()
    if device.type != "cuda":
        return float("nan")
    torch.cuda.reset_peak_memory_stats(device)
    call()
    return torch.cuda.max_memory_allocated(device) / 2**30


def multiplications(device: torch.device, tiny: bool) -> float:
    """Multiply-adds a second of a product of matrices in bfloat16."""
    side = 256 if tiny else MATRIX
    matrix = torch.randn(side, side, dtype=torch.bfloat16, device=device)
    return side**3 / min(timed(lambda: matrix @ matrix, device) for _ in range(20))


def copied_bytes(device: torch.device, tiny: bool) -> float:
    """Bytes a second that a copy reads and writes."""
    source = torch.zeros(COPIED >> 10 if tiny else COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * len(source) / min(timed(lambda: target.copy_(source), device) for _ in range(20))


if __name__ == "__main__":
    sys.exit(main())
