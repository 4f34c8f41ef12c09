"""A server of one's own that speaks Hugging Face's inference contract: clients and widgets work with it as they are.

    python scripts/serve.py --model outputs/demo/model --port 8000

    client = huggingface_hub.InferenceClient(model="http://127.0.0.1:8000")
    client.image_segmentation("image.jpg")        # [label, score, mask]
    curl --data-binary @image.jpg http://127.0.0.1:8000/predict

An image is sent as raw bytes or as {"inputs": "<base64>", "parameters": {...}}; paths and URLs are never opened.
`/` and `/models/{id}` answer segmentation, `/image-classification` classification, `/predict` both; `parameters.task`
chooses too. `GET /` tells classes and limits, `/openapi.json` all routes, `/live`, `/ready` and `/status/{id}` the state. One
image is answered at a time, and no request takes longer than --seconds, decoding included. Web pages may not ask unless
--allow-origin names theirs; --token-file names a file with a bearer token that requests must bring. There is no encryption:
keep it on loopback, or behind a proxy that has it.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ..flags import Parser, add_model, add_runtime, check_runtime, take_model


logger = logging.getLogger(__name__)

SHORTEST_TOKEN = 16  # characters


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Ends the process after a mistake."""
    parser = make_parser()
    given = take_model(parser, parser.parse_args(arguments))
    for name, least in (("queue", 0), ("max_megabytes", 1e-6), ("max_megapixels", 1e-6), ("seconds", 0.001)):
        if not getattr(given, name) >= least:
            parser.error(f"--{name.replace('_', '-')} is {getattr(given, name)}; expected {least:g} or more")
    check_runtime(parser, given)
    if given.cpu_threads is not None and given.cpu_threads < 1:
        parser.error(f"--cpu-threads is {given.cpu_threads}; expected 1 or more")
    return given


def make_parser() -> Parser:
    parser = Parser(__doc__)
    add_model(parser, help="what is served")
    add = parser.add_argument
    add("--revision", help="revision of a Hub id")
    add("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    add("--port", type=int, default=8000, help="port, 0 for any free one (%(default)s)")
    add("--device", default="cpu", help='torch device, such as "cuda" (%(default)s)')
    add_runtime(parser)
    add("--cpu-threads", type=int, help="threads of one forward pass (torch's choice)")
    # The defaults are those of handler.Limits and serving.app.ServerSettings.
    add("--max-megabytes", type=float, default=32.0, help="encoded image, MiB (%(default)g)")
    add("--max-megapixels", type=float, default=40.0, help="decoded image (%(default)g)")
    add("--queue", type=int, default=16, help="requests that may wait (%(default)s)")
    add("--seconds", type=float, default=60.0, help="a request may take (%(default)g)")
    add(
        "--allow-origin", action="append", metavar="ORIGIN", help="web page that may ask, repeatable; * for any (none)"
    )
    parser.also("--allow-origin", "--origin")
    add("--token-file", type=Path, metavar="FILE", help="file with the bearer token that requests must bring (none)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 where the port or the model cannot be had."""
    given = parse(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    from ..handler import Limits
    from ..serving.app import ServerSettings
    from ..serving.server import Served, serve

    try:
        token = None if given.token_file is None else read_token(given.token_file)
    except ValueError as error:
        logger.error("%s", error)
        return 1
    settings = ServerSettings(
        limits=Limits(round(given.max_megabytes * 2**20), round(given.max_megapixels * 1e6)),
        waiting=given.queue,
        seconds=given.seconds,
        origins=tuple(given.allow_origin or ()),
        token=token,
    )
    served = Served(given.model, given.revision, given.device, given.cpu_threads, given.runtime)
    try:
        failures = serve(served, settings, given.host, given.port)
    except OSError as error:
        logger.error("%s:%s: %s", given.host, given.port, error)
        return 1
    except KeyboardInterrupt:
        return 0
    for error in failures:
        said = " ".join(str(error).split())
        logger.error("%s", said if given.model in said else f"{given.model}: {said}")
    return 1 if failures else 0


def read_token(path: Path) -> str:
    """The one line of a file.

    Raises:
        ValueError: it cannot be read, or holds no token; the message names the file.
    """
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--token-file {path}: cannot be read ({error}); expected one line of ASCII") from error
    if len(token) < SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise ValueError(f"--token-file {path}: expected one word of {SHORTEST_TOKEN} characters or more")
    return token


if __name__ == "__main__":
    sys.exit(main())
