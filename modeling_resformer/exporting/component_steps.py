"""The steps of `only_largest_components` as ONNX nodes, for every image of a batch at once."""

import math
from collections.abc import Sequence

import numpy as np
from onnx import TensorProto, helper

from ..image_processing_pil_resformer import COMPONENT_GRID
from .graph_nodes import Nodes


def add_largest_components(nodes: Nodes, logits: str, num_classes: int, size: Sequence[int] | None) -> str:
    """Adds steps after which no class but the background wins outside the largest connected part of each.

    Args:
        nodes: of the graph.
        logits: name of (B, S, h, w) mask logits.
        num_classes: S.
        size: (h, w), None where it varies; such logits are never joined on a coarser grid.

    Returns:
        The name of the logits (B, S, h, w).
    """
    factor = 1 if size is None else math.ceil(max(size) / COMPONENT_GRID)
    chosen = nodes.add("ArgMax", logits, axis=1, keepdims=1)
    dropped = []
    for index in range(1, num_classes):
        mask = nodes.add("Equal", chosen, nodes.constant(index))
        kept = add_largest_component(nodes, mask, factor)
        dropped.append(nodes.add("And", mask, nodes.add("Not", kept)))
    while len(dropped) > 1:
        dropped.append(nodes.add("Or", dropped.pop(), dropped.pop()))
    background = nodes.add("Slice", logits, nodes.constant([0]), nodes.constant([1]), nodes.constant([1]))
    return nodes.add("Where", dropped[0], nodes.add("Min", logits, background), logits)


def add_largest_component(nodes: Nodes, mask: str, factor: int) -> str:
    """Adds the steps from (B, 1, h, w) booleans to those of each image's largest part, of equals the last."""
    inside = nodes.add("Cast", mask, to=TensorProto.FLOAT)
    labels = add_labels(nodes, inside, factor)
    flat = nodes.add("Cast", nodes.add("Reshape", labels, nodes.constant([-1])), to=TensorProto.INT64)
    ones = nodes.add(
        "ConstantOfShape", nodes.add("Shape", flat), value=helper.make_tensor("", TensorProto.FLOAT, [1], [1])
    )
    # There are no more labels than pixels.
    none = nodes.add("Concat", nodes.constant([0], np.float32), nodes.add("Sub", ones, ones), axis=0)
    pixels = nodes.add("ScatterElements", none, flat, ones, axis=0, reduction="add")
    own = nodes.add("Gather", pixels, nodes.add("Cast", labels, to=TensorProto.INT64))
    own = nodes.add("Mul", own, inside)
    image = nodes.constant([1, 2, 3])
    is_largest = nodes.add("Equal", own, nodes.add("ReduceMax", own, image, keepdims=1))
    last = nodes.add("Mul", labels, nodes.add("Cast", is_largest, to=TensorProto.FLOAT))
    last = nodes.add("ReduceMax", last, image, keepdims=1)
    return nodes.add("And", mask, nodes.add("Equal", labels, last))


def add_labels(nodes: Nodes, inside: str, factor: int) -> str:
    """Adds the steps from (B, 1, h, w) zeros and ones to the number of each one's connected part, as `component_labels`.

    Numbers are those of pixels of the whole batch, exact in float32 up to 2^24 of them.
    """
    grid = inside
    if factor > 1:
        grid = nodes.add("MaxPool", inside, kernel_shape=[factor] * 2, strides=[factor] * 2, ceil_mode=1)
    shape = nodes.add("Shape", grid)
    last = nodes.add("ReduceProd", shape, keepdims=0)
    numbers = nodes.add("Range", nodes.constant(1), nodes.add("Add", last, nodes.constant(1)), nodes.constant(1))
    numbers = nodes.add("Cast", nodes.add("Reshape", numbers, shape), to=TensorProto.FLOAT)
    body = spreading(nodes.inner(), grid, shape)
    labels = nodes.add("Loop", "", nodes.constant(True, bool), nodes.add("Mul", numbers, grid), body=body)
    if factor == 1:
        return labels
    larger = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    labels = nodes.add("Resize", labels, "", nodes.constant([1, 1, factor, factor], np.float32), **larger)
    sides = nodes.add("Shape", inside, start=2, end=4)
    labels = nodes.add("Slice", labels, nodes.constant([0, 0]), sides, nodes.constant([2, 3]))
    return nodes.add("Mul", labels, inside)


def spreading(nodes: Nodes, grid: str, shape: str) -> "helper.GraphProto":
    """One round of `component_labels`: the highest number around, then the number that one's pixel has come to."""
    labels, cond = nodes.name("labels"), nodes.name("go_on")
    highest = nodes.add("Mul", nodes.add("MaxPool", labels, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), grid)
    flat = nodes.add("Reshape", highest, nodes.constant([-1]))
    numbered = nodes.add("Concat", nodes.constant([0], np.float32), flat, axis=0)
    leapt = nodes.add("Gather", numbered, nodes.add("Cast", flat, to=TensorProto.INT64))
    leapt = nodes.add("Reshape", leapt, shape)
    moved = nodes.add("ReduceMax", nodes.add("Abs", nodes.add("Sub", leapt, labels)), keepdims=0)
    go_on = nodes.add("Cast", moved, to=TensorProto.BOOL)
    inputs = [
        helper.make_tensor_value_info(nodes.name("round"), TensorProto.INT64, []),
        helper.make_tensor_value_info(cond, TensorProto.BOOL, []),
        helper.make_tensor_value_info(labels, TensorProto.FLOAT, None),
    ]
    outputs = [
        helper.make_tensor_value_info(go_on, TensorProto.BOOL, []),
        helper.make_tensor_value_info(leapt, TensorProto.FLOAT, None),
    ]
    return helper.make_graph(nodes.nodes, nodes.prefix, inputs, outputs, nodes.constants)
