"""Networks in 8-bit integers, by ONNX Runtime's static quantisation."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from ..files import scratch_folder
from .onnx_network import PIXELS


# What the time goes into; the rest gains nothing and loses most.
QUANTISED = ("Conv",)


class CalibrationPixels(CalibrationDataReader):
    """Network inputs one by one, as the calibration asks for them."""

    def __init__(self, inputs: Iterable[np.ndarray]) -> None:
        self.inputs: Iterator[np.ndarray] = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input by its name; None after the last."""
        pixels = next(self.inputs, None)
        return None if pixels is None else {PIXELS: pixels}


def in_int8(network: onnx.ModelProto, inputs: Iterable[np.ndarray]) -> onnx.ModelProto:
    """A network whose convolutions multiply 8-bit integers, from float32 to float32.

    Args:
        network: from `pixel_values` to logits in float32.
        inputs: (B, C, H, W) each, from whose activations the scales are taken.
    """
    with scratch_folder("int8") as folder:
        plain, inferred, result = (str(Path(folder) / f"{name}.onnx") for name in ("plain", "inferred", "int8"))
        onnx.save(network, plain)
        quant_pre_process(plain, inferred, skip_symbolic_shape=True)
        quantize_static(
            inferred,
            result,
            CalibrationPixels(inputs),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            per_channel=True,
            # Seven bits of weights: products of eight overflow on CPUs without VNNI.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(result)
