"""The networks that the benchmarks of this folder run: ours in every form, and those of other libraries."""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import nn


ROOT = Path(__file__).parents[2]
PACKAGE = "modeling_resformer"
OURS = ("baseline", "loaded", "fused", "compiled", "onnx", "openvino", "int8")
TRAINED = ("baseline", "loaded", "compiled")  # the forms of ours that are trained
PEERS = {
    "unet": "smp/Unet:resnet34",
    "unet++": "smp/UnetPlusPlus:resnet34",
    "deeplab": "smp/DeepLabV3Plus:resnet34",
    "upernet": "transformers/upernet-swin-tiny",
    "segformer": "transformers/segformer-b2",
    "swinunetr": "monai/SwinUNETR",
}
PEER_WAYS = tuple(f"{peer}{way}" for peer in PEERS for way in ("", "-onnx"))
MATRIX = 1024
MASK_CLASSES = 2


def package_in(checkout: Path) -> ModuleType:
    """The package of a checkout; one of another that is imported already goes on working."""
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]
    sys.path.insert(0, str(checkout))
    try:
        return __import__(PACKAGE)
    finally:
        del sys.path[0]


def our_network(way: str, folder: str, baseline: Path | None) -> nn.Module:
    """Ours, as a way of `OURS` asks of torch, in evaluation mode."""
    package = package_in(baseline if way == "baseline" else ROOT)
    model = package.ResFormerForMultiTask.from_pretrained(folder).eval()
    return model if way in ("baseline", "loaded") else model.fuse()


def save_paper_network(folder: str, window: int) -> None:
    """The paper's network with random weights, as a checkpoint."""
    torch.manual_seed(0)
    package = package_in(ROOT)
    package.ResFormerForMultiTask(package.ResFormerConfig(window_size=window)).save_pretrained(folder)


def peer_network(name: str, size: int) -> nn.Module:
    """Another library's network for masks, with random weights, channels last, in evaluation mode."""
    from modeling_resformer.rivals.rival_models import RivalConfig, RivalForSemanticSegmentation

    config = RivalConfig(rival=PEERS[name], image_size=size, num_labels=MASK_CLASSES)
    return RivalForSemanticSegmentation(config).eval().to(memory_format=torch.channels_last)


def losses(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """What a training step goes down by: the model's own loss for labels that are all background."""
    masks = torch.zeros(len(pixels), *pixels.shape[2:], dtype=torch.long, device=pixels.device)
    if not hasattr(model, "classification_head"):
        return model(pixels, labels=masks).loss
    classes = torch.zeros(len(pixels), len(model.config.image_class_names), device=pixels.device)
    return model(pixels, mask_labels=masks, class_labels=classes).loss


def training_step(model: nn.Module, pixels: torch.Tensor) -> Callable[[], None]:
    """Forward and backward pass; the gradients are dropped. The model is put into training mode."""
    model.train()

    def step() -> None:
        losses(model, pixels).backward()
        model.zero_grad()

    return step


def saved_megabytes(model: nn.Module, pixels: torch.Tensor) -> float:
    """What one forward pass in training leaves for the backward pass: every storage once, weights and buffers not."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses(model, pixels)
    return sum(storage.nbytes() for storage in storages.values()) / 1e6


def cpu_seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def multiplication_rate() -> float:
    """Multiply-adds a second of CPU time of a square matrix product, the best of three."""
    matrix = torch.rand(MATRIX, MATRIX)
    return MATRIX**3 / min(cpu_seconds(lambda: matrix @ matrix) for _ in range(3))


def alternating(calls: dict[str, Callable[[], object]], rounds: int) -> tuple[dict[str, list[float]], list[float]]:
    """CPU seconds of every call in every round, in which all have their turn, and the rounds' multiplication rates."""
    rates: list[float] = []
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        rates.append(multiplication_rate())
        for name, call in calls.items():
            seconds[name].append(cpu_seconds(call))
    return seconds, rates


def middle_ratio(ones: list[float], others: list[float]) -> float:
    """The median of the quotients of two series that were measured side by side."""
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))
