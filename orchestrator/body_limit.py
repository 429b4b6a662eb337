"""No request body above a limit is read to its end, whatever its Content-Length claims."""

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.problems import problem

BODY_MAX: Final = 2 * 1024 * 1024
"""Bytes. Far above any valid request, so that an overlong field is named before this is reached."""


class BodyLimit:
    """ASGI middleware: reads the body, and hands it on only if it is small enough."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413, or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = None if _announced(scope) > BODY_MAX else await _read(receive)
        if body is None:
            told = problem(
                413, "too-large", "Body too large", f"body: must have at most {BODY_MAX} bytes"
            )
            await told.response({"Connection": "close"})(scope, receive, send)
            return
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return unread.pop() if unread else await receive()

        await self._app(scope, replay, send)


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:20])
    return 0


async def _read(receive: Receive) -> bytes | None:
    """Return the body, or None if it is too large."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY_MAX:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)
