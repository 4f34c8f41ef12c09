"""Networks that run in ONNX Runtime or OpenVINO, in the place of a pipeline's or a handler's model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx.utils import Extractor
from torch import nn
from transformers.utils import cached_file

from ..errors import BadInputError
from ..modeling_resformer import ResFormerMultiTaskOutput
from ..pipeline_resformer import TRUST
from .weights import weights_digest


FILE_NAME = "model.onnx"
# Tensors in a file of `exporting/onnx_file.py`, between which the network lies.
PIXELS, MASKS, CLASSES = "pixel_values", "segmentation_logits", "classification_logits"
# From (B, C, H, W) `pixel_values` to a network's outputs by name.
Runner = Callable[[np.ndarray], dict[str, np.ndarray]]


class OnnxNetwork(nn.Module):
    """A model whose logits, and what says how far to trust them, another runtime computes; everything else of it is its own.

    Args:
        model: whose place it takes.
        run: from `pixel_values` to its logits by name.
        precision: of the file, as `onnx_file.file_metadata` names it.
    """

    def __init__(self, model: nn.Module, run: Runner, precision: str = "float32") -> None:
        super().__init__()
        self.__dict__["model"] = model
        self.run = run
        self.precision = precision
        self.training = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["model"], name)

    def forward(self, pixel_values: torch.Tensor) -> ResFormerMultiTaskOutput:
        """(B, C, H, W) -> the logits that the model has."""
        pixels = np.ascontiguousarray(pixel_values.detach().float().numpy())
        return ResFormerMultiTaskOutput(**{name: torch.from_numpy(one) for name, one in self.run(pixels).items()})

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """The model's."""
        return self.__dict__["model"].state_dict(*args, **kwargs)


def onnx_network(model: nn.Module, name: str, revision: str | None = None, runtime: str = "onnx") -> OnnxNetwork:
    """The network of `model.onnx` beside a checkpoint, with as many threads as torch has.

    Args:
        model: the checkpoint's.
        name: folder or Hub id of the checkpoint.
        revision: of a Hub id.
        runtime: "onnx" or "openvino".

    Raises:
        BadInputError: there is no such file, or it was made from other weights.
    """
    path = cached_file(name, FILE_NAME, revision=revision, _raise_exceptions_for_missing_entries=False)
    if path is None:
        raise BadInputError(f"{name}: holds no {FILE_NAME}; write one with scripts/export.py --model {name}")
    whole = onnx.load(path)
    facts = known(whole)
    if facts.get("weights") != weights_digest(model):
        raise BadInputError(
            f"{Path(path)}: made from other weights than the checkpoint's; run scripts/export.py again"
        )
    runner = openvino_runner if runtime == "openvino" else onnxruntime_runner
    return OnnxNetwork(model, runner(network_of(whole)), facts.get("precision", "float32"))


def onnxruntime_runner(network: onnx.ModelProto) -> Runner:
    """A network in ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(network.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(pixels: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {PIXELS: pixels}), strict=True))

    return run


def openvino_runner(network: onnx.ModelProto) -> Runner:
    """A network in OpenVINO on the CPU, in the precision of the file also where a CPU has a faster one."""
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(core.read_model(network.SerializeToString()), "CPU", settings)
    names = [output.name for output in network.graph.output]

    def run(pixels: np.ndarray) -> dict[str, np.ndarray]:
        # A request of its own, since the one that a compiled model keeps serves one thread.
        answers = compiled.create_infer_request().infer({PIXELS: pixels})
        return {name: np.array(answers[name]) for name in names}

    return run


def network_of(whole: onnx.ModelProto) -> onnx.ModelProto:
    """The network in a file, from `pixel_values` to logits."""
    names = {value.name for value in whole.graph.value_info}
    network = Extractor(whole).extract_model([PIXELS], [name for name in (MASKS, CLASSES, *TRUST) if name in names])
    network.ir_version = whole.ir_version
    return network


def known(whole: onnx.ModelProto) -> dict[str, Any]:
    """What `onnx_file.file_metadata` wrote into a file."""
    return {one.key: json.loads(one.value) for one in whole.metadata_props}
