"""One ONNX file that answers like the pipeline, without Python and torch.

    python scripts/export.py --model outputs/demo/model
    python scripts/export.py --model org/model --output model.onnx --half

The file takes `image`, 8-bit RGB of any size as (batch, height, width, 3), and holds all steps: resizing by the image
processor's own filter, normalising, the network with its batch norms folded, sigmoid or softmax, the checkpoint's
thresholds, and the resize back. It gives

    segmentation         (batch, height, width) class indices, 8-bit, at the image's size
    area_fraction        (batch, mask classes) share of the pixels
    mean_probability     (batch, mask classes) mean over the pixels of the class; 0 where there is none
    class_scores         (batch, image-level classes)
    predicted_classes    (batch, image-level classes) whether the score reaches its threshold, or is the highest

Class names, thresholds and the input size stand in its metadata, as JSON. Beside its checkpoint as `model.onnx`, where it
goes by default, `predict.py` and `serve.py` use it with `--runtime onnx`.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ..flags import Parser, add_model, add_output, take_model


logger = logging.getLogger(__name__)

FILE_NAME = "model.onnx"  # of exporting/onnx_network.py


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Ends the process after a mistake."""
    parser = Parser(__doc__)
    add_model(parser, help="what is exported")
    add = parser.add_argument
    add("--revision", help="revision of a Hub id")
    add_output(parser, type=Path, help=f"file to write (default: {FILE_NAME} in the model's folder)")
    add("--half", action="store_true", help="the network in float16: half the size, for devices that compute in it")
    given = take_model(parser, parser.parse_args(arguments))
    if given.output is None:
        if not Path(given.model).is_dir():
            parser.error(f"--output is missing; expected a file to write, since {given.model} is no folder")
        given.output = Path(given.model) / FILE_NAME
    if given.output.suffix != ".onnx":
        parser.error(f"--output is {given.output}; expected a file that ends in .onnx")
    return given


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
    from ..prediction.predictor import load_pipeline
    from ..training.progress import quieten_libraries

    quieten_libraries()
    try:
        export(load_pipeline(given.model, given.revision, torch.device("cpu")), given.output, given.half)
    except (BadInputError, OSError) as error:
        logger.error("%s", error)
        return 1
    sys.stdout.write(f"{given.output} {given.output.stat().st_size / 2**20:.1f} MiB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
