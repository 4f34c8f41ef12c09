"""Writes a checkpoint as one ONNX file that answers like the pipeline."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn
from torch.export import Dim
from torch.fx.experimental import _config as shape_config

from ..configuration_resformer import DOUBTS, __version__
from ..errors import BadInputError
from ..files import whole_file
from ..pipeline_resformer import ResFormerPipeline, named_logits, trust_of
from .analysis_graph import FILTERS, OPSET, AnalysisSettings, analysis_model
from .onnx_network import CLASSES, MASKS, PIXELS
from .weights import weights_digest


MOST_MASK_CLASSES = 256  # their indices are 8-bit


class Network(nn.Module):
    """A model from pixel values to its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(named_logits(self.model(pixel_values)).values())


def export(pipe: ResFormerPipeline, path: Path, half: bool = False) -> None:
    """Writes a pipeline's model, its image processor's steps and its decisions as an ONNX file.

    Args:
        pipe: with a float32 model on the CPU, in evaluation mode.
        path: of the file.
        half: whether the network computes in float16; inputs and outputs stay what they are.

    Raises:
        BadInputError: the image processor has a setting that no graph can follow.
    """
    settings = analysis_settings(pipe)
    network = network_model(pipe.model, settings)
    if half:
        network = in_float16(network)
    write_file(path, pipe, settings, network, "float16" if half else "float32")


def write_file(
    path: Path,
    pipe: ResFormerPipeline,
    settings: AnalysisSettings,
    network: onnx.ModelProto,
    precision: str,
    measured: dict[str, Any] | None = None,
) -> None:
    """Writes a network with what stands around it, and what is known of it.

    Args:
        path: of the file.
        pipe: whose network it is.
        settings: of that pipeline.
        network: from `pixel_values` to logits.
        precision: in which it computes.
        measured: what that costs, for the metadata.
    """
    whole = analysis_model(network, settings)
    onnx.helper.set_model_props(whole, file_metadata(pipe, settings, precision, measured))
    onnx.checker.check_model(whole)
    with whole_file(path) as beside:
        onnx.save(whole, beside)


def in_float16(network: onnx.ModelProto) -> onnx.ModelProto:
    """A network that computes in float16, from float32 to float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = OnnxModel(convert_float_to_float16(network, keep_io_types=True))
    model.topological_sort()  # the casts of its inputs stand last
    return model.model


def analysis_settings(pipe: ResFormerPipeline) -> AnalysisSettings:
    """What the graph has to do around the network.

    Raises:
        BadInputError: the image processor has a setting that no graph can follow.
    """
    processor, config = pipe.image_processor, pipe.model.config
    if config.num_channels != 3 or processor.intensity_range is not None:
        raise BadInputError(
            f"num_channels={config.num_channels}, intensity_range={processor.intensity_range}: the file takes 8-bit RGB "
            "images; expected 3 channels and no intensity_range. Use the pipeline for others."
        )
    if processor.do_resize and int(processor.resample) not in FILTERS:
        raise BadInputError(
            f"resample={processor.resample}: only bilinear (2) and bicubic (3) can be exported; set one and train with it."
        )
    mask_classes = len(config.mask_class_names) if hasattr(pipe.model, "segmentation_head") else 0
    if mask_classes > MOST_MASK_CLASSES:
        raise BadInputError(f"{mask_classes} mask classes: the file's masks are 8-bit; expected 256 or fewer.")
    image_classes = len(config.image_class_names) if hasattr(pipe.model, "classification_head") else 0
    scale, offset = np.ones(3), np.zeros(3)
    if processor.do_rescale:
        scale = scale * processor.rescale_factor
    if processor.do_normalize:
        mean, std = np.asarray(processor.image_mean, np.float64), np.asarray(processor.image_std, np.float64)
        scale, offset = scale / std, offset - mean / std
    return AnalysisSettings(
        size=(processor.size["height"], processor.size["width"]) if processor.do_resize else None,
        keep_aspect_ratio=bool(processor.do_resize and processor.keep_aspect_ratio),
        keep_largest_component=bool(processor.keep_largest_component),
        resample=int(processor.resample),
        scale=scale.tolist(),
        offset=offset.tolist(),
        mask_classes=mask_classes,
        image_classes=image_classes,
        thresholds=config.decision_thresholds() if image_classes else None,
        trust=trust_of(pipe.model),
    )


def network_model(model: nn.Module, settings: AnalysisSettings) -> onnx.ModelProto:
    """A network as ONNX, for any batch, and for any size where images keep theirs."""
    height, width = settings.size or (64, 96)
    dynamic = {0: Dim.DYNAMIC} if settings.size else {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    outputs = [name for name, count in ((MASKS, settings.mask_classes), (CLASSES, settings.image_classes)) if count]
    outputs += settings.trust
    example = torch.zeros(2, 3, height, width)
    with torch.no_grad(), shape_config.patch(backed_size_oblivious=True):
        program = torch.export.export(Network(model), (example,), dynamic_shapes=(dynamic,))
        exported = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, input_names=[PIXELS], output_names=outputs, verbose=False
        )
    network = exported.model_proto
    regroup_gelus(network.graph)
    return network


def regroup_gelus(graph: onnx.GraphProto) -> None:
    """Makes x (1/2 (1 + erf)) of the exporter into (x (1 + erf)) 1/2: the same bits, and what ONNX Runtime knows as GELU.

    Then it computes that in one pass, where it took five.
    """
    halves = {one.name for one in graph.initializer if not one.dims and numpy_helper.to_array(one).item() == 0.5}
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)

    def only_reader(node: onnx.NodeProto, kind: str) -> onnx.NodeProto | None:
        found = readers[node.output[0]]
        return found[0] if len(found) == 1 and found[0].op_type == kind else None

    for erf in graph.node:
        plus_one = only_reader(erf, "Add") if erf.op_type == "Erf" else None
        halved = plus_one and only_reader(plus_one, "Mul")
        product = halved and only_reader(halved, "Mul")
        half = product and next((name for name in halved.input if name in halves), None)
        if half is None:
            continue
        (x,) = (name for name in product.input if name != halved.output[0])
        halved.input[:] = [x, plus_one.output[0]]
        product.input[:] = [halved.output[0], half]


def file_metadata(
    pipe: ResFormerPipeline, settings: AnalysisSettings, precision: str, measured: dict[str, Any] | None = None
) -> dict[str, str]:
    """What a reader of the file has to know, each value as JSON."""
    config = pipe.model.config
    values: dict[str, Any] = {
        "resformer_version": __version__,
        "size": settings.size,
        "keep_aspect_ratio": settings.keep_aspect_ratio,
        "keep_largest_component": settings.keep_largest_component,
        "precision": precision,
        **({} if measured is None else {"measured": measured}),
        "weights": weights_digest(pipe.model),
    }
    if settings.mask_classes:
        values["mask_classes"] = config.mask_class_names
    if settings.image_classes:
        values["image_classes"] = config.image_class_names
        values["classification_type"] = config.classification_type
        values["thresholds"] = settings.thresholds
        values["label_set_thresholds"] = config.label_set_thresholds
        values["label_set_level"] = config.label_set_level
    if settings.trust:
        values["distance_limit"] = config.distance_limit
        values["confidence_limit"] = config.confidence_limit
        values["doubts"] = DOUBTS
    return {name: json.dumps(value) for name, value in values.items()}
