"""From an image file to its mask and labels: a checkpoint beside smp's Unet with ResNet-34, behind the same pipeline.

    taskset -c 1 python benchmarks/speed/end_to_end.py --model hub_cards/resformer-lite-isic2017 --rounds 7

Decoding, resizing, the network, and mask and scores at the image's own size, with the checkpoint's image processor for both; the
Unet has the same classes and random weights, and what is made into masks and scores are the checkpoint's logits for both, since the time
of that depends on them. Times are CPU times on one thread of all images given, by default the checkpoint's
examples; rounds alternate. The lines below say where the time of each way goes.

    loaded    the checkpoint as the pipeline loads it, which is its evaluation form
    onnx      its network in ONNX Runtime
    unet, unet-onnx    smp's Unet by torch, channels last, and in ONNX Runtime
"""

import argparse
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from model import onnx_graph
from networks import alternating, cpu_seconds, middle_ratio
from torch import nn

from modeling_resformer.configuration_resformer import ResFormerConfig
from modeling_resformer.exporting.onnx_network import OnnxNetwork, Runner, onnxruntime_runner
from modeling_resformer.pipeline_resformer import ResFormerPipeline, named_logits
from modeling_resformer.prediction.predictor import load_pipeline
from modeling_resformer.rivals.rival_models import RivalConfig, RivalForMultiTask


WAYS = ("loaded", "onnx", "unet-onnx", "unet")
STEPS = ("preprocess", "_forward", "postprocess")  # of a pipeline


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", required=True, help="a checkpoint's folder")
    add("images", nargs="*", type=Path, help="image files (default: the checkpoint's examples)")
    add("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="the last is compared with")
    add("--rounds", type=int, default=7)
    return parser.parse_args()


def main() -> None:
    given = parse()
    torch.set_num_threads(1)
    images = [str(path) for path in given.images or sorted((Path(given.model) / "examples").glob("*.jpg"))]
    pipes = {way: pipeline(way, given.model) for way in given.ways}
    spent = {way: watched(pipe) for way, pipe in pipes.items()}
    calls = {way: lambda pipe=pipe: pipe(images) for way, pipe in pipes.items()}
    for way, call in calls.items():
        call()
        spent[way].clear()
    seconds, _ = alternating(calls, given.rounds)
    sys.stdout.write(
        f"{len(images)} images, {given.rounds} rounds\n"
        f"| way | CPU ms an image | {given.ways[-1]} / it | {' | '.join(STEPS)} | rest |\n|---|---|---|---|---|---|---|\n"
    )
    for way, times in seconds.items():
        each = 1000 * statistics.median(times) / len(images)
        steps = [each * spent[way][step] / sum(times) for step in STEPS]
        ratio = middle_ratio(seconds[given.ways[-1]], times)
        cells = " | ".join(f"{one:.1f}" for one in [*steps, each - sum(steps)])
        sys.stdout.write(f"| {way} | {each:.1f} | {ratio:.2f} | {cells} |\n")


def pipeline(way: str, folder: str) -> ResFormerPipeline:
    pipe = load_pipeline(folder, None, torch.device("cpu"))
    height, width = pipe.image_processor.size["height"], pipe.image_processor.size["width"]
    if way == "onnx":
        example = torch.zeros(1, 3, height, width)
        compute = onnxruntime_runner(onnx_graph(pipe.model, example))
        names = list(named_logits(pipe.model(example)))
        pipe.model = OnnxNetwork(pipe.model, lambda pixels: dict(zip(names, compute(pixels).values(), strict=True)))
    if way.startswith("unet"):
        other, answers = unet(pipe.model.config, height), answers_of(pipe.model)
        if way == "unet":
            other = other.to(memory_format=torch.channels_last)
            compute = lambda pixels: other(torch.from_numpy(pixels).contiguous(memory_format=torch.channels_last))  # noqa: E731
        else:
            compute = onnxruntime_runner(onnx_graph(other, torch.zeros(1, 3, height, width)))
        pipe.model = OnnxNetwork(pipe.model, lambda pixels: (compute(pixels), answers(pixels))[1])
    return pipe


def answers_of(model: nn.Module) -> Runner:
    """A model's logits by name, computed once for every input."""
    known: dict[int, dict[str, np.ndarray]] = {}

    def run(pixels: np.ndarray) -> dict[str, np.ndarray]:
        key = hash(pixels.tobytes())
        if key not in known:
            known[key] = {name: one.numpy() for name, one in named_logits(model(torch.from_numpy(pixels))).items()}
        return known[key]

    return run


def unet(config: ResFormerConfig, side: int) -> RivalForMultiTask:
    """With a checkpoint's classes, thresholds and decisions."""
    kept = ("id2label", "classification_labels", "classification_type", "classification_thresholds")
    names = {name: getattr(config, name) for name in kept}
    return RivalForMultiTask(RivalConfig(rival="smp/Unet:resnet34", image_size=side, **names)).eval()


def watched(pipe: ResFormerPipeline) -> dict[str, float]:
    """CPU seconds by step, which go on being counted."""
    spent: dict[str, float] = defaultdict(float)
    for step in STEPS:
        plain = getattr(pipe, step)

        def counted(*args: object, step: str = step, plain: object = plain, **options: object) -> object:
            answers: list[object] = []
            spent[step] += cpu_seconds(lambda: answers.append(plain(*args, **options)))
            return answers[0]

        setattr(pipe, step, counted)
    return spent


if __name__ == "__main__":
    main()
