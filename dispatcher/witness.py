"""What aiohttp does with one request, told to whoever listens, in httpx's words.

The witness is aiohttp's TraceConfig. In 3.14 `on_request_headers_sent` is awaited before the head
is even written down, and `on_request_chunk_sent` before head and body go out in one write. Nothing
leaves between the two, so the first is early rather than late, and would still be in time in a
version that writes the head at once; whoever is to be told may raise in either, and nothing leaves.
"""

import select
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import aiohttp
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

Listener = Callable[[str, dict[str, Any]], Awaitable[None]]
"""As httpx's `trace` extension has it: the event, and what goes with it (nothing, here)."""


def witness() -> aiohttp.TraceConfig:
    """Return what makes aiohttp tell the `TALK` of a request what becomes of it."""
    config = aiohttp.TraceConfig()
    config.on_connection_create_start.append(_connecting)
    config.on_request_headers_sent.append(_leaving)
    config.on_request_chunk_sent.append(_body_leaving)
    return config


class Talk:
    """One request, and who listens to what becomes of it."""

    __slots__ = ("_listener", "fresh", "has_body", "left", "refusal")

    def __init__(self, listener: Listener, *, has_body: bool) -> None:
        self._listener = listener
        self.has_body = has_body
        self.fresh = False
        """Its connection was made for it."""
        self.left = False
        self.refusal: Exception | None = None

    async def tell(self, event: str) -> None:
        """Report `event`; what the listener raises stops the request."""
        try:
            await self._listener(event, {})
        except Exception as error:
            self.refusal = error
            raise


TALK: ContextVar[Talk] = ContextVar("the request under way")


class OneConnection(aiohttp.TCPConnector):
    """Gives a request one connection, on which nobody has spoken yet."""

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  (aiohttp's signature)
    ) -> Connection:
        """Return a connection; none to a request that had one, and sent."""
        talk = TALK.get()
        if talk.left:
            raise aiohttp.ServerDisconnectedError("it broke off; nothing is sent a second time")
        while True:
            talk.fresh = False
            connection = await super().connect(req, traces, timeout)
            if talk.fresh or _is_quiet(connection):
                break
            connection.close()
        if talk.fresh:
            try:
                await talk.tell("connection.connect_tcp.complete")
            except BaseException:
                connection.close()
                raise
        return connection


def _is_quiet(connection: Connection) -> bool:
    protocol, transport = connection.protocol, connection.transport
    if protocol is None or transport is None or protocol.should_close:
        return False
    # The loop may not have come to it yet; httpx's own pool looks at the socket too.
    unread = select.poll()
    unread.register(transport.get_extra_info("socket"), select.POLLIN)
    return not unread.poll(0)


async def _connecting(_: aiohttp.ClientSession, _ctx: SimpleNamespace, _what: object) -> None:
    talk = TALK.get()
    talk.fresh = True
    await talk.tell("connection.connect_tcp.started")


async def _leaving(_: aiohttp.ClientSession, _ctx: SimpleNamespace, _what: object) -> None:
    talk = TALK.get()
    await talk.tell("http11.send_request_headers.started")
    talk.left = True
    await talk.tell("http11.send_request_headers.complete")
    if not talk.has_body:
        await talk.tell("http11.send_request_body.started")


async def _body_leaving(_: aiohttp.ClientSession, _ctx: SimpleNamespace, _what: object) -> None:
    await TALK.get().tell("http11.send_request_body.started")
