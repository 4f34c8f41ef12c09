"""The network on a GPU in several ways against the CPU: how far its answers are off, and how fast it is."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
import transformers

from ..configuration_resformer import ResFormerConfig
from ..modeling_resformer import ResFormerForMultiTask


SMALL = {
    "hidden_sizes": [8, 16, 24, 32],
    "cnn_depths": [1, 1, 1, 1],
    "num_attention_heads": [4, 4, 4, 4],
    "window_size": 4,
    "dilation_rates": [1, 2],
}
# 132 x 132 windows of 2 x 2 tokens with four heads each are 69,696 heads; CUDA's fused attention takes 65,535.
MANY_WINDOWS = {**SMALL, "window_size": 2}
MANY_WINDOWS_SIZE = 528


@dataclass(frozen=True)
class Way:
    """One way to compute the network, and how far from the CPU it may be.

    Attributes:
        name: in the report.
        logits: largest relative error of the logits, in the 2-norm.
        gradient: the same of the gradient of all parameters.
        bf16: autocast to bfloat16.
        tf32: let matrix products and convolutions round their inputs to TF32.
        attention: transformers' name of the implementation.
        channels_last: memory layout of images and convolutions.
        checkpointing: recompute activations in the backward pass.
        compiled: by torch.compile.
    """

    name: str
    logits: float
    gradient: float
    bf16: bool = False
    tf32: bool = False
    attention: str = "sdpa"
    channels_last: bool = False
    checkpointing: bool = False
    compiled: bool = False


WAYS = (
    Way("fp32", 1e-4, 2e-3),
    Way("fp32 eager", 1e-4, 2e-3, attention="eager"),
    Way("fp32 channels last", 1e-4, 2e-3, channels_last=True),
    Way("fp32 checkpointing", 1e-4, 2e-3, checkpointing=True),
    Way("tf32", 2e-2, 1e-1, tf32=True),
    Way("bf16", 1e-1, 5e-1, bf16=True),
    Way("bf16 eager", 1e-1, 5e-1, bf16=True, attention="eager"),
    Way("bf16 channels last", 1e-1, 5e-1, bf16=True, channels_last=True),
)
COMPILED = (Way("fp32 compiled", 1e-4, 2e-3, compiled=True),)
ON_CPU = Way("reference", 0, 0, attention="eager")
SPEEDS = (WAYS[0], WAYS[4], WAYS[5], WAYS[7])


def make_model(settings: dict[str, Any], way: Way, device: torch.device) -> torch.nn.Module:
    """The same weights every time, in training mode."""
    torch.manual_seed(0)
    model = ResFormerForMultiTask(ResFormerConfig(**settings, drop_path_rate=0.0)).train()
    model.set_attn_implementation(way.attention)
    if way.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    model = model.to(device=device, memory_format=layout)
    return torch.compile(model) if way.compiled else model


def random_batch(model: torch.nn.Module, batch_size: int, side: int, way: Way, device: torch.device) -> dict[str, Any]:
    """Noise of the network's input size, with blocks of random classes and random labels."""
    generator = torch.Generator().manual_seed(1)
    config = model.config
    blocks = torch.randint(
        0, len(config.mask_class_names), (batch_size, side // 8 + 1, side // 8 + 1), generator=generator
    )
    masks = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :side, :side].contiguous()
    labels = torch.randint(0, 2, (batch_size, len(config.image_class_names)), generator=generator).float()
    pixels = torch.randn(batch_size, 3, side, side, generator=generator)
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    pixels = pixels.to(device=device, memory_format=layout)
    return {"pixel_values": pixels, "mask_labels": masks.to(device), "class_labels": labels.to(device)}


