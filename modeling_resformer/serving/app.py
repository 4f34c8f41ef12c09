"""The routes: which task a path means, which status an error has, and what is logged."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..handler import EndpointHandler, Limits, Parameters, RequestError
from .decoding import PROCESSES, SECONDS, Decoders
from .guards import Guard
from .openapi import description
from .request_body import FullError, Held, image_bytes, most_bytes, read_body, request_data
from .worker import Answer, BusyError, LoadingError, ModelWorker


logger = logging.getLogger(__name__)

DISCLAIMER = "Not a medical device; not for the care of patients."
RETRY_SECONDS = 1
CLIENT_GONE = 499  # as nginx writes it; nobody reads it
ROUTES = {
    "/": "segmentation",
    "/models/{model_id:path}": "segmentation",
    "/image-segmentation": "segmentation",
    "/image-classification": "classification",
    "/image-classification/models/{model_id:path}": "classification",
    "/predict": "both",
}


@dataclass(frozen=True)
class ServerSettings:
    """What a server allows.

    Attributes:
        limits: The largest image.
        waiting: Requests that may wait while one is being answered; more get 503.
        seconds: Time a request may take from its first byte to its answer; 408 while it is sent, 504 after.
        origins: Web pages that may ask: `"*"` or origins such as `http://localhost:3000`; none by default.
        token: Bearer token that every request must bring, but those that ask for the server's health.
        decode_seconds: Time to decode one image.
        held_bytes: Of bodies that are still arriving, all together; who sends more gets 503.
        load_seconds: How long loading is expected to take, told to clients that ask meanwhile.
    """

    limits: Limits = field(default_factory=Limits)
    waiting: int = 16
    seconds: float = 60.0
    origins: tuple[str, ...] = ()
    token: str | None = field(default=None, repr=False)
    decode_seconds: float = SECONDS
    held_bytes: int = 1 << 29
    load_seconds: float = 10.0


def create_app(
    load: Callable[[], EndpointHandler], settings: ServerSettings, on_failure: Callable[[Exception], None]
) -> Starlette:
    """Builds the application around a model that is loaded while the server already listens.

    Args:
        load: Makes the handler.
        settings: What the server allows.
        on_failure: Called with what `load` raised.
    """
    worker = ModelWorker(load, settings.waiting)
    decoders = Decoders(settings.limits, settings.decode_seconds)

    async def start() -> None:
        try:
            # The model's thread is asked first, before any request that waits for the model can ask it.
            await asyncio.gather(worker.start(), decoders.start())
        except Exception as error:
            on_failure(error)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        loading = asyncio.create_task(start())
        yield
        loading.cancel()
        await decoders.stop()
        worker.stop()

    app = Starlette(
        routes=[
            *(Route(path, answering(task), methods=["POST"]) for path, task in ROUTES.items()),
            Route("/", show_routes, methods=["GET"]),
            Route("/openapi.json", show_description, methods=["GET"]),
            Route("/live", show_life, methods=["GET"]),
            *(Route(path, show_health, methods=["GET"]) for path in ("/ready", "/health")),
            *(Route(f"{path}/status/{{model_id:path}}", show_status) for path in ("", "/image-classification")),
        ],
        middleware=[
            # Headers of any name are allowed: the widget and the clients send their own.
            Middleware(
                CORSMiddleware,
                allow_origins=settings.origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                allow_private_network=True,
                expose_headers=["x-compute-time", "retry-after"],
            ),
            Middleware(Guard, origins=settings.origins, token=settings.token),
        ],
        exception_handlers={HTTPException: refuse_route},
        lifespan=lifespan,
    )
    app.state.worker, app.state.settings, app.state.decoders = worker, settings, decoders
    app.state.held, app.state.turns = Held(settings.held_bytes), asyncio.Semaphore(PROCESSES)
    return app


def answering(task: str) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of a route that answers `task`; every outcome is one line in the log and JSON for the client."""

    async def answer(request: Request) -> Response:
        start = time.perf_counter()
        response = await outcome(request, task)
        # The path alone: no query, no header, no body can hold a key or an image that would end in a log.
        logger.info("POST %.80r %d %.3f s", request.url.path, response.status_code, time.perf_counter() - start)
        return response

    return answer


async def outcome(request: Request, task: str) -> Response:
    settings = request.app.state.settings
    try:
        return await answered(request, task)
    except RequestError as error:
        return problem(error.status, str(error))
    except LoadingError:
        message = "The model is being loaded; try again in a moment."
        return problem(503, message, retry_after=RETRY_SECONDS, estimated_time=settings.load_seconds)
    except FullError:
        return problem(503, "Too many bodies are arriving at once; try again in a moment.", retry_after=RETRY_SECONDS)
    except BusyError:
        message = f"{settings.waiting} requests are waiting already; try again in a moment."
        return problem(503, message, retry_after=RETRY_SECONDS)
    except ClientDisconnect:
        return Response(status_code=CLIENT_GONE)
    except Exception:
        logger.exception("A request failed")
        return problem(500, "The server failed on this request; its log says why.")


