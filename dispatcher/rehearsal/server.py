"""HTTP/1.1 for the rehearsal handler, close enough to the socket to misbehave on it.

h11 keeps the grammar, asyncio streams carry the bytes. A request that is no HTTP is told so and
costs only its own connection.
"""

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import h11

from dispatcher.rehearsal.exchange import Answer, Problem, Request
from dispatcher.rehearsal.handler import RehearsalHandler
from shared.listening import listen

BODY_MAX: Final = 1024 * 1024
_CHUNK: Final = 64 * 1024
_FAREWELL_S: Final = 2.0
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # linger for no time: RST instead of FIN

_BROKEN: Final = Problem(
    500, "failed", "Failed", "It broke; the call may be placed.", call_placed="unknown"
)
_TOO_LARGE: Final = Problem(413, "too-large", "Too large", f"A body has at most {BODY_MAX} bytes.")

_log = logging.getLogger(__name__)


@asynccontextmanager
async def rehearsal_server(
    handler: RehearsalHandler, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[str]:
    """Serve while the block lasts; the value is the URL. On leaving, connections are cut."""
    talks: set[asyncio.Task[None]] = set()

    def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.create_task(_talk(handler, reader, writer))
        talks.add(talk)
        talk.add_done_callback(talks.discard)

    listening = listen(host, port, remedy="--port or RINGONCE_REHEARSAL_PORT")
    server = await asyncio.start_server(greet, sock=listening, backlog=1024)
    try:
        yield _url(server)
    finally:
        server.close()
        while talks:  # one more may have been accepted just before the door was closed
            for talk in talks:
                talk.cancel()
            await asyncio.wait(talks)
        await server.wait_closed()


async def serve(
    handler: RehearsalHandler,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    announce: Callable[[str], object] | None = None,
) -> None:
    """Serve until cancelled; `announce` hears the URL once connections are accepted."""
    async with rehearsal_server(handler, host, port) as url:
        if announce is not None:
            announce(url)
        await asyncio.Event().wait()


async def _talk(
    handler: RehearsalHandler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer one connection's requests until either side is done."""
    connection = h11.Connection(h11.SERVER)
    try:
        with suppress(OSError):  # the client went away: nobody is left to tell
            while await _exchange(handler, connection, reader, writer):
                connection.start_next_cycle()
            if connection.their_state in {h11.SEND_BODY, h11.ERROR}:
                await _hear_out(reader, writer)
            writer.close()
            await writer.wait_closed()
    finally:
        writer.transport.abort()


async def _exchange(
    handler: RehearsalHandler,
    connection: h11.Connection,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> bool:
    """Read one request, answer it, and say whether the connection may go on."""
    try:
        request = await _read(connection, reader, writer)
    except h11.RemoteProtocolError as broken:
        status = broken.error_status_hint
        request = Problem(status, "bad-http", "Bad request", "That is not HTTP/1.1.")
    if request is None:
        return False
    if isinstance(request, Problem):
        if connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            answer = request.answer(members=handler.promises.problem_members)
            await _say(connection, writer, answer, closing=True)
        return False
    try:
        answer = await handler.answer(request)
    except Exception:  # noqa: BLE001 - one broken request must not end the witness
        _log.exception("rehearsal.broken")
        answer = _BROKEN.answer(members=handler.promises.problem_members)
    match answer.manner:
        case "reset":
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE
            )
            writer.transport.abort()
        case "hang":
            with suppress(TimeoutError):
                async with asyncio.timeout(answer.hang_s):
                    await _until_gone(reader)
        case _:
            await _say(connection, writer, answer, headless=request.method == "HEAD")
    return connection.our_state is h11.DONE and connection.their_state is h11.DONE


async def _read(
    connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Request | Problem | None:
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                go_on = connection.send(h11.InformationalResponse(status_code=100, headers=[]))
                writer.write(go_on or b"")
            connection.receive_data(await reader.read(_CHUNK))
        elif isinstance(event, h11.Request):
            head = event
            if any(n == b"content-length" and int(v) > BODY_MAX for n, v in event.headers):
                return _TOO_LARGE
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > BODY_MAX:
                return _TOO_LARGE
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            method, target = head.method.decode(), head.target.decode()
            return Request(method, target, list(head.headers), bytes(body))
        else:  # the client closed, or wants to: nothing more to answer
            return None


async def _say(
    connection: h11.Connection,
    writer: asyncio.StreamWriter,
    answer: Answer,
    *,
    headless: bool = False,
    closing: bool = False,
) -> None:
    headers = [
        (b"content-type", answer.content_type),
        (b"content-length", str(len(answer.body)).encode()),
        *answer.headers,
    ]
    if closing:
        headers.append((b"connection", b"close"))
    said = connection.send(h11.Response(status_code=answer.status, headers=headers)) or b""
    whole = answer.manner == "whole"
    if not headless:
        body = answer.body if whole else answer.body[: len(answer.body) // 2]
        said += connection.send(h11.Data(data=body)) or b""
    if whole:
        said += connection.send(h11.EndOfMessage()) or b""
    writer.write(said)
    await writer.drain()


async def _hear_out(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # Closing on unread bytes sends a RST, which can overtake the answer: read them first.
    with suppress(TimeoutError):
        async with asyncio.timeout(_FAREWELL_S):
            writer.write_eof()
            await _until_gone(reader)


async def _until_gone(reader: asyncio.StreamReader) -> None:
    while await reader.read(_CHUNK):
        pass


def _url(server: asyncio.Server) -> str:
    host, port, *_ = server.sockets[0].getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
