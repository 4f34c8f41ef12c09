"""The flags of `scripts/serve.py`."""

import argparse
from collections.abc import Sequence

from ..flags import Parser, add_model, take_model


def parse(arguments: Sequence[str], description: str | None = None) -> argparse.Namespace:
    """Ends the process after a mistake."""
    parser = make_parser(description)
    given = take_model(parser, parser.parse_args(arguments))
    for name, least in (("queue", 0), ("max_megabytes", 1e-6), ("max_megapixels", 1e-6), ("seconds", 0.001)):
        if not getattr(given, name) >= least:
            parser.error(f"--{name.replace('_', '-')} is {getattr(given, name)}; expected {least:g} or more")
    if given.cpu_threads is not None and given.cpu_threads < 1:
        parser.error(f"--cpu-threads is {given.cpu_threads}; expected 1 or more")
    return given


def make_parser(description: str | None) -> Parser:
    parser = Parser(description)
    add_model(parser, help="what is served")
    add = parser.add_argument
    add("--revision", help="revision of a Hub id")
    add("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    add("--port", type=int, default=8000, help="port, 0 for any free one (%(default)s)")
    add("--device", default="cpu", help='torch device, such as "cuda" (%(default)s)')
    add("--cpu-threads", type=int, help="threads of one forward pass (torch's choice)")
    # The defaults are those of handler.Limits and serving.app.ServerSettings.
    add("--max-megabytes", type=float, default=32.0, help="encoded image, MiB (%(default)g)")
    add("--max-megapixels", type=float, default=40.0, help="decoded image (%(default)g)")
    add("--queue", type=int, default=16, help="requests that may wait (%(default)s)")
    add("--seconds", type=float, default=60.0, help="a request may take (%(default)g)")
    add("--origin", action="append", help="web page that may ask, repeatable (any)")
    return parser
