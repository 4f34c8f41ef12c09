"""Networks that run in ONNX Runtime, in the place of a pipeline's or a handler's model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
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


class OnnxNetwork(nn.Module):
    """A model whose logits, and what says how far to trust them, come from a session; everything else of it is the model's own.

    Args:
        model: whose place it takes.
        session: from `pixel_values` to its logits.
    """

    def __init__(self, model: nn.Module, session: onnxruntime.InferenceSession) -> None:
        super().__init__()
        self.__dict__["model"] = model
        self.session = session
        self.training = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["model"], name)

    def forward(self, pixel_values: torch.Tensor) -> ResFormerMultiTaskOutput:
        """(B, C, H, W) -> the logits that the model has."""
        pixels = np.ascontiguousarray(pixel_values.detach().float().numpy())
        names = [output.name for output in self.session.get_outputs()]
        logits = self.session.run(names, {PIXELS: pixels})
        return ResFormerMultiTaskOutput(
            **{name: torch.from_numpy(one) for name, one in zip(names, logits, strict=True)}
        )

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """The model's."""
        return self.__dict__["model"].state_dict(*args, **kwargs)


def onnx_network(model: nn.Module, name: str, revision: str | None = None) -> OnnxNetwork:
    """The network of `model.onnx` beside a checkpoint, with as many threads as torch has.

    Args:
        model: the checkpoint's.
        name: folder or Hub id of the checkpoint.
        revision: of a Hub id.

    Raises:
        BadInputError: there is no such file, or it was made from other weights.
    """
    path = cached_file(name, FILE_NAME, revision=revision, _raise_exceptions_for_missing_entries=False)
    if path is None:
        raise BadInputError(f"{name}: holds no {FILE_NAME}; write one with scripts/export.py --model {name}")
    whole = onnx.load(path)
    if known(whole).get("weights") != weights_digest(model):
        raise BadInputError(
            f"{Path(path)}: made from other weights than the checkpoint's; run scripts/export.py again"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    content = network_of(whole).SerializeToString()
    return OnnxNetwork(model, onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]))


def network_of(whole: onnx.ModelProto) -> onnx.ModelProto:
    """The network in a file, from `pixel_values` to logits."""
    names = {value.name for value in whole.graph.value_info}
    network = Extractor(whole).extract_model([PIXELS], [name for name in (MASKS, CLASSES, *TRUST) if name in names])
    network.ir_version = whole.ir_version
    return network


def known(whole: onnx.ModelProto) -> dict[str, Any]:
    """What `onnx_file.file_metadata` wrote into a file."""
    return {one.key: json.loads(one.value) for one in whole.metadata_props}
