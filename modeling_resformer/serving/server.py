"""A model behind a port: loaded once, and served until the process is told to end."""

import logging
import socket
import sys
from dataclasses import dataclass

import torch
import uvicorn
from PIL import Image
from transformers import AutoConfig

from ..errors import named_load_failure
from ..handler import EndpointHandler, Limits
from .app import ServerSettings, create_app
from .patience import PatientProtocol


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """What is served, and by what.

    Attributes:
        model: folder or Hub id of a ResFormer with its image processor.
        revision: of a Hub id.
        device: torch's name of it.
        cpu_threads: of one forward pass; torch's own choice if None.
        runtime: what runs the network, "torch" or, by the file of `scripts/export.py`, "onnx" or "openvino".
    """

    model: str
    revision: str | None = None
    device: str = "cpu"
    cpu_threads: int | None = None
    runtime: str = "torch"


def load_handler(served: Served, limits: Limits) -> EndpointHandler:
    """Loads by the installed package, never by code of the folder, and warms up."""
    if served.cpu_threads is not None:
        torch.set_num_threads(served.cpu_threads)
    expected = "a folder or Hub id of a ResFormer with its image processor"
    with named_load_failure("--model", served.model, expected):
        AutoConfig.from_pretrained(served.model, revision=served.revision, trust_remote_code=False)
    handler = EndpointHandler(
        served.model,
        revision=served.revision,
        trust_remote_code=False,
        limits=limits,
        device=served.device,
    )
    if served.runtime != "torch":
        from ..exporting.onnx_network import onnx_network  # which needs onnx

        handler.model = onnx_network(handler.model, served.model, served.revision, served.runtime)
    handler.logits(Image.new("RGB", (32, 32)))
    logger.info("%s is loaded; it answers %s", served.model, " and ".join(handler.tasks))
    return handler


def serve(served: Served, settings: ServerSettings, host: str, port: int) -> list[Exception]:
    """Prints its address and answers until the process is told to end; what kept the model from being loaded, if anything.

    Args:
        served: the model.
        settings: limits of requests.
        host: address to listen on.
        port: 0 for any free one.

    Raises:
        OSError: the port cannot be had.
    """
    failures: list[Exception] = []

    def give_up(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(lambda: load_handler(served, settings.limits), settings, give_up)
    # Settings that are off: this server speaks plain HTTP to its neighbour and writes its own log.
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        log_config=None,
        access_log=False,
        ws="none",
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=round(settings.seconds) + 1,
    )
    server = uvicorn.Server(config)
    is_ipv6 = ":" in host
    family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
    with socket.create_server((host, port), family=family) as listening:
        address, bound = listening.getsockname()[:2]
        sys.stdout.write(f"http://{f'[{address}]' if is_ipv6 else address}:{bound}\n")
        sys.stdout.flush()
        server.run(sockets=[listening])
    return failures
