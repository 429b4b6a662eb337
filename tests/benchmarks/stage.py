"""What a leg plays on: stores, a call handler and workers, each a process, gone afterwards."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import httpx
from arq import ArqRedis, create_pool
from arq.connections import RedisSettings

from shared.child import first_line, start_child, stop_child
from shared.embedded_server import embedded_server
from shared.ledger import Ledger
from shared.redis_pool import ledger_client

ROOT: Final = Path(__file__).parents[2]
STARTED_AT_ONCE: Final = 6
"""Two cores start no more than this many workers within a child's patience."""

STOP_PATIENCE_S: Final = 10.0

Start = Callable[[Path], "subprocess.Popen[str]"]


class BenchmarkFailed(Exception):
    """An order got lost or was sent twice: the figures mean nothing."""


class Fleet:
    """Workers of one kind: more are added, and all are paused while others are measured."""

    def __init__(self, kind: str, start: Start, logs: Path) -> None:
        self._kind, self._start, self._logs = kind, start, logs
        self._workers: list[subprocess.Popen[str]] = []

    def __len__(self) -> int:
        return len(self._workers)

    def grow_to(self, count: int) -> None:
        """Start workers until there are `count`, and return when all are ready."""
        while (missing := count - len(self)) > 0:
            fresh = []
            for _ in range(min(missing, STARTED_AT_ONCE)):
                log = self._logs / f"{self._kind}-{len(self)}.log"
                self._workers.append(self._start(log))
                fresh.append((self._workers[-1], log))
            for worker, log in fresh:
                first_line(worker, what=self._kind, log=log)

    def pause(self) -> None:
        """Stop the processes where they are: an idle worker too takes time from another."""
        self._tell(signal.SIGSTOP)

    def resume(self) -> None:
        self._tell(signal.SIGCONT)

    def close(self) -> None:
        """End all, at the same time; say it if some had to be killed."""
        self.resume()
        self._tell(signal.SIGTERM)
        deadline, killed = perf_counter() + STOP_PATIENCE_S, 0
        for worker in self._workers:
            try:
                worker.wait(timeout=max(0.0, deadline - perf_counter()))
            except subprocess.TimeoutExpired:
                worker.kill()
                killed += 1
            stop_child(worker)
        self._workers.clear()
        if killed:
            print(f"{self._kind}: {killed} did not end when told, killed", file=sys.stderr)

    def _tell(self, word: signal.Signals) -> None:
        for worker in self._workers:
            worker.send_signal(word)


@dataclass(frozen=True)
class Stage:
    """Two empty stores, so that neither side's keys are in the other's way; workers on demand."""

    folder: Path
    handler: str
    """Where orders are POSTed, without the path."""
    asking: httpx.AsyncClient
    store: str
    ledger: Ledger
    ours: Fleet
    arq_pool: ArqRedis
    arq: Fleet

    async def tally(self) -> dict[str, int]:
        """Return what the handler has counted."""
        counted: dict[str, int] = (await self.asking.get(f"{self.handler}/count")).json()
        return counted


@contextlib.asynccontextmanager
async def stage(
    folder: Path, *, delay_s: float = 0.0, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Stage]:
    """Set up a stage without workers. `settings` are the workers' RINGONCE_ variables."""
    with contextlib.ExitStack() as opened:
        store = opened.enter_context(embedded_server(folder / "store"))
        arq_store = opened.enter_context(embedded_server(folder / "arq"))
        handler = opened.enter_context(
            module("fast_handler", "--delay-s", str(delay_s), log=folder / "handler.log")
        )
        env = os.environ | {
            "REDIS_URL": store,
            "RINGONCE_CALL_HANDLER_URL": handler,
            "RINGONCE_LOG_LEVEL": "INFO",  # as in production, into a file
            **(settings or {}),
        }
        ours = Fleet("ours", lambda log: start_child("worker", env=env, log=log), folder)
        arq_worker = partial(_start, "stock_arq", "--redis", arq_store, "--handler", handler)
        arq = Fleet("arq", lambda log: arq_worker(log=log), folder)
        redis = ledger_client(store, patience_s=5)
        arq_pool = await create_pool(RedisSettings.from_dsn(arq_store))
        try:
            async with httpx.AsyncClient(trust_env=False) as asking:
                yield Stage(folder, handler, asking, store, Ledger(redis), ours, arq_pool, arq)
        finally:
            ours.close()
            arq.close()
            await redis.aclose()
            await arq_pool.aclose()


@contextlib.contextmanager
def module(name: str, *arguments: str, log: Path) -> Any:
    """Run a module of this folder while the context lasts; yield its first line of output."""
    process = _start(name, *arguments, log=log)
    try:
        yield first_line(process, what=name, log=log)
    finally:
        stop_child(process)


def _start(name: str, *arguments: str, log: Path) -> "subprocess.Popen[str]":
    module = f"tests.benchmarks.{name}"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return start_child(*arguments, env=env, log=log, module=module)
