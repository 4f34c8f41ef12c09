"""A server of one's own that speaks Hugging Face's inference contract: clients and widgets work with it as they are.

    python scripts/serve.py --model outputs/demo/model --port 8000

    client = huggingface_hub.InferenceClient(model="http://127.0.0.1:8000")
    client.image_segmentation("image.jpg")        # [label, score, mask]
    curl --data-binary @image.jpg http://127.0.0.1:8000/predict

An image is sent as raw bytes or as {"inputs": "<base64>", "parameters": {...}}; paths and URLs are never opened.
`/` and `/models/{id}` answer segmentation, `/image-classification` classification, `/predict` both; `parameters.task`
chooses too. `GET /` tells classes and limits, `/health` and `/status/{id}` the state. One image is answered at a
time. There is no key and no encryption: keep it on loopback, or behind a proxy that has both.
"""

import argparse
import logging
import runpy
import socket
import sys
from collections.abc import Sequence
from pathlib import Path


if __name__ == "__main__":  # before the slow imports
    OPTIONS = Path(__file__).resolve().parents[1] / "modeling_resformer" / "options"
    runpy.run_path(str(OPTIONS / "launch.py"))["launch"](__file__, __doc__)

import torch
import uvicorn
from PIL import Image
from transformers import AutoConfig

import modeling_resformer  # noqa: F401  registers the Auto classes
from modeling_resformer.errors import named_load_failure
from modeling_resformer.handler import EndpointHandler, Limits
from modeling_resformer.options.serve import parse
from modeling_resformer.serving.app import ServerSettings, create_app


logger = logging.getLogger("serve")


def server_settings(arguments: argparse.Namespace) -> ServerSettings:
    return ServerSettings(
        limits=Limits(round(arguments.max_megabytes * 2**20), round(arguments.max_megapixels * 1e6)),
        waiting=arguments.queue,
        seconds=arguments.seconds,
        origins=tuple(arguments.origin or ServerSettings.origins),
    )


def load(arguments: argparse.Namespace, limits: Limits) -> EndpointHandler:
    """Loads by the installed package, never by code of the folder, and warms up."""
    if arguments.cpu_threads is not None:
        torch.set_num_threads(arguments.cpu_threads)
    expected = "a folder or Hub id of a ResFormer with its image processor"
    with named_load_failure("--model", arguments.model, expected):
        AutoConfig.from_pretrained(arguments.model, revision=arguments.revision, trust_remote_code=False)
    handler = EndpointHandler(
        arguments.model,
        revision=arguments.revision,
        trust_remote_code=False,
        limits=limits,
        device=arguments.device,
    )
    handler.logits(Image.new("RGB", (32, 32)))
    logger.info("%s is loaded; it answers %s", arguments.model, " and ".join(handler.tasks))
    return handler


def serve(arguments: argparse.Namespace) -> int:
    """Returns the exit status: 0, or 1 where the port or the model cannot be had."""
    settings = server_settings(arguments)
    failures: list[Exception] = []

    def give_up(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(lambda: load(arguments, settings.limits), settings, give_up)
    # Settings that are off: this server speaks plain HTTP to its neighbour and writes its own log.
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        ws="none",
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=round(settings.seconds) + 1,
    )
    server = uvicorn.Server(config)
    is_ipv6 = ":" in arguments.host
    family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
    with socket.create_server((arguments.host, arguments.port), family=family) as listening:
        host, port = listening.getsockname()[:2]
        sys.stdout.write(f"http://{f'[{host}]' if is_ipv6 else host}:{port}\n")
        sys.stdout.flush()
        server.run(sockets=[listening])
    for error in failures:
        said = " ".join(str(error).split())
        logger.error("%s", said if arguments.model in said else f"{arguments.model}: {said}")
    return 1 if failures else 0


def main(argv: Sequence[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    arguments = parse(sys.argv[1:] if argv is None else argv, __doc__)
    try:
        return serve(arguments)
    except OSError as error:
        logger.error("%s:%s: %s", arguments.host, arguments.port, error)
        return 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
