"""Processes that decode what strangers send: one that takes too long, or too much memory, is ended and another begun.

No decoder can be told to stop: a JPEG of half a megabyte may keep one busy for minutes. A thread would have to be waited for.
"""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path

from PIL import Image

from ..handler import FORMATS, Limits, RequestError


DECODER = Path(__file__).with_name("decoder.py")
KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT")
PROCESSES = 2
START_SECONDS = 60.0
SECONDS = 5.0  # of one image; the largest that are allowed take about one


class Decoders:
    """Some processes, each decoding one image at a time.

    Args:
        limits: The largest image.
        seconds: Time for one image.
        processes: How many there are.
    """

    def __init__(self, limits: Limits, seconds: float = SECONDS, processes: int = PROCESSES) -> None:
        self.limits, self.seconds = limits, seconds
        self._free: asyncio.LifoQueue[Process | None] = asyncio.LifoQueue()  # those that run come first
        self._running: set[Process] = set()
        for _ in range(processes):
            self._free.put_nowait(None)

    async def decode(self, data: bytes) -> Image.Image:
        """An image of encoded bytes, upright; waits until a process is free.

        Where nobody waits for it any more, it is still decoded: to end a process for that, and begin another, takes longer.

        Raises:
            RequestError: (400) it is no image, (413) it is too large or takes too long.
        """
        if not data:
            raise RequestError("The image is empty (0 bytes).")
        task = asyncio.ensure_future(self._decoded(data))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to hear of it
        return await asyncio.shield(task)

    async def _decoded(self, data: bytes) -> Image.Image:
        process = await self._free.get()
        usable: Process | None = None
        try:
            if process is None or process.returncode is not None:
                process = await self._begun()
            async with asyncio.timeout(self.seconds):
                image = await self._asked(process, data)
            usable = process
            return image
        except TimeoutError:
            raise RequestError(
                f"The image was not decoded within {self.seconds:g} s; send it in another format.", 413
            ) from None
        except RequestError:
            usable = process
            raise
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            raise RequestError(f"{len(data)} bytes that are not a readable image (the decoder failed).") from None
        finally:
            if usable is None and process is not None:
                self._end(process)
            self._free.put_nowait(usable)

    async def start(self) -> None:
        """Begins the first process, which takes a moment, before the first image comes."""
        await self._free.get()
        self._free.put_nowait(await self._begun())

    async def stop(self) -> None:
        """Ends the processes, whatever they do."""
        ended = list(self._running)
        for process in ended:
            self._end(process)
        for process in ended:
            await process.wait()

    async def _begun(self) -> Process:
        command = [sys.executable, "-I", str(DECODER)]
        # What the environment knows of tokens is none of its business.
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, env=environment)
        self._running.add(process)
        try:
            async with asyncio.timeout(START_SECONDS):
                await process.stdout.readline()
        except TimeoutError:
            self._end(process)
            raise RuntimeError(f"{DECODER} did not start within {START_SECONDS:g} s") from None
        return process

    async def _asked(self, process: Process, data: bytes) -> Image.Image:
        asked = {"bytes": len(data), "max_pixels": self.limits.max_pixels, "formats": FORMATS}
        process.stdin.write(json.dumps(asked).encode() + b"\n" + data)
        await process.stdin.drain()
        answer = json.loads(await process.stdout.readline())
        if "error" in answer:
            raise RequestError(answer["error"], answer["status"])
        pixels = await process.stdout.readexactly(answer["bytes"])
        return Image.frombytes(answer["mode"], tuple(answer["size"]), pixels)

    def _end(self, process: Process) -> None:
        self._running.discard(process)
        with suppress(ProcessLookupError):
            process.kill()
