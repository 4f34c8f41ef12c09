"""How fast the network answers, or learns: as loaded, fused, compiled and in other runtimes, beside other networks.

    git worktree add /tmp/before COMMIT
    taskset -c 1 python benchmarks/speed/model.py --baseline /tmp/before --size 224 --window 7 --rounds 7
    taskset -c 1 python benchmarks/speed/model.py --baseline /tmp/before --training --ways baseline loaded
    taskset -c 1 python benchmarks/speed/model.py --ways loaded fused onnx unet unet-onnx segformer segformer-onnx
    taskset -c 1 python benchmarks/speed/model.py --model hub_cards/resformer-lite-isic2017 --ways loaded fused onnx unet

A round asks every way once, in turn, so that what else a machine does falls on all. Times are CPU times of one forward pass on
one thread; with --training of a forward and a backward pass. The table gives, as medians over the rounds, the time, how many
times as fast as the first way that is, and the share of the rate at which the same round multiplied matrices in float32;
multiply-adds of the forward pass are counted by torch, a training step has three times as many. Memory is, of a forward pass,
what torch allocates at most beyond the weights, and of a training step what the forward pass leaves for the backward pass.

    baseline   the code in --baseline, as it loads a checkpoint
    loaded     this code, as it loads a checkpoint
    fused      its evaluation form
    compiled   torch.compile of that; of the plain form where it is trained
    onnx, openvino, int8    ONNX Runtime or OpenVINO on the fused form, and ONNX Runtime on its convolutions in 8-bit integers
    unet, unet++, deeplab, upernet, segformer, swinunetr    with random weights, channels last; with -onnx in ONNX Runtime

--profile adds which kinds of operators the time of each way goes to, as torch's and ONNX Runtime's profilers tell.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from networks import (
    OURS,
    PEER_WAYS,
    PEERS,
    TRAINED,
    alternating,
    middle_ratio,
    our_network,
    peer_network,
    save_paper_network,
    saved_megabytes,
    training_step,
)
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode


if TYPE_CHECKING:
    import onnx

HEADER = (
    "| way | CPU seconds | times as fast | GMAC | ms a GMAC | of the GEMM rate | MB |\n|---|---|---|---|---|---|---|\n"
)
IN_ONNX = ("onnx", "openvino", "int8")
MOST_KINDS, PROFILED = 8, 5


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--ways", nargs="+", choices=(*OURS, *PEER_WAYS), default=["baseline", "loaded", "fused", "onnx"])
    add("--baseline", type=Path, help="a checkout of other code to compare with")
    add("--model", help="a checkpoint; by default the paper's network with random weights")
    add("--size", type=int, default=224)
    add("--window", type=int, default=7)
    add("--batch", type=int, default=1)
    add("--rounds", type=int, default=7)
    add("--training", action="store_true", help="a training step in place of a forward pass")
    add("--profile", action="store_true", help="also the shares of kinds of operators")
    given = parser.parse_args()
    if "baseline" in given.ways and given.baseline is None:
        parser.error("--baseline is missing; give a checkout of the other code, or --ways without baseline")
    if given.training and (others := [way for way in given.ways if way not in (*TRAINED, *PEERS)]):
        parser.error(f"--training of {others[0]}: only {', '.join((*TRAINED, *PEERS))} are trained")
    return given


def main() -> None:
    given = parse()
    torch.set_num_threads(1)
    pixels = torch.randn(given.batch, 3, given.size, given.size)
    calls, macs, megabytes = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder, torch.set_grad_enabled(given.training):
        if given.model is None:
            save_paper_network(folder, given.window)
        for way in given.ways:
            model = network(way, given, folder)
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                model.eval()(pixels)
            macs[way] = counter.get_total_flops() / 2
            if given.training:
                megabytes[way] = saved_megabytes(model, pixels)
                calls[way] = training_step(torch.compile(model) if way == "compiled" else model, pixels)
                calls[way]()
            else:
                calls[way] = runner(way, model, pixels)
                calls[way]()
                megabytes[way] = None if way.endswith(IN_ONNX) or way == "compiled" else peak_megabytes(calls[way])
        seconds, rates = alternating(calls, given.rounds)
        shares = {way: operator_shares(calls[way]) for way in given.ways if given.profile}
    kind = "training" if given.training else "inference"
    sys.stdout.write(f"{kind}, size {given.size}, window {given.window}, batch {given.batch}, {given.rounds} rounds\n")
    sys.stdout.write(HEADER)
    for way, times in seconds.items():
        work = macs[way] * (3 if given.training else 1)
        share = statistics.median(work / s / rate for s, rate in zip(times, rates, strict=True))
        middle, ratio = statistics.median(times), middle_ratio(seconds[given.ways[0]], times)
        memory = "" if megabytes[way] is None else f"{megabytes[way]:.0f}"
        sys.stdout.write(
            f"| {way} | {middle:.3f} | {ratio:.2f} | {macs[way] / 1e9:.1f} | {middle / work * 1e12:.1f} | {share:.2f} | {memory} |\n"
        )

    for way, kinds in shares.items():
        told = ", ".join(f"{kind} {share:.0%}" for kind, share in kinds.most_common(MOST_KINDS))
        sys.stdout.write(f"{way}: {told}\n")


def operator_shares(call: Callable[[], object]) -> Counter[str]:
    """The share of each kind of operator in the time of a call."""
    session = getattr(call, "session", None)
    spent: Counter[str] = Counter()
    if session is None:
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            call()
        for event in seen.key_averages():
            spent[event.key.removeprefix("aten::")] += event.self_cpu_time_total
    else:
        with tempfile.TemporaryDirectory() as folder:
            profiled = session(f"{folder}/profile")
            for _ in range(PROFILED):
                profiled()
            for event in json.loads(Path(profiled.end()).read_text()):
                if event.get("cat") == "Node":
                    spent[event["args"]["op_name"]] += event["dur"]
    total = sum(spent.values())
    return Counter({kind: time / total for kind, time in spent.items()})


def network(way: str, given: argparse.Namespace, folder: str) -> nn.Module:
    """What a way runs, or makes its file of."""
    peer = way.removesuffix("-onnx")
    if peer in PEERS:
        return peer_network(peer, given.size)
    form = "loaded" if given.training and way == "compiled" else way
    return our_network(form, given.model or folder, given.baseline)


def peak_megabytes(call: Callable[[], object]) -> float:
    """What torch holds at most during a call, beyond what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    held = highest = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    return highest / 1e6


