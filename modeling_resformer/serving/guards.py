"""Who may ask: web pages of allowed origins, and whoever has the token."""

import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send


OPEN_PATHS = ("/live", "/ready", "/health")  # whoever watches the server has no token
ANY = "*"


class Guard:
    """Answers 403 to web pages of other origins, and 401 to whoever lacks the token.

    A browser sends a page's POST before it asks whether the page may read the answer: to leave the CORS headers out is
    not enough.

    Args:
        app: What is guarded.
        origins: Web pages that may ask, or `"*"`.
        token: The bearer token to ask for; none where None.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str], token: str | None) -> None:
        self.app, self.origins = app, tuple(origins)
        self.expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self.refusal(scope) if scope["type"] == "http" else None
        await (refusal or self.app)(scope, receive, send)

    def refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and ANY not in self.origins and origin not in self.origins:
            message = "Web pages of this origin may not ask; the server's owner can allow it by --allow-origin."
            return JSONResponse({"error": message}, 403)
        if self.expected is None or scope["path"] in OPEN_PATHS:
            return None
        given = headers.get("authorization", "").encode("utf-8", "surrogateescape")
        if hmac.compare_digest(given, self.expected):
            return None
        message = "The server asks for its token: Authorization: Bearer TOKEN."
        return JSONResponse({"error": message}, 401, {"www-authenticate": "Bearer"})
