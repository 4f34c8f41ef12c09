"""One ONNX file that answers like the pipeline, without Python and torch.

    python scripts/export.py --model outputs/demo/model
    python scripts/export.py --model org/model --output model.onnx --half
    python scripts/export.py --model runs/mine --output model.onnx --int8 --calibration data/mine
    python scripts/export.py --model outputs/demo/model --format torch

The file takes `image`, 8-bit RGB of any size as (batch, height, width, 3), and holds all steps: resizing by the image
processor's own filter, normalising, the network with its batch norms folded, sigmoid or softmax, the checkpoint's
thresholds, and the resize back. It gives

    segmentation         (batch, height, width) class indices, 8-bit, at the image's size
    area_fraction        (batch, mask classes) share of the pixels
    mean_probability     (batch, mask classes) mean over the pixels of the class; 0 where there is none
    class_scores         (batch, image-level classes)
    predicted_classes    (batch, image-level classes) whether the score reaches its threshold, or is the highest

Class names, thresholds and the input size stand in its metadata, as JSON. Beside its checkpoint as `model.onnx`, where it
goes by default, `predict.py` and `serve.py` use it with `--runtime onnx` or `--runtime openvino`.

--int8 lets convolutions multiply 8-bit integers. Their scales are taken from images of the training split of --calibration, a
prepared dataset; then both forms are scored on its validation split, and on its test split if there is one. A file is
written only where Dice and AUC lose less than 0.005 each; both are printed, and stand in the metadata.

--format torch writes the network alone as `model.pt2`, a program of `torch.export` for any batch and size, from normalised
`pixel_values` to logits; it runs where torch is, without this package.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..flags import Parser, add_model, add_output, take_model


if TYPE_CHECKING:
    from ..pipeline_resformer import ResFormerPipeline

logger = logging.getLogger(__name__)

FILE_NAMES = {
    "onnx": "model.onnx",
    "torch": "model.pt2",
}  # by format; of exporting/onnx_network.py and torch_program.py


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Ends the process after a mistake."""
    parser = Parser(__doc__)
    add_model(parser, help="what is exported")
    add = parser.add_argument
    add("--revision", help="revision of a Hub id")
    add_output(parser, type=Path, help=f"file to write (default: {FILE_NAMES['onnx']} in the model's folder)")
    add("--format", choices=tuple(FILE_NAMES), default="onnx", help="onnx: all steps; torch: the network alone")
    add("--half", action="store_true", help="the network in float16: half the size, for devices that compute in it")
    add(
        "--int8",
        action="store_true",
        help="the network's convolutions in 8-bit integers, if scores stay what they are",
    )
    add("--calibration", metavar="FOLDER", help="prepared dataset by which --int8 is made and measured")
    given = take_model(parser, parser.parse_args(arguments))
    if given.int8 != (given.calibration is not None):
        parser.error("--int8 is made and measured by --calibration; expected both or neither")
    if given.int8 and given.half:
        parser.error("--int8 and --half are two forms; expected one of them")
    if given.format == "torch" and (given.int8 or given.half):
        parser.error("--format torch writes float32; expected neither --int8 nor --half")
    if given.output is None:
        if not Path(given.model).is_dir():
            parser.error(f"--output is missing; expected a file to write, since {given.model} is no folder")
        given.output = Path(given.model) / FILE_NAMES[given.format]
    if given.output.suffix != (ending := Path(FILE_NAMES[given.format]).suffix):
        parser.error(f"--output is {given.output}; expected a file that ends in {ending}")
    return given


def export_measured(pipe: "ResFormerPipeline", path: Path, dataset: str) -> str:
    """Writes the file in int8; returns what it costs, a line a score."""
    from ..data.prepared import load_prepared
    from ..heads import task_of
    from ..training.building import check_labels
    from ..training.eight_bit_export import export_in_int8

    prepared = load_prepared(dataset)
    check_labels(pipe.model.config, task_of(pipe.model), prepared, dataset)
    measured = export_in_int8(pipe, path, prepared)
    return "".join(
        f"{name} on {split}: {before:.4f} in float32, {after:.4f} in int8\n"
        for split, scores in measured.items()
        for name, (before, after) in scores.items()
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 where the model cannot be exported."""
    given = parse(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        logger.error("%s is not installed; run: pip install 'modeling-resformer[export]'", error.name)
        return 1
    import torch

    from ..errors import BadInputError
    from ..exporting.onnx_file import export
    from ..exporting.torch_program import export_program
    from ..prediction.predictor import load_pipeline
    from ..training.progress import quieten_libraries

    quieten_libraries()
    try:
        pipe = load_pipeline(given.model, given.revision, torch.device("cpu"))
        if given.format == "torch":
            export_program(pipe, given.output)
        elif given.int8:
            sys.stdout.write(export_measured(pipe, given.output, given.calibration))
        else:
            export(pipe, given.output, given.half)
    except (BadInputError, OSError) as error:
        logger.error("%s", error)
        return 1
    sys.stdout.write(f"{given.output} {given.output.stat().st_size / 2**20:.1f} MiB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
