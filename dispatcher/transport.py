"""An httpx transport over aiohttp that says what left: a POST at a fraction of the cost.

It is judged by the same tests as httpx's own, and reports to the same `trace` extension:
`send_request_headers.started` before the first byte can leave, `send_request_body.started` before
the body (dispatcher/witness.py). What aiohttp does besides, and must not do here:

- It repeats GET, PUT and DELETE by itself when a kept connection breaks. A request that left is
  given no second connection (`OneConnection`).
- It hands out a kept connection on which the server has spoken meanwhile, and would take what was
  said for the answer to the next order. Such a connection is closed, and another one taken.
- It raises what httpx's callers do not know, and timeouts that do not tell sent from unsent:
  `in_words_of_httpx` goes by what left.

It has no write timeout: who does not read is found out by the caller's own deadline.
"""

import asyncio
import errno
import ssl
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Any, Final

import aiohttp
import httpx
from yarl import URL

from dispatcher.witness import TALK, OneConnection, Talk, witness

HEAD_MAX: Final = 64 * 1024
"""Bytes of one line of an answer's head."""


class WitnessTransport(httpx.AsyncBaseTransport):
    """A pool of connections that reports what it does. One request, one sending."""

    def __init__(
        self, *, connections: int, keepalive_s: float, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        """`connections` bounds the requests under way; without an `ssl_context` no https."""
        self._free = asyncio.Semaphore(connections)
        self._keepalive_s = keepalive_s
        self._ssl_context = ssl_context
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` once.

        Raises:
            httpx.TransportError: the leaf is ConnectError, ConnectTimeout, PoolTimeout or
                UnsupportedProtocol only if nothing left.
        """
        secure = {"http": False, "https": True}.get(request.url.scheme)
        if secure is None or (secure and self._ssl_context is None):
            raise httpx.UnsupportedProtocol(f"no way to speak {request.url.scheme}")
        timeouts = request.extensions.get("timeout", {})
        content = await request.aread()
        talk = Talk(request.extensions.get("trace", _nobody), has_body=bool(content))
        await self._wait_for_a_slot(timeouts.get("pool"))
        try:
            answer = await self._ask(request, content or None, talk, timeouts)
            body = _Body(answer, talk, self._free)
        except BaseException:
            self._free.release()
            raise
        try:
            await talk.tell("http11.send_request_body.complete")  # nobody knew before the answer
            await talk.tell("http11.receive_response_headers.started")
            await talk.tell("http11.receive_response_headers.complete")
        except BaseException:
            await body.aclose()
            raise
        return httpx.Response(answer.status, headers=list(answer.raw_headers), stream=body)

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def _wait_for_a_slot(self, limit_s: float | None) -> None:
        if not self._free.locked():
            await self._free.acquire()
            return
        try:
            async with asyncio.timeout(limit_s):
                await self._free.acquire()
        except TimeoutError as error:
            raise httpx.PoolTimeout("no free connection") from error

    async def _ask(
        self,
        request: httpx.Request,
        content: bytes | None,
        talk: Talk,
        timeouts: dict[str, float | None],
    ) -> aiohttp.ClientResponse:
        self._session = session = self._session or self._open()
        token = TALK.set(talk)
        try:
            return await session.request(
                request.method,
                _address(request.url),
                headers=[(name.decode(), value.decode()) for name, value in request.headers.raw],
                data=content,
                timeout=_patience(timeouts.get("connect"), timeouts.get("read")),
                allow_redirects=False,
            )
        except Exception as error:
            if talk.refusal is not None:  # aiohttp wraps what was raised before the body
                raise talk.refusal from None
            raise in_words_of_httpx(error, left=talk.left) from error
        finally:
            TALK.reset(token)

    def _open(self) -> aiohttp.ClientSession:
        # Not in the constructor: that may be called where no loop runs.
        return aiohttp.ClientSession(
            connector=OneConnection(
                limit=0,  # ours is `_free`: waiting for a slot and connecting are timed apart
                keepalive_timeout=self._keepalive_s,
                ssl=self._ssl_context or True,
                resolver=aiohttp.ThreadedResolver(),  # the system's names, as everywhere else
            ),
            trace_configs=[witness()],
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            auto_decompress=False,
            trust_env=False,
            max_line_size=HEAD_MAX,
            max_field_size=HEAD_MAX,
        )


def in_words_of_httpx(error: Exception, *, left: bool) -> httpx.TransportError:
    """Return the leaf that tells the truth about `error`, given whether anything left."""
    # Not str(error): aiohttp's speak of addresses, and an address may hold a number or a secret.
    said = type(error).__name__
    if isinstance(error, OSError) and not isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        said += f" {errno.errorcode.get(error.errno or 0, '')}".rstrip()
    if not left:
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return httpx.ConnectTimeout(said)
        return httpx.ConnectError(said)
    match error:
        case aiohttp.ServerTimeoutError():
            return httpx.ReadTimeout(said)
        case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError():
            return httpx.RemoteProtocolError(said)
        case aiohttp.ServerDisconnectedError():
            return httpx.RemoteProtocolError(said)
        case ValueError():
            return httpx.LocalProtocolError(said)
        case _:
            return httpx.ReadError(said)


async def _nobody(_event: str, _info: dict[str, Any]) -> None:
    return


class _Body(httpx.AsyncByteStream):
    """What is left of an answer; closed early, its connection goes with it."""

    def __init__(
        self, answer: aiohttp.ClientResponse, talk: Talk, slots: asyncio.Semaphore
    ) -> None:
        self._answer = answer
        self._talk = talk
        self._slots: asyncio.Semaphore | None = slots

    async def __aiter__(self) -> AsyncIterator[bytes]:
        await self._talk.tell("http11.receive_response_body.started")
        try:
            async for part in self._answer.content.iter_any():
                yield part
        except Exception as error:
            raise in_words_of_httpx(error, left=True) from error
        await self._talk.tell("http11.receive_response_body.complete")

    async def aclose(self) -> None:
        if self._slots is None:
            return
        slots, self._slots = self._slots, None
        self._answer.close()
        slots.release()
        await self._talk.tell("http11.response_closed.started")
        await self._talk.tell("http11.response_closed.complete")


def _address(url: httpx.URL) -> URL:
    # Without the userinfo, of which aiohttp would make a header of its own.
    where = f"{url.scheme}://{url.netloc.decode()}{url.raw_path.decode()}"
    return URL(where, encoded=True)


@lru_cache(maxsize=8)
def _patience(connect_s: float | None, read_s: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(connect=connect_s, sock_read=read_s)
