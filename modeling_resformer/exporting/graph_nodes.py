"""Building an ONNX graph node by node."""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


class Nodes:
    """Nodes and constants of a graph, which get names of their own."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, values: Any, dtype: type = np.int64) -> str:
        """The name of a constant."""
        name = f"{self.prefix}_constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return name

    def add(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """The name of a new node's output."""
        name = name or f"{self.prefix}_{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def name(self, what: str) -> str:
        """A name for an input of a graph within."""
        return f"{self.prefix}_{what}"

    def inner(self) -> "Nodes":
        """For the nodes of a graph within this one's next node."""
        return Nodes(f"{self.prefix}_{len(self.nodes)}")

    def side(self, of: str, axis: int) -> str:
        """(1,) the length of an axis."""
        return self.add("Shape", of, start=axis, end=axis + 1)

    def resize(self, image: str, sides: str, **attributes: Any) -> str:
        """(B, C, H, W) to other sides (2,), with half-pixel centres."""
        sizes = self.add("Concat", self.add("Shape", image, start=0, end=2), sides, axis=0)
        return self.add("Resize", image, "", "", sizes, coordinate_transformation_mode="half_pixel", **attributes)
