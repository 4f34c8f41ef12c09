"""How fast the network answers: as loaded, fused, compiled and in ONNX Runtime, beside other networks.

    git worktree add /tmp/before COMMIT
    taskset -c 1 python benchmarks/speed/model.py --baseline /tmp/before --size 224 --window 7 --rounds 7
    python benchmarks/speed/model.py --model hub_cards/resformer-lite-isic2017 --ways loaded fused onnx unet

A round asks every way once, in turn, so that what else a machine does falls on all. Times are CPU times of one forward pass on
one thread. The table gives, as medians over the rounds, the time, how many times as fast as the first way that is, and the share
of the rate at which the same round multiplied matrices in float32; multiply-adds are counted by torch.

    baseline   the code in --baseline, as it loads a checkpoint
    loaded     this code, as it loads a checkpoint
    fused      its evaluation form
    compiled   torch.compile of that
    onnx       ONNX Runtime on that
    unet, deeplab, segformer, upernet    smp's Unet and DeepLabV3+ with ResNet-34, transformers' SegFormer-b2 and
                                         UPerNet-Swin-T, with random weights, channels last
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


ROOT = Path(__file__).parents[2]
OURS = ("baseline", "loaded", "fused", "compiled", "onnx")
PEERS = ("unet", "deeplab", "segformer", "upernet")
PACKAGE = "modeling_resformer"
MATRIX = 1024


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--ways", nargs="+", choices=(*OURS, *PEERS), default=["baseline", "loaded", "fused", "onnx"])
    add("--baseline", type=Path, help="a checkout of other code to compare with")
    add("--model", help="a checkpoint; by default the paper's network with random weights")
    add("--size", type=int, default=224)
    add("--window", type=int, default=7)
    add("--batch", type=int, default=1)
    add("--rounds", type=int, default=7)
    given = parser.parse_args()
    if "baseline" in given.ways and given.baseline is None:
        parser.error("--baseline is missing; give a checkout of the other code, or --ways without baseline")
    return given


def main() -> None:
    given = parse()
    torch.set_num_threads(1)
    pixels = torch.randn(given.batch, 3, given.size, given.size)
    with torch.no_grad():
        forwards, macs = prepared_ways(given, pixels)
        rates: list[float] = []
        seconds: dict[str, list[float]] = {way: [] for way in given.ways}
        for _ in range(given.rounds):
            rates.append(multiplication_rate())
            for way, forward in forwards.items():
                seconds[way].append(cpu_seconds(forward))
    sys.stdout.write(f"size {given.size}, window {given.window}, batch {given.batch}, {given.rounds} rounds\n")
    sys.stdout.write("| way | CPU seconds | times as fast | GMAC | of the GEMM rate |\n|---|---|---|---|---|\n")
    for way, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[given.ways[0]], times, strict=True))
        share = statistics.median(macs[way] / s / rate for s, rate in zip(times, rates, strict=True))
        middle = statistics.median(times)
        sys.stdout.write(f"| {way} | {middle:.3f} | {ratio:.2f} | {macs[way] / 1e9:.1f} | {share:.2f} |\n")


def multiplication_rate() -> float:
    """Multiply-adds a second of CPU time of a square matrix product, the best of three."""
    matrix = torch.rand(MATRIX, MATRIX)
    return MATRIX**3 / min(cpu_seconds(lambda: matrix @ matrix) for _ in range(3))


def cpu_seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def prepared_ways(
    given: argparse.Namespace, pixels: torch.Tensor
) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    """The forward pass of every way, run once, and its multiply-adds."""
    forwards, macs = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        if given.model is None:
            torch.manual_seed(0)
            package = package_in(ROOT)
            package.ResFormerForMultiTask(package.ResFormerConfig(window_size=given.window)).save_pretrained(folder)
        for way in given.ways:
            model = peer(way) if way in PEERS else ours(way, given.model or folder, given.baseline)
            with FlopCounterMode(display=False) as counter:
                model(pixels)
            macs[way] = counter.get_total_flops() / 2
            forwards[way] = runner(way, model, pixels)
            forwards[way]()
    return forwards, macs


def package_in(checkout: Path) -> ModuleType:
    """The package of a checkout; one of another that is imported already goes on working."""
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]
    sys.path.insert(0, str(checkout))
    try:
        return __import__(PACKAGE)
    finally:
        del sys.path[0]


def ours(way: str, folder: str, baseline: Path | None) -> nn.Module:
    package = package_in(baseline if way == "baseline" else ROOT)
    model = package.ResFormerForMultiTask.from_pretrained(folder).eval()
    return model if way in ("baseline", "loaded") else model.fuse()


def runner(way: str, model: nn.Module, pixels: torch.Tensor) -> Callable[[], object]:
    if way == "onnx":
        return onnx_runner(model, pixels)
    if way in PEERS:
        model, pixels = (x.to(memory_format=torch.channels_last) for x in (model, pixels))
    if way == "compiled":
        model = torch.compile(model)
    return lambda: model(pixels)


def onnx_runner(model: nn.Module, pixels: torch.Tensor) -> Callable[[], object]:
    import onnxruntime

    from modeling_resformer.exporting.analysis_graph import AnalysisSettings
    from modeling_resformer.exporting.onnx_file import network_model

    config = model.config
    classes = len(config.mask_class_names), len(config.image_class_names)
    settings = AnalysisSettings(
        size=tuple(pixels.shape[2:]),
        keep_aspect_ratio=False,
        keep_largest_component=False,
        resample=2,
        scale=[1] * 3,
        offset=[0] * 3,
        mask_classes=classes[0],
        image_classes=classes[1],
        thresholds=None,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    content = network_model(model, settings).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    array = pixels.numpy()
    return lambda: session.run(None, {"pixel_values": array})


def peer(way: str) -> nn.Module:
    if way in ("unet", "deeplab"):
        import segmentation_models_pytorch as smp

        kind = smp.Unet if way == "unet" else smp.DeepLabV3Plus
        return kind("resnet34", encoder_weights=None, classes=2).eval()
    from transformers import (
        SegformerConfig,
        SegformerForSemanticSegmentation,
        SwinConfig,
        UperNetConfig,
        UperNetForSemanticSegmentation,
    )

    if way == "segformer":
        sizes = {"depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768}
        return SegformerForSemanticSegmentation(SegformerConfig(num_labels=2, **sizes)).eval()
    backbone = SwinConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
    return UperNetForSemanticSegmentation(UperNetConfig(backbone_config=backbone, num_labels=2)).eval()


if __name__ == "__main__":
    main()
