"""A line to the store that can fail: one listening port, with the store's Unix socket behind it.

Each worker, each desk and the conversations have a line of their own, so that one can be cut while
the others go on. What a fault does is decided for each piece of data at the moment it passes.
"""

import asyncio
import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

LineFault = Literal["cut-before", "cut-after", "delay", "half-open"]
_PIECE = 64 * 1024


@dataclass
class Line:
    """One port before the store. Set `fault` and unset it; `refuse` closes the port."""

    name: str
    port: int
    store: Path
    fault: LineFault | None = None
    delay_s: float = 0.0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whoever makes it fail."""
    _server: asyncio.Server | None = None
    _talks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Where a client finds the store through this line."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(
            self._greet, "127.0.0.1", self.port, limit=_PIECE, backlog=512
        )

    async def refuse(self) -> None:
        """Stop listening, and cut what is open: whoever connects is refused."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for talk in self._talks:
            talk.cancel()
        if self._talks:
            await asyncio.wait(self._talks)

    def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.create_task(self._talk(reader, writer))
        self._talks.add(talk)
        talk.add_done_callback(self._talks.discard)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass data both ways until one side is gone or a fault cuts it."""
        behind: asyncio.StreamWriter | None = None
        with contextlib.suppress(OSError):  # the store is away, or one side went
            try:
                answers, behind = await asyncio.open_unix_connection(self.store, limit=_PIECE)
                call = _Call(self)
                ways = [
                    asyncio.create_task(call.carry(reader, behind, answer=False)),
                    asyncio.create_task(call.carry(answers, writer, answer=True)),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
            finally:
                writer.transport.abort()
                if behind is not None:
                    behind.transport.abort()


@dataclass
class _Call:
    """One connection through a line."""

    line: Line
    swallowing: bool = False
    """It swallowed something once: there is no way back to a whole conversation."""

    async def carry(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, answer: bool
    ) -> None:
        """Pass on what comes until there is no more, or a fault says to cut."""
        while piece := await source.read(_PIECE):
            fault = self.line.fault
            if fault == "cut-before" and not answer:
                return
            if fault == "cut-after" and answer:
                return
            if fault == "half-open":
                self.swallowing = True
            if self.swallowing:
                continue
            if fault == "delay" and not answer:
                await asyncio.sleep(self.line.delay_s)
            target.write(piece)
            await target.drain()
        if self.swallowing and answer:
            await asyncio.Event().wait()  # even the store's farewell is swallowed