async def answered(request: Request, task: str) -> Response:
    """The answer within the time limit; a client that hangs up leaves the queue.

    Who sends slowly takes no place in the queue: that is for requests which are complete.
    """
    worker, settings = request.app.state.worker, request.app.state.settings
    deadline = asyncio.get_running_loop().time() + settings.seconds
    try:
        async with asyncio.timeout_at(deadline):
            body = await read_body(request, most_bytes(settings.limits), request.app.state.held)
    except TimeoutError:
        raise RequestError(f"The body did not arrive within {settings.seconds:g} s.", 408) from None
    with worker.place(may_wait=request.headers.get("x-wait-for-model", "").lower() == "true"):
        content_type = request.headers.get("content-type", "")
        answer = asyncio.ensure_future(prepared_answer(request, body, content_type, task))
        gone = asyncio.ensure_future(hung_up(request))
        try:
            remaining = deadline - asyncio.get_running_loop().time()
            await asyncio.wait({answer, gone}, timeout=remaining, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                done = answer.result()
                headers = {"x-compute-time": f"{done.seconds:.3f}"}
                return Response(done.body, media_type="application/json", headers=headers)
            if gone.done():
                return Response(status_code=CLIENT_GONE)
            raise RequestError(f"No answer within {settings.seconds:g} s; try again or send a smaller image.", 504)
        finally:
            answer.cancel()
            gone.cancel()


async def prepared_answer(request: Request, body: bytes, content_type: str, task: str) -> Answer:
    """Takes the request apart in a thread and decodes in a process of its own, so that both hold up nobody else."""
    state = request.app.state
    data = await asyncio.to_thread(request_data, body, content_type, task)
    Parameters.from_request(data["parameters"])  # what is wrong with them is said before work is done
    encoded = await asyncio.to_thread(image_bytes, data["inputs"], state.settings.limits)
    async with state.turns:  # so that few decoded images are in memory
        return await state.worker.answer({**data, "inputs": await state.decoders.decode(encoded)})


async def hung_up(request: Request) -> None:
    """Returns when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def problem(status: int, message: str, retry_after: int | None = None, **more: Any) -> JSONResponse:
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    # Half a character of the request, quoted in a message, could not be sent.
    message = message.encode("utf-8", "backslashreplace").decode()
    return JSONResponse({"error": message, **more}, status, headers)


async def refuse_route(_: Request, error: HTTPException) -> Response:
    messages = {
        404: "There is no such route; GET / lists them.",
        405: "The route has other methods; GET / lists them.",
    }
    return JSONResponse({"error": messages.get(error.status_code, error.detail)}, error.status_code, error.headers)


async def show_routes(request: Request) -> Response:
    """What is served, for people and for programs that look."""
    handler, settings = request.app.state.worker.handler, request.app.state.settings
    return JSONResponse(
        {
            "model": None if handler is None else handler.model.config.model_type,
            "tasks": None if handler is None else handler.tasks,
            "mask_classes": None if handler is None else handler.model.config.mask_class_names,
            "image_classes": None if handler is None else handler.model.config.image_class_names,
            "routes": {f"POST {path}": task for path, task in ROUTES.items()},
            "limits": {"bytes": settings.limits.max_bytes, "pixels": settings.limits.max_pixels},
            "notice": DISCLAIMER,
        }
    )


async def show_description(request: Request) -> Response:
    settings = request.app.state.settings
    return JSONResponse(description(ROUTES, settings.limits, settings.token is not None))


async def show_life(_: Request) -> Response:
    """The process answers, whatever the model does; for who restarts it when it does not."""
    return JSONResponse({"status": "ok"})


async def show_health(request: Request) -> Response:
    """The model is loaded; for who sends requests here."""
    worker = request.app.state.worker
    if worker.handler is None:
        return problem(503, "The model is being loaded.", retry_after=RETRY_SECONDS)
    return JSONResponse({"status": "ok", "free_places": worker.free_places})


async def show_status(request: Request) -> Response:
    """As the widget asks before it shows itself."""
    handler = request.app.state.worker.handler
    loaded = handler is not None
    compute = "gpu" if loaded and handler.model.device.type == "cuda" else "cpu"
    state = "Loaded" if loaded else "Loadable"
    return JSONResponse({"loaded": loaded, "state": state, "compute_type": compute, "framework": "transformers"})