def runner(way: str, model: nn.Module, pixels: torch.Tensor) -> Callable[[], object]:
    if way.endswith(IN_ONNX):
        return onnx_runner(way, model, pixels)
    if way in PEERS:
        pixels = pixels.to(memory_format=torch.channels_last)
    if way == "compiled":
        model = torch.compile(model)
    return lambda: model(pixels)


def onnx_runner(way: str, model: nn.Module, pixels: torch.Tensor) -> Callable[[], object]:
    from modeling_resformer.exporting.onnx_network import openvino_runner

    graph, array = onnx_graph(model, pixels), pixels.numpy()
    if way == "int8":
        from modeling_resformer.exporting.eight_bits import in_int8

        graph = in_int8(graph, [array])  # other images would make other scales, at the same speed
    if way == "openvino":
        run = openvino_runner(graph)
        return lambda: run(array)
    return OnnxCall(graph, array)


class OnnxCall:
    """Runs a graph in ONNX Runtime on one thread.

    Args:
        graph: from `pixel_values`.
        array: its input.
        profile: file that a profile's name begins with; none by default.
    """

    def __init__(self, graph: "onnx.ModelProto", array: np.ndarray, profile: str | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, profile
        self.graph, self.array = graph, array
        self.runtime = onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self) -> list[np.ndarray]:
        return self.runtime.run(None, {"pixel_values": self.array})

    def session(self, profile: str) -> "OnnxCall":
        """Another, which is profiled."""
        return OnnxCall(self.graph, self.array, profile)

    def end(self) -> str:
        """Writes the profile; returns the file's name."""
        return self.runtime.end_profiling()


def onnx_graph(model: nn.Module, pixels: torch.Tensor) -> "onnx.ModelProto":
    """A network from `pixel_values` to logits, for this size and any batch."""
    from modeling_resformer.exporting.analysis_graph import AnalysisSettings
    from modeling_resformer.exporting.onnx_file import network_model

    config = model.config
    settings = AnalysisSettings(
        size=tuple(pixels.shape[2:]),
        keep_aspect_ratio=False,
        keep_largest_component=False,
        resample=2,
        scale=[1] * 3,
        offset=[0] * 3,
        mask_classes=len(config.mask_class_names),
        image_classes=len(config.image_class_names) if hasattr(model, "classification_head") else 0,
        thresholds=None,
    )
    return network_model(model, settings)


if __name__ == "__main__":
    main()
