"""One model, one thread: requests wait in line, a bounded number of them for a bounded time."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..handler import EndpointHandler


class BusyError(Exception):
    """Every place in the queue is taken."""


class LoadingError(Exception):
    """The model is still being loaded."""


@dataclass(frozen=True)
class Answer:
    """JSON of an answer, and the seconds it took once it was its turn."""

    body: bytes
    seconds: float


class ModelWorker:
    """Loads a model in a thread and answers in it, one request at a time, first come first served.

    Args:
        load: Makes the handler; called in the thread.
        waiting: Requests that may wait while one is being answered.

    Attributes:
        handler: None until the model is loaded.
        free_places: Requests that would be accepted now.
    """

    def __init__(self, load: Callable[[], EndpointHandler], waiting: int) -> None:
        self._load = load
        self.free_places = waiting + 1
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self.handler: EndpointHandler | None = None

    async def start(self) -> None:
        """Loads the model; whatever loading raises is raised here."""
        await asyncio.wrap_future(self._thread.submit(self._begin))

    def stop(self) -> None:
        """Ends the thread after the request in progress; those that wait are not begun."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    @contextmanager
    def place(self, may_wait: bool) -> Iterator[None]:
        """Takes a place in the queue for one request.

        Raises:
            LoadingError: the model is not there yet, and the request will not wait for it.
            BusyError: no place is free.
        """
        if self.handler is None and not may_wait:
            raise LoadingError
        if self.free_places == 0:
            raise BusyError
        self.free_places -= 1
        try:
            yield
        finally:
            self.free_places += 1

    async def answer(self, data: dict[str, Any]) -> Answer:
        """Waits for the request's turn and answers it; cancelling leaves the queue.

        Args:
            data: `inputs`, a decoded image, and `parameters`.

        Raises:
            RequestError: the request cannot be answered.
        """
        return await asyncio.wrap_future(self._thread.submit(self._answer, data))

    def _begin(self) -> None:
        # Set in the thread, before the requests that wait in it for the model.
        self.handler = self._load()

    def _answer(self, data: dict[str, Any]) -> Answer:
        if self.handler is None:
            raise LoadingError
        start = time.perf_counter()
        # Encoding belongs to this thread too: it would hold up every other connection.
        answer = self.handler(data)
        encoded = json.dumps(answer, allow_nan=False).encode()
        return Answer(encoded, time.perf_counter() - start)
