"""A door before a Redis that can be slammed: connections are cut, refused or slowed at will."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit, urlunsplit


class FaultProxy:
    """Passes bytes between `url` and the server behind `upstream`, a redis:// or unix:// URL."""

    def __init__(self, upstream: str) -> None:
        self._to = urlsplit(upstream)
        self._open: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._port = 0
        self.delay_s = 0.0
        """How long each piece is held before it is passed on."""

    @property
    def url(self) -> str:
        """Return the address to connect to instead of the real one."""
        login, at, _ = self._to.netloc.rpartition("@")
        path = "/0" if self._to.scheme == "unix" else self._to.path
        return urlunsplit(("redis", f"{login}{at}127.0.0.1:{self._port}", path, "", ""))

    async def accept(self) -> None:
        """Open the door, always at the same address."""
        self._server = await asyncio.start_server(self._greet, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Close the door, and cut whoever is inside."""
        if self._server is not None:
            self._server.close()
            self.cut()
            await asyncio.gather(*self._pumps, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None

    def cut(self) -> None:
        """Cut every connection, and leave the door open."""
        for writer in self._open:
            writer.transport.abort()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._to.scheme == "unix":
            upstream = asyncio.open_unix_connection(self._to.path)
        else:
            upstream = asyncio.open_connection(self._to.hostname, self._to.port or 6379)
        there_reader, there_writer = await upstream
        self._open |= {writer, there_writer}
        for source, sink in ((reader, there_writer), (there_reader, writer)):
            pump = asyncio.create_task(self._pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await source.read(65536):
                await asyncio.sleep(self.delay_s)
                sink.write(piece)
                await sink.drain()
        sink.transport.abort()
        self._open.discard(sink)


@asynccontextmanager
async def fault_proxy(upstream: str) -> AsyncIterator[FaultProxy]:
    """Stand before `upstream` while the block lasts, door open at first."""
    proxy = FaultProxy(upstream)
    await proxy.accept()
    try:
        yield proxy
    finally:
        await proxy.refuse()
