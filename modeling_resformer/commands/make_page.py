"""A page that runs the model in its reader's own browser, without a server of ours.

    python scripts/make_page.py --model outputs/demo/model --output outputs/page
    python -m http.server --bind 127.0.0.1 --directory outputs/page

The folder is complete: the model as one ONNX file, ONNX Runtime Web at a pinned version whose integrity is checked, and
plain files that ask nobody for anything once they are loaded. npm fetches the runtime, or --runtime names npm's package.
Names, sizes and thresholds come from the exported file, so the page is the same for every checkpoint.
scripts/push_to_hub.py --with-web publishes it as a static Space.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ..flags import Parser, add_model, add_output, take_model


logger = logging.getLogger(__name__)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Ends the process after a mistake."""
    parser = Parser(__doc__)
    add_model(parser, help="what the page runs")
    add = parser.add_argument
    add("--revision", help="revision of a Hub id")
    add_output(parser, type=Path, required=True, help="folder to write")
    add("--name", help="of the model, as readers see it, such as its Hub id (default: of --model)")
    add("--runtime", type=Path, metavar="FILE", help="npm's package of the runtime, where npm cannot fetch it")
    add(
        "--webgpu",
        action="store_true",
        help="add the runtime's WebGPU build, 28 MB, loaded where the address ends in ?device=webgpu",
    )
    add("--overwrite", action="store_true", help="replace an earlier page")
    return take_model(parser, parser.parse_args(arguments))


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after one line on stderr."""
    given = parse(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        import jinja2  # noqa: F401
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        logger.error("%s is not installed; run: pip install 'modeling-resformer[export,hub]'", error.name)
        return 1
    import torch

    from ..errors import BadInputError
    from ..prediction.predictor import load_pipeline
    from ..publishing.web_page import make_page
    from ..training.progress import quieten_libraries

    quieten_libraries()
    folder = Path(given.model) if Path(given.model).is_dir() else None
    name = given.name or (folder.resolve().name if folder else given.model)
    try:
        pipe = load_pipeline(given.model, given.revision, torch.device("cpu"))
        make_page(given.output, pipe, name, folder, given.runtime, given.overwrite, given.webgpu)
    except (BadInputError, OSError) as error:
        logger.error("%s", error)
        return 1
    sys.stdout.write(f"python -m http.server --bind 127.0.0.1 --directory {given.output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
