"""From the body of an HTTP request to what `EndpointHandler` takes."""

import json
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from ..handler import Limits, RequestError, check_bytes, decode_base64


# Besides image/*: what the Python and JavaScript clients, browsers and curl send an image or JSON as.
CONTENT_TYPES = {
    "",
    "application/json",
    "application/octet-stream",
    "application/x-www-form-urlencoded",
    "binary/octet-stream",
    "text/plain",
}
ROOM_FOR_PARAMETERS = 64 * 1024  # bytes beside the base64 image
DRAINED = 4  # times the limit: so much is read and thrown away, so that the sender gets to read the refusal


def most_bytes(limits: Limits) -> int:
    """The largest body: an image of the largest size in base64, and parameters."""
    return -(-limits.max_bytes // 3) * 4 + ROOM_FOR_PARAMETERS


class FullError(Exception):
    """The bodies that are arriving fill the room there is for them."""


@dataclass
class Held:
    """Bytes of bodies that are still arriving, and how many there may be."""

    most: int
    now: int = 0

    def take(self, count: int) -> bool:
        """Whether there was room for so many more."""
        has_room = self.now + count <= self.most
        self.now += count if has_room else 0
        return has_room


async def read_body(request: Request, most: int, held: Held) -> bytes:
    """Reads a body while it arrives, never holding more than `most` bytes of it.

    What is refused is read to its end all the same, up to a limit: many clients read the refusal only after they have sent
    everything.

    Raises:
        RequestError: (413) it is longer.
        FullError: there is no room for it beside those of others.
    """
    refusal = RequestError(f"The body is larger than {most / 2**20:.3g} MiB; send a smaller image.", 413)
    if int(request.headers.get("content-length", 0)) > DRAINED * most:
        raise refusal
    body, size, has_room = bytearray(), 0, True
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > DRAINED * most:
                break
            has_room = has_room and (size > most or held.take(len(chunk)))
            if size <= most and has_room:
                body += chunk
            else:
                held.now -= len(body)
                body.clear()
        if size > most:
            raise refusal
        if not has_room:
            raise FullError
        return bytes(body)
    finally:
        held.now -= len(body)


def image_bytes(inputs: Any, limits: Limits) -> bytes:
    """The encoded image of a request: bytes as they are, a string from base64.

    Raises:
        RequestError: (400) it is neither, (413) it is too large.
    """
    if isinstance(inputs, str):
        return decode_base64(inputs, limits)
    if not isinstance(inputs, bytes):
        kind = "missing" if inputs is None else f"a {type(inputs).__name__}"
        raise RequestError(f"inputs is {kind}; expected one image, as bytes or as a base64 string.")
    check_bytes(len(inputs), limits)
    return inputs


def request_data(body: bytes, content_type: str, task: str) -> dict[str, Any]:
    """`inputs` and `parameters` of a request; `parameters.task` wins over the `task` of the route.

    Raises:
        RequestError: (415) a content type no image is sent as; (400) an empty body, or broken JSON.
    """
    kind = content_type.split(";")[0].strip().lower()
    if not kind.startswith("image/") and kind not in CONTENT_TYPES:
        raise RequestError(f"Content-Type {kind:.60} is not supported; send image/* or application/json.", 415)
    if not body:
        raise RequestError("The body is empty; send the bytes of an image, or JSON with inputs.")
    # The widget sends images of unknown type as application/json, and clients send JSON without saying so.
    if kind.startswith("image/") or body[:64].lstrip()[:1] not in (b"{", b"[", b'"'):
        return {"inputs": body, "parameters": {"task": task}}
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"The body is no valid JSON ({' '.join(str(error).split()):.100}).") from None
    if not isinstance(data, dict):
        raise RequestError(f'The body is a JSON {type(data).__name__}; expected {{"inputs": "<base64>"}}.')
    parameters = data.get("parameters")
    if parameters is None or isinstance(parameters, dict):
        parameters = {"task": task, **(parameters or {})}
    return {"inputs": data.get("inputs"), "parameters": parameters}