def precision(way: Way, device: torch.device) -> torch.autocast | nullcontext:
    """Sets TF32 for the whole process, and gives the autocast to compute under."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = way.tf32
    return torch.autocast(device.type, torch.bfloat16) if way.bf16 else nullcontext()


def one_step(
    settings: dict[str, Any], side: int, way: Way, device: torch.device
) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Loss, all logits and all gradients of one training step on two images, as float64 on the CPU."""
    model = make_model(settings, way, device)
    batch = random_batch(model, 2, side, way, device)
    with precision(way, device):
        output = model(**batch)
    output.loss.backward()
    logits = [output.segmentation_logits, output.classification_logits]
    gradients = [parameter.grad for parameter in model.parameters()]
    vectors = [torch.cat([t.detach().double().cpu().flatten() for t in tensors]) for tensors in (logits, gradients)]
    return output.loss.item(), *vectors


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def compare_devices(
    ways: Sequence[Way], settings: dict[str, Any], side: int, device: torch.device, report: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One entry for every way; `passed` says whether both errors are within what the way allows."""
    loss, logits, gradient = one_step(settings, side, ON_CPU, torch.device("cpu"))
    entries = []
    for way in ways:
        found = one_step(settings, side, way, device)
        errors = relative_error(found[1], logits), relative_error(found[2], gradient)
        passed = errors[0] <= way.logits and errors[1] <= way.gradient
        entries.append({"way": way.name, "side": side, "loss": found[0], "loss_on_cpu": loss, "passed": passed})
        entries[-1] |= {"logits_error": errors[0], "gradient_error": errors[1], "allowed": [way.logits, way.gradient]}
        word = "ok" if passed else "FAILED"
        report(f"{way.name:20} {side:4} px  logits {errors[0]:.1e}  gradient {errors[1]:.1e}  {word}")
    return entries


def seconds_each(step: Callable[[], Any], device: torch.device, least: float) -> float:
    """Mean time of a step, after three that are not counted, over `least` seconds or more."""
    for _ in range(3):
        step()
    synchronize(device)
    started, steps = time.perf_counter(), 0
    while steps == 0 or time.perf_counter() - started < least:
        for _ in range(5 if device.type == "cuda" else 1):
            step()
            steps += 1
        synchronize(device)
    return (time.perf_counter() - started) / steps


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_speed(
    way: Way, batch_size: int, training: bool, settings: dict[str, Any], side: int, device: torch.device, least: float
) -> dict[str, Any]:
    """Images a second and peak memory of training (optimiser step included) or prediction; None if memory is short."""
    entry = {"way": way.name, "mode": "training" if training else "inference", "batch_size": batch_size, "side": side}
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        model = make_model(settings, way, device).train(training)
        batch = random_batch(model, batch_size, side, way, device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device.type == "cuda")

        def step() -> None:
            with precision(way, device), torch.set_grad_enabled(training):
                output = model(**batch) if training else model(batch["pixel_values"])
            if training:
                output.loss.backward()
                optimizer.step()
                optimizer.zero_grad()

        seconds = seconds_each(step, device, least)
    except torch.OutOfMemoryError:
        return {**entry, "images_per_second": None, "peak_memory_gib": None}
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    return {**entry, "images_per_second": batch_size / seconds, "peak_memory_gib": peak}


def describe_device(device: torch.device) -> dict[str, Any]:
    facts = {"torch": torch.__version__, "transformers": transformers.__version__, "device": "cpu"}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {"device": properties.name, "memory_gib": properties.total_memory / 2**30, "cuda": torch.version.cuda}
        facts |= {"capability": f"{properties.major}.{properties.minor}", "cudnn": torch.backends.cudnn.version()}
    return facts


def check_gpu(
    device: torch.device,
    report: Callable[[str], None],
    *,
    tiny: bool,
    compiled: bool,
    side: int,
    batch_sizes: Sequence[int],
    seconds: float,
) -> dict[str, Any]:
    """Everything that is compared and measured.

    Args:
        device: what is checked.
        report: takes every line of the report as soon as it is known.
        tiny: a small model at 48 pixels, for a machine without a GPU.
        compiled: check torch.compile too.
        side: of the images, in pixels.
        batch_sizes: to measure.
        seconds: for each measurement at least.
    """
    settings, side = (SMALL, 48) if tiny else ({}, side)
    many_side = 64 if tiny else MANY_WINDOWS_SIZE
    results = {**describe_device(device), "config": settings, "parameters": 0, "ways": [asdict(way) for way in WAYS]}
    results["parameters"] = sum(p.numel() for p in ResFormerForMultiTask(ResFormerConfig(**settings)).parameters())
    ways = (*WAYS, *(COMPILED if compiled else ()))
    results["comparisons"] = compare_devices(ways, settings, side, device, report)
    report("more windows than heads fit a CUDA grid:")
    results["many_windows"] = compare_devices((WAYS[0], WAYS[5]), MANY_WINDOWS, many_side, device, report)
    results["speed"] = []
    for batch_size in [size for size in batch_sizes if size > 0]:
        for way in SPEEDS:
            for training in (True, False):
                entry = measure_speed(way, batch_size, training, settings, side, device, seconds)
                results["speed"].append(entry)
                speed, peak = entry["images_per_second"], entry["peak_memory_gib"]
                said = "out of memory" if speed is None else f"{speed:8.1f} images/s"
                report(f"{entry['mode']:9} {way.name:18} batch {batch_size:3}  {said}  {peak or 0:.1f} GiB")
    return results
