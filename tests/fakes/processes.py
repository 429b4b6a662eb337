"""The real command line, as processes that can be killed, paused and asked to end.

Every process gets exactly the environment named here, is waited for until it says that it is ready,
and is killed at the end of its block if it still lives. Its log is printed for the failing test.
"""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from shared.embedded_server import die_with_parent
from tests.conftest import eventually

_READY_S: Final = 30.0


class Running:
    """One process of ours."""

    def __init__(self, arguments: tuple[str, ...], env: Mapping[str, str], folder: Path) -> None:
        self._said = folder / "stdout"
        self._log = folder / "stderr"
        with self._said.open("wb") as said, self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ringonce", *arguments],
                env={"PATH": os.environ.get("PATH", ""), **env},
                cwd=folder,  # a .env file in the working directory would be read
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=log,
                preexec_fn=die_with_parent(),  # noqa: PLW1509  (calls nothing that takes a lock)
            )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """Everything it logged so far."""
        return self._log.read_text()

    @property
    def told(self) -> str:
        """What it said on stdout so far."""
        return self._said.read_text()

    def holds(self, worker: str | None) -> bool:
        """Say whether this process is the worker of that name."""
        return worker is not None and f"-{self._process.pid}-" in worker

    def signal(self, signum: signal.Signals) -> None:
        self._process.send_signal(signum)

    async def logs(self, words: str, *, times: int = 1) -> None:
        """Wait until it has logged these words so often."""

        async def logged() -> bool:
            return self.log.count(words) >= times

        await eventually(logged, within_s=60)

    async def ended(self) -> int:
        """Wait for its end and return the exit code."""

        async def ended() -> bool:
            return not self.alive

        await eventually(ended, within_s=60)
        return self._process.wait()

    async def ready(self) -> str:
        """Wait for the line by which it says that it is ready, and return it."""

        async def said() -> str | None:
            if not self.alive:
                raise AssertionError(f"it ended before it was ready: {self.log}")
            return self.told.partition("\n")[0] if "\n" in self.told else None

        return str(await eventually(said, within_s=_READY_S))

    def end(self) -> None:
        """Kill it if it still lives, paused or not, and show what it logged."""
        self._process.kill()
        self._process.wait()
        print(f"--- log of {self._process.args!r}\n{self.log}")


@asynccontextmanager
async def workers(
    count: int, store_url: str, handler_url: str, folder: Path, **settings: object
) -> AsyncIterator[list[Running]]:
    """Run so many workers while the block lasts; `settings` are those of `shared/settings.py`."""
    env = {
        "REDIS_URL": store_url,
        "RINGONCE_CALL_HANDLER_URL": handler_url,
        "RINGONCE_LOG_FORMAT": "json",
        **{f"RINGONCE_{name.upper()}": str(value) for name, value in settings.items()},
    }
    with ExitStack() as stack:
        crew = []
        for _ in range(count):
            running = Running(("worker",), env, _fresh(folder))
            stack.callback(running.end)
            crew.append(running)
        for running in crew:
            await running.ready()
        yield crew


@asynccontextmanager
async def worker(
    store_url: str, handler_url: str, folder: Path, **settings: object
) -> AsyncIterator[Running]:
    """Run one worker while the block lasts."""
    async with workers(1, store_url, handler_url, folder, **settings) as (running,):
        yield running


@asynccontextmanager
async def rehearsal(
    folder: Path, *arguments: str, port: int = 0
) -> AsyncIterator[tuple[Running, str]]:
    """Run a rehearsal handler while the block lasts; the value has its URL."""
    asked = ("rehearsal", "--host", "127.0.0.1", "--port", str(port), *arguments)
    running = Running(asked, {}, _fresh(folder))
    try:
        line = await running.ready()
        yield running, line[line.index("http://") :].strip()
    finally:
        running.end()


def _fresh(folder: Path) -> Path:
    fresh = folder / f"process-{len(list(folder.glob('process-*')))}"
    fresh.mkdir(parents=True)
    return fresh
