"""A server that follows a script, one act for each connection, and counts what reached it.

An act is a coroutine that is given the `Talk` and does to it what it likes. A connection beyond the
script is a re-send nobody asked for: it is counted, and closed.
"""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

SID: Final = "CA" + "f" * 32
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


@dataclass
class Seen:
    """What reached the server."""

    url: str = ""
    connections: int = 0
    octets: int = 0
    """Bytes that were read, of whole requests and of halves."""
    requests: list[bytes] = field(default_factory=list)
    """Every request that arrived complete, head and body."""
    leave: Callable[[], Awaitable[None]] = field(init=False)
    """Close the door, and every connection."""

    def head(self, nth: int = 0) -> dict[str, str]:
        """Return the headers of a request, by lower-case name."""
        lines = self.requests[nth].partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (s.partition(":") for s in lines)}

    def line(self, nth: int = 0) -> str:
        """Return the first line of a request."""
        return self.requests[nth].split(b"\r\n", 1)[0].decode("latin-1")

    def body(self, nth: int = 0) -> Any:
        """Return the JSON that came with a request."""
        return json.loads(self.requests[nth].partition(b"\r\n\r\n")[2])


@dataclass
class Talk:
    """One connection."""

    seen: Seen
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def hear(self) -> bytes:
        """Read one whole request and count it."""
        request = await self._read(self.reader.readuntil(b"\r\n\r\n"))
        for line in request.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                request += await self._read(self.reader.readexactly(int(line.split(b":")[1])))
        self.seen.requests.append(request)
        return request

    async def say(self, words: bytes) -> None:
        self.writer.write(words)
        await self.writer.drain()

    async def until_gone(self) -> None:
        while words := await self.reader.read(4096):
            self.seen.octets += len(words)

    def reset(self) -> None:
        self.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE
        )
        self.writer.transport.abort()

    async def _read(self, words: Awaitable[bytes]) -> bytes:
        heard = await words
        self.seen.octets += len(heard)
        return heard


Act = Callable[[Talk], Awaitable[None]]


@asynccontextmanager
async def misbehaving_server(*script: Act) -> AsyncIterator[Seen]:
    """Serve while the block lasts; the value tells the URL and what was seen."""
    seen, acts, talks = Seen(), iter(script), set[asyncio.Task[None]]()

    async def follow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        act = next(acts, close_at_once)
        with suppress(OSError, asyncio.IncompleteReadError):
            await act(Talk(seen, reader, writer))
            writer.close()
            await writer.wait_closed()

    def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.create_task(follow(reader, writer))
        talks.add(talk)
        talk.add_done_callback(talks.discard)
        talk.add_done_callback(lambda _: writer.transport.abort())

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    seen.url = f"http://{host}:{port}"

    async def leave() -> None:
        server.close()
        for talk in tuple(talks):
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
        await server.wait_closed()

    seen.leave = leave
    try:
        yield seen
    finally:
        await leave()


def answer(
    body: bytes = b"", status: str = "200 OK", *headers: str, promised: int | None = None
) -> bytes:
    """Return an answer; `promised` is the content-length it claims, right or wrong."""
    length = len(body) if promised is None else promised
    told = [f"HTTP/1.1 {status}", f"Content-Length: {length}", *headers]
    return "\r\n".join(told).encode() + b"\r\n\r\n" + body


PLACED: Final = answer(
    json.dumps({"status": "Call initiated", "call_sid": SID}).encode(),
    "200 OK",
    "Content-Type: application/json",
)


def says(words: bytes, *, then: Act | None = None, requests: int = 1) -> Act:
    """Return an act: hear a request, say `words`, as often as told; then the next act."""

    async def act(talk: Talk) -> None:
        for _ in range(requests):
            await talk.hear()
            await talk.say(words)
        await (then or _until_gone)(talk)

    return act


async def _until_gone(talk: Talk) -> None:
    await talk.until_gone()


async def close_at_once(talk: Talk) -> None:
    """Close without having read a byte."""


async def reset_unread(talk: Talk) -> None:
    """Reset without having read a byte."""
    talk.reset()


async def close_after_reading(talk: Talk) -> None:
    await talk.hear()


async def reset_after_reading(talk: Talk) -> None:
    await talk.hear()
    talk.reset()


async def answer_unread(talk: Talk) -> None:
    """Name the call when only the head is there; then read the rest."""
    head = await talk.reader.readuntil(b"\r\n\r\n")
    await talk.say(PLACED)
    talk.seen.requests.append(head)
    talk.seen.octets += len(head)
    await talk.until_gone()


async def hang(talk: Talk) -> None:
    """Take the request and say nothing."""
    await talk.hear()
    await talk.until_gone()


async def say_without_end(talk: Talk) -> None:
    """Begin a body that has no end, as fast as it is read."""
    await talk.hear()
    await talk.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await talk.say(b"1000\r\n" + b" " * 0x1000 + b"\r\n")


async def drip(talk: Talk) -> None:
    """Name the call at last, after seconds of a byte so often that no read times out."""
    body = b" " * 200 + PLACED.partition(b"\r\n\r\n")[2]
    await talk.hear()
    await talk.say(answer(promised=len(body)))
    for octet in body:
        await talk.say(bytes([octet]))
        await asyncio.sleep(0.02)
