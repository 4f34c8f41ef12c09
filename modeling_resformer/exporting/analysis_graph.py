"""The ONNX graph around a network: from 8-bit images of any size to masks of that size, scores and decisions.

All operators are in the plain builds of ONNX Runtime, the one for web pages among them. Masks and scores are those of
`ResFormerImageProcessor`, before and after the network.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from .component_steps import add_largest_components
from .graph_nodes import Nodes
from .onnx_network import CLASSES, MASKS, PIXELS


OPSET = 18  # the first whose Resize takes away what a smaller image cannot show, as image processors do
IR_VERSION = 10
FILTERS = {2: {"mode": "linear"}, 3: {"mode": "cubic", "cubic_coeff_a": -0.5}}  # Pillow's bilinear and bicubic


@dataclass(frozen=True)
class AnalysisSettings:
    """What stands around a network.

    Attributes:
        size: (height, width) that images are resized to; None for their own.
        keep_aspect_ratio: whether images are fitted into `size` and padded.
        keep_largest_component: whether of each mask class only the largest connected part is kept.
        resample: Pillow's number of the filter.
        scale, offset: three factors and summands that make network input of 0..255.
        mask_classes: number of them; 0 for a model without masks.
        thresholds: of the image-level classes; None where the highest score decides.
        image_classes: number of them; 0 for a model without.
        trust: names of the network's outputs, one number an image, that go out as they are.
    """

    size: tuple[int, int] | None
    keep_aspect_ratio: bool
    keep_largest_component: bool
    resample: int
    scale: Sequence[float]
    offset: Sequence[float]
    mask_classes: int
    image_classes: int
    thresholds: Sequence[float] | None
    trust: Sequence[str] = ()


def analysis_model(network: onnx.ModelProto, settings: AnalysisSettings) -> onnx.ModelProto:
    """Puts a network from `pixel_values` to logits between the steps before and after it.

    The result takes `image` (B, height, width, 3) uint8 RGB, and gives, of a model with masks, `segmentation` (B, height,
    width) uint8 class indices, `area_fraction` (B, S) and `mean_probability` (B, S), 0 for a class that is nowhere; of one
    with image-level classes, `class_scores` (B, K) and `predicted_classes` (B, K) bool; and, where the checkpoint was fitted for them,
    `distance` (B,) and `confidence` (B,).
    """
    before, after = Nodes("before"), Nodes("after")
    box = add_steps_before(before, settings)
    outputs = []
    if settings.mask_classes:
        outputs += add_mask_steps(after, settings, box)
    if settings.image_classes:
        outputs += add_class_steps(after, settings)
    outputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in settings.trust]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", 3])
    graph = helper.make_graph(
        [*before.nodes, *network.graph.node, *after.nodes],
        "resformer",
        [image],
        outputs,
        [*before.constants, *network.graph.initializer, *after.constants],
        # By these the network alone can be taken out again.
        value_info=[*network.graph.input, *network.graph.output],
    )
    opsets = [one for one in network.opset_import if one.domain] + [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, functions=network.functions, producer_name="resformer")
    model.ir_version = IR_VERSION
    return model


def add_steps_before(nodes: Nodes, settings: AnalysisSettings) -> tuple[str, str] | None:
    """Adds the steps from `image` to `pixel_values`.

    Returns:
        Where the image lies in its padding, (2,) top and left and (2,) height and width; None without padding.
    """
    image = nodes.add("Transpose", "image", perm=[0, 3, 1, 2])
    box = None
    if settings.size is not None:
        filtered = {"antialias": 1, "exclude_outside": 1, **FILTERS[settings.resample]}
        sides = nodes.constant(settings.size)
        if settings.keep_aspect_ratio:
            sides = fitted_sides(nodes, settings.size)
            # An odd pixel of padding goes to the bottom or right.
            spare = nodes.add("Sub", nodes.constant(settings.size), sides)
            box = nodes.add("Div", spare, nodes.constant(2)), sides
        image = nodes.resize(image, sides, **filtered)
    image = nodes.add("Cast", image, to=TensorProto.FLOAT)
    scale, offset = (
        nodes.constant(np.reshape(values, (1, 3, 1, 1)), np.float32) for values in (settings.scale, settings.offset)
    )
    image = nodes.add("Mul", image, scale)
    if box is None:
        nodes.add("Add", image, offset, name=PIXELS)
        return None
    image = nodes.add("Add", image, offset)
    after = nodes.add("Sub", nodes.add("Sub", nodes.constant(settings.size), box[1]), box[0])
    nothing = nodes.constant([0, 0])
    nodes.add("Pad", image, nodes.add("Concat", nothing, box[0], nothing, after, axis=0), name=PIXELS)
    return box


def fitted_sides(nodes: Nodes, size: tuple[int, int]) -> str:
    """(2,) height and width of the image fitted into a size, rounded as `content_box` does."""
    height, width = nodes.side("image", 1), nodes.side("image", 2)
    sides = []
    for side, other, limit, other_limit in ((height, width, size[0], size[1]), (width, height, size[1], size[0])):
        twice = nodes.add("Mul", side, nodes.constant([2 * other_limit]))
        rounded = nodes.add("Div", nodes.add("Add", twice, other), nodes.add("Mul", other, nodes.constant([2])))
        sides.append(nodes.add("Min", nodes.add("Max", rounded, nodes.constant([1])), nodes.constant([limit])))
    return nodes.add("Concat", *sides, axis=0)


def add_mask_steps(nodes: Nodes, settings: AnalysisSettings, box: tuple[str, str] | None) -> list[onnx.ValueInfoProto]:
    """Adds the steps from mask logits to class indices, and to share and mean probability of each class."""
    logits, num_classes = MASKS, settings.mask_classes
    if settings.keep_largest_component:
        logits = add_largest_components(nodes, logits, num_classes, settings.size)
    if box is not None:
        logits = nodes.add("Slice", logits, box[0], nodes.add("Add", *box), nodes.constant([2, 3]))
    logits = nodes.resize(logits, nodes.add("Shape", "image", start=1, end=3), mode="linear")
    chosen = nodes.add("ArgMax", logits, axis=1, keepdims=1)
    classes = nodes.constant(np.arange(num_classes).reshape(1, -1, 1, 1))
    is_chosen = nodes.add("Cast", nodes.add("Equal", chosen, classes), to=TensorProto.FLOAT)
    share = nodes.add("ReduceMean", is_chosen, nodes.constant([2, 3]), keepdims=0, name="area_fraction")
    probability = nodes.add("Mul", nodes.add("Softmax", logits, axis=1), is_chosen)
    mean = nodes.add("ReduceMean", probability, nodes.constant([2, 3]), keepdims=0)
    nodes.add("Div", mean, nodes.add("Max", share, nodes.constant(1e-12, np.float32)), name="mean_probability")
    flat = nodes.add("Squeeze", chosen, nodes.constant([1]))
    nodes.add("Cast", flat, to=TensorProto.UINT8, name="segmentation")
    return [
        helper.make_tensor_value_info("segmentation", TensorProto.UINT8, ["batch", "height", "width"]),
        helper.make_tensor_value_info("area_fraction", TensorProto.FLOAT, ["batch", num_classes]),
        helper.make_tensor_value_info("mean_probability", TensorProto.FLOAT, ["batch", num_classes]),
    ]


def add_class_steps(nodes: Nodes, settings: AnalysisSettings) -> list[onnx.ValueInfoProto]:
    """Adds the steps from class logits to scores and decisions."""
    count = settings.image_classes
    if settings.thresholds is None:
        nodes.add("Softmax", CLASSES, axis=1, name="class_scores")
        highest = nodes.add("ArgMax", "class_scores", axis=1, keepdims=1)
        nodes.add("Equal", highest, nodes.constant(np.arange(count).reshape(1, -1)), name="predicted_classes")
    else:
        nodes.add("Sigmoid", CLASSES, name="class_scores")
        thresholds = nodes.constant(np.reshape(settings.thresholds, (1, -1)), np.float32)
        nodes.add("GreaterOrEqual", "class_scores", thresholds, name="predicted_classes")
    return [
        helper.make_tensor_value_info("class_scores", TensorProto.FLOAT, ["batch", count]),
        helper.make_tensor_value_info("predicted_classes", TensorProto.BOOL, ["batch", count]),
    ]
