"""One contract for every way to carry a request: what left is told truly, and leaves once."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx
import pytest

from dispatcher.transport import WitnessTransport, in_words_of_httpx
from dispatcher.verdict import NEVER_LEFT
from dispatcher.wire import HeldBack, WireWatch
from tests.fakes.misbehaving_server import (
    PLACED,
    Act,
    Seen,
    Talk,
    answer,
    close_after_reading,
    close_at_once,
    hang,
    misbehaving_server,
    reset_after_reading,
    reset_unread,
    says,
)
from tests.fakes.transports import TRANSPORTS, ours

SHORT_S = 0.3
LONG_S = 10.0
METHODS = ("POST", "PUT", "GET", "DELETE")

Make = Callable[[int], httpx.AsyncBaseTransport]


@pytest.fixture(params=TRANSPORTS)
def make(request: pytest.FixtureRequest) -> Make:
    return TRANSPORTS[request.param]


@asynccontextmanager
async def carrying(
    make: Make, *script: Act, connections: int = 5
) -> AsyncIterator[tuple[httpx.AsyncBaseTransport, Seen]]:
    async with misbehaving_server(*script) as seen, make(connections) as transport:
        yield transport, seen


def wish(
    url: str,
    method: str = "POST",
    *,
    content: bytes = b'{"order_id": "ord_1"}',
    watch: Any = None,
    limit_s: float = LONG_S,
) -> httpx.Request:
    limits = httpx.Timeout(limit_s).as_dict()
    return httpx.Request(
        method,
        url,
        headers={"x-who": "Ada"},
        content=content if method in {"POST", "PUT"} else None,
        extensions={"timeout": limits} | ({"trace": watch} if watch else {}),
    )


async def carried(transport: httpx.AsyncBaseTransport, request: httpx.Request) -> bytes:
    response = await transport.handle_async_request(request)
    try:
        return await response.aread()
    finally:
        await response.aclose()


def watching() -> WireWatch:
    return WireWatch(lambda: True, lambda: True, asyncio.get_running_loop().time)


# What each end is called

ENDS: dict[str, tuple[Act, set[type[Exception]]]] = {
    "closed unread": (close_at_once, {httpx.RemoteProtocolError, httpx.ReadError}),
    "reset unread": (reset_unread, {httpx.RemoteProtocolError, httpx.ReadError}),
    "closed after reading": (close_after_reading, {httpx.RemoteProtocolError}),
    "reset after reading": (reset_after_reading, {httpx.RemoteProtocolError, httpx.ReadError}),
    "silence": (hang, {httpx.ReadTimeout}),
    "garbage": (
        says(b"\x16\x03\x01 what?\r\n\r\n", then=close_at_once),
        {httpx.RemoteProtocolError},
    ),
    "half a head": (
        says(b"HTTP/1.1 200 OK\r\nCo", then=close_at_once),
        {httpx.RemoteProtocolError},
    ),
    "half a head, and silence": (says(b"HTTP/1.1 200 OK\r\nCo"), {httpx.ReadTimeout}),
    "half a body": (
        says(answer(b"{", promised=9), then=close_at_once),
        {httpx.RemoteProtocolError},
    ),
    "half a body, and reset": (
        says(answer(b"{", promised=9), then=reset_unread),
        {httpx.RemoteProtocolError, httpx.ReadError},
    ),
    "half a body, and silence": (says(answer(b"{", promised=9)), {httpx.ReadTimeout}),
    "a cut chunk": (
        says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", then=close_at_once),
        {httpx.RemoteProtocolError},
    ),
}


@pytest.mark.parametrize("what", ENDS)
@pytest.mark.parametrize("method", METHODS)
async def test_a_request_that_left_and_was_not_answered_says_so_and_left_once(
    make: Make, method: str, what: str
):
    act, leaves = ENDS[what]
    limit_s = SHORT_S if httpx.ReadTimeout in leaves else LONG_S
    async with carrying(make, act) as (transport, seen):
        watch = watching()
        with pytest.raises(httpx.TransportError) as broken:
            await carried(transport, wish(seen.url, method, watch=watch.watch, limit_s=limit_s))
    assert type(broken.value) in leaves
    assert not NEVER_LEFT[type(broken.value)]
    assert watch.request_left
    assert seen.connections == 1
    assert len(seen.requests) == (0 if "unread" in what else 1)


@pytest.mark.parametrize("end", [close_at_once, reset_unread, close_after_reading])
@pytest.mark.parametrize("method", METHODS)
async def test_a_kept_connection_that_ends_as_a_request_arrives_has_it_sent_once_by_any_method(
    make: Make, method: str, end: Act
):
    async def at_the_first_byte(talk: Talk) -> None:
        if end is not close_after_reading:
            await talk.reader.readexactly(1)
        await end(talk)

    script = says(PLACED, then=at_the_first_byte), says(PLACED)
    async with carrying(make, *script) as (transport, seen):
        await carried(transport, wish(seen.url, method))
        watch = watching()
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            await carried(transport, wish(seen.url, method, watch=watch.watch))
        assert watch.request_left
        assert seen.connections == 1
        await carried(transport, wish(seen.url, method))
    assert seen.connections == 2
    assert len(seen.requests) == (3 if end is close_after_reading else 2)


# Nothing left


async def test_a_server_that_speaks_no_tls_is_sent_nothing(make: Make):
    async def shrug(talk: Talk) -> None:
        await talk.reader.read(1)
        await talk.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with carrying(make, shrug) as (transport, seen):
        watch = watching()
        with pytest.raises(httpx.ConnectError):
            await carried(transport, wish(seen.url.replace("http:", "https:"), watch=watch.watch))
    assert not watch.request_left


async def test_a_server_that_keeps_still_under_tls_is_sent_nothing(make: Make):
    async def listen(talk: Talk) -> None:
        await talk.until_gone()

    async with carrying(make, listen) as (transport, seen):
        watch = watching()
        url = seen.url.replace("http:", "https:")
        with pytest.raises(httpx.ConnectTimeout):
            await carried(transport, wish(url, watch=watch.watch, limit_s=SHORT_S))
    assert not watch.request_left


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "https://127.0.0.1/"])
async def test_what_cannot_be_spoken_is_not_sent(url: str):
    async with WitnessTransport(connections=1, keepalive_s=1) as transport:
        with pytest.raises(httpx.UnsupportedProtocol):
            await carried(transport, wish(url))


async def test_ours_sends_nothing_after_it_was_closed():
    async with carrying(ours, says(PLACED), says(PLACED)) as (transport, seen):
        await carried(transport, wish(seen.url))
        await transport.aclose()
        with pytest.raises(httpx.ConnectError):
            await carried(transport, wish(seen.url))
    assert len(seen.requests) == 1


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("method", METHODS)
async def test_a_request_that_is_held_back_does_not_leave(make: Make, method: str, *, kept: bool):
    async def refuse(event: str, _info: dict[str, Any]) -> None:
        if event.endswith("send_request_headers.started"):
            raise HeldBack("no")

    async with carrying(make, says(PLACED), says(PLACED)) as (transport, seen):
        if kept:
            await carried(transport, wish(seen.url, method))
        with pytest.raises(HeldBack):
            await carried(transport, wish(seen.url, method, watch=refuse))
        await carried(transport, wish(seen.url, method))
        assert len(seen.requests) == 1 + kept
        assert seen.octets == sum(map(len, seen.requests))


@pytest.mark.parametrize("method", METHODS)
async def test_ours_lets_nothing_leave_of_a_request_that_is_held_back_before_its_body(method: str):
    async def refuse(event: str, _info: dict[str, Any]) -> None:
        if event.endswith("send_request_body.started"):
            raise HeldBack("no")

    async with carrying(ours, says(PLACED), says(PLACED)) as (transport, seen):
        with pytest.raises(HeldBack):
            await carried(transport, wish(seen.url, method, watch=refuse))
        await carried(transport, wish(seen.url, method))
        assert len(seen.requests) == 1
        assert seen.octets == len(seen.requests[0])


# What leaves


@pytest.mark.parametrize(
    "path", ["/order", "/a%2Fb/%7Ec?since=1%202&x=%2B1+2", "/ü/{x}?q=ü", "//x"]
)
@pytest.mark.parametrize("method", METHODS)
async def test_ours_sends_what_httpx_would_send(method: str, path: str):
    told: list[tuple[str, dict[str, str], bytes]] = []
    for make in TRANSPORTS.values():
        async with carrying(make, says(PLACED)) as (transport, seen):
            await carried(transport, wish(seen.url + path, method))
            head = {name: value for name, value in seen.head().items() if name != "host"}
            assert seen.head()["host"] == seen.url.removeprefix("http://")
            if method == "DELETE":
                head.pop("content-length", None)  # aiohttp says that there is no body
            told.append((seen.line(), head, seen.requests[0].partition(b"\r\n\r\n")[2]))
    assert told[0] == told[1]


async def test_ours_makes_no_header_of_a_password_in_the_address():
    async with carrying(ours, says(PLACED)) as (transport, seen):
        await carried(transport, wish(seen.url.replace("//", "//ada:secret@")))
    assert "authorization" not in seen.head()


# Connections


async def test_ours_does_not_take_a_second_answer_for_that_to_the_next_request():
    stray = answer(b'{"call_sid": "CAstray"}')
    async with carrying(ours, says(PLACED + stray), says(PLACED)) as (transport, seen):
        await carried(transport, wish(seen.url))
        assert b"CAstray" not in await carried(transport, wish(seen.url))
    assert (seen.connections, len(seen.requests)) == (2, 2)


async def test_an_answer_that_is_not_read_to_its_end_gives_up_its_connection(make: Make):
    script = says(answer(b"{", promised=9)), says(PLACED)
    async with carrying(make, *script, connections=1) as (transport, seen):
        response = await transport.handle_async_request(wish(seen.url))
        await response.aclose()
        assert b"call_sid" in await carried(transport, wish(seen.url))
    assert seen.connections == 2


async def test_who_waits_for_a_connection_gets_the_first_that_is_free(make: Make):
    go_on = asyncio.Event()

    async def wait(talk: Talk) -> None:
        await talk.hear()
        await go_on.wait()
        await talk.say(PLACED)
        await says(PLACED)(talk)

    async with carrying(make, wait, connections=1) as (transport, seen):
        both = [asyncio.create_task(carried(transport, wish(seen.url))) for _ in range(2)]
        while not seen.requests:
            await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(*both)
    assert (seen.connections, len(seen.requests)) == (1, 2)


@pytest.mark.parametrize("method", METHODS)
async def test_a_redirect_is_an_answer_and_is_not_followed(make: Make, method: str):
    away = answer(b"", "307 Temporary Redirect", "Location: /elsewhere")
    async with carrying(make, says(away), says(PLACED)) as (transport, seen):
        response = await transport.handle_async_request(wish(seen.url, method))
        await response.aclose()
    assert response.status_code == 307
    assert len(seen.requests) == 1


async def test_a_packed_answer_is_handed_on_as_it_came_and_httpx_unpacks_it(make: Make):
    packed = gzip.compress(b'{"call_sid": "CA1"}')
    async with carrying(make, says(answer(packed, "200 OK", "Content-Encoding: gzip"))) as (
        transport,
        seen,
    ):
        assert await carried(transport, wish(seen.url)) == b'{"call_sid": "CA1"}'


# Every exception


def leaves_of(root: type[Exception]) -> Iterator[type[Exception]]:
    yield root
    for child in root.__subclasses__():
        yield from leaves_of(child)


FOREIGN = sorted(
    {
        *leaves_of(aiohttp.ClientError),
        *(OSError, ConnectionResetError, TimeoutError, ssl.SSLError, EOFError),
        *(RuntimeError, ValueError, TypeError, AssertionError),
    },
    key=lambda leaf: leaf.__name__,
)


@pytest.mark.parametrize("leaf", FOREIGN, ids=lambda leaf: leaf.__name__)
def test_no_exception_of_aiohttp_makes_a_request_that_left_one_that_did_not(
    leaf: type[Exception],
):
    error = leaf.__new__(leaf)
    sent, unsent = in_words_of_httpx(error, left=True), in_words_of_httpx(error, left=False)
    assert not NEVER_LEFT[type(sent)]
    assert NEVER_LEFT[type(unsent)]
    assert "/" not in f"{sent}{unsent}"
