"""The processes of one run, by name: the store, the handler, the workers and the conversations.

Each can be struck and comes back as it was. One that ends without having been struck is a finding:
it is written down as a surprise, and started again as a supervisor would.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shared.child import ChildFailed, first_line
from shared.embedded_server import NoStore, die_with_parent, start_server

STARTS_MAX: Final = 12
_LOOK_S: Final = 0.2
_TERM_PATIENCE_S: Final = 30.0
_LISTEN_PATIENCE_S: Final = 20.0
_PORTS: Final = range(20_000, 32_000)
"""Below the ports that Linux hands out by itself: nobody takes one while its owner is dead."""

Process = subprocess.Popen[str] | subprocess.Popen[bytes]


@dataclass
class Member:
    """One process that can be struck; whoever strikes it holds `turn` until it is back."""

    name: str
    start: Callable[[float], Awaitable[Process]]
    """Start it; the argument is how far its clock is off."""
    process: Process | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    shift_s: float = 0.0

    async def up(self) -> None:
        """Start it until it comes up: its store or its port may be away for a while.

        Raises:
            ChildFailed, NoStore: it did not.
        """
        for left in reversed(range(STARTS_MAX)):
            try:
                self.process = await self.start(self.shift_s)
            except (ChildFailed, NoStore):
                if not left:
                    raise
                await asyncio.sleep(_LOOK_S)
            else:
                return

    def send(self, signum: signal.Signals) -> None:
        """Send it a signal."""
        if self.process is not None:
            self.process.send_signal(signum)

    async def down(self, signum: signal.Signals) -> str | None:
        """End it; return what was wrong with how it ended. Deaf to SIGTERM, it is killed."""
        if self.process is None:
            return None
        self.process.send_signal(signum)
        try:
            code = await asyncio.to_thread(self.process.wait, _TERM_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.stop()
            return f"{self.name} went on for {_TERM_PATIENCE_S:g} s after {signum.name}"
        _let_go(self.process)
        if code in {0, -signum}:
            return None
        return f"{self.name} ended with {code} after {signum.name}"

    def stop(self) -> None:
        """Kill it without ceremony, stopped or not."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            _let_go(self.process)


@dataclass
class Fleet:
    """All members, and what was found out about them without being asked."""

    folder: Path
    members: dict[str, Member] = field(default_factory=dict)
    surprises: list[str] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Stop everything at the end; until then notice who ends without having been struck."""
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            for member in self.members.values():
                member.stop()

    def add(self, name: str, start: Callable[[float], Awaitable[Process]]) -> Member:
        """Take a member in; it is not started."""
        member = self.members[name] = Member(name, start)
        return member

    def store(self, socket_path: Path) -> Callable[[float], Awaitable[Process]]:
        """Return how the store is started: always on the same files."""

        async def start(_shift_s: float) -> Process:
            return await asyncio.to_thread(start_server, self.folder, socket_path)

        return start

    def ringonce(
        self, name: str, *arguments: str, env: dict[str, str], port: int | None = None
    ) -> Callable[[float], Awaitable[Process]]:
        """Return how a `ringonce` process is started.

        It is up once its first line says so or, if a `port` is given, once it listens there.
        """
        log = self.folder / f"{name}.log"

        async def start(shift_s: float) -> Process:
            process = _start_ringonce(arguments, shift_s=shift_s, env=env, log=log)
            try:
                if port is None:
                    await asyncio.to_thread(first_line, process, what=name, log=log)
                else:
                    await _listens(process, port)
            except BaseException:
                process.kill()
                process.wait()
                _let_go(process)
                raise
            return process

        return start

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            for member in self.members.values():
                process = member.process
                if member.turn.locked() or process is None or process.poll() is None:
                    continue
                self.surprises.append(f"{member.name} ended by itself: {process.returncode}")
                async with member.turn:
                    await member.up()


def free_ports(how_many: int) -> list[int]:
    """Return ports that nobody listens on now."""
    found: list[int] = []
    start = os.getpid() * 37 % len(_PORTS)
    for port in (*_PORTS[start:], *_PORTS[:start]):
        if len(found) == how_many:
            break
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found


def _start_ringonce(
    arguments: tuple[str, ...], *, shift_s: float, env: dict[str, str], log: Path
) -> subprocess.Popen[str]:
    clock = ["dispatcher.chaos.wrong_clock", str(shift_s)] if shift_s else ["ringonce"]
    with log.open("ab") as stderr:
        return subprocess.Popen(  # noqa: S603  (our own command line)
            [sys.executable, "-m", *clock, *arguments],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            preexec_fn=die_with_parent(),  # noqa: PLW1509  (calls nothing that takes a lock)
            start_new_session=True,  # Ctrl-C stops us, and we stop it
        )


async def _listens(process: Process, port: int) -> None:
    """Return once somebody can connect.

    Raises:
        ChildFailed: the process ended before, or took too long.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LISTEN_PATIENCE_S):
            while process.poll() is None:
                with contextlib.suppress(ConnectionError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.transport.abort()
                    return
                await asyncio.sleep(_LOOK_S / 4)
    raise ChildFailed(f"nobody listens on {port}")


def _let_go(process: Process) -> None:
    if process.stdout is not None:
        process.stdout.close()
