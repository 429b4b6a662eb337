"""Waiting for answers: one subscription wakes all who wait in this process.

A wake-up is only a hint that makes somebody look under the result key; it may get lost. So every
new subscription, and every few seconds a sweep, looks at all orders that are waited for.
"""

import asyncio
import contextlib
import itertools
import json
from collections.abc import Iterable
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

import structlog
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as Disconnected

from shared import keys
from shared.ending import ended
from shared.ledger import Ledger
from shared.lifecycle import ENDED, OrderState
from shared.progress import Result

SWEEP_S: Final = 5.0
_SILENCE_S: Final = 5.0
"""After so long without a word the store is asked for one; after as long again it is gone."""
_AGAIN_S: Final = 0.5
_CHUNK: Final = 500
_ANSWERS: Final = frozenset(str(state) for state in (*ENDED, OrderState.IN_DOUBT))

_log = structlog.get_logger(__name__)


class Answers:
    """Whoever waits for an answer in this process waits here. `redis` is the ledger's."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._ledger = Ledger(redis)
        self._expected: dict[str, set[asyncio.Future[Result]]] = {}
        self._due: set[str] = set()
        """Orders to look at now: what is expected, and may have been answered."""
        self._any_due = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def wait(self, order_id: str, within_s: float) -> Result | None:
        """Return the answer, or None if there is none after `within_s`; 0 is one look.

        A store that is away is waited for like the answer; only the one look raises what redis-py
        raises.
        """
        if within_s <= 0:
            return await self._ledger.result(order_id)
        expected = self.expect(order_id)
        try:
            await asyncio.wait({expected}, timeout=within_s)
            return expected.result() if expected.done() and not expected.cancelled() else None
        finally:
            expected.cancel()

    def expect(self, order_id: str) -> asyncio.Future[Result]:
        """Return a future of the answer, however long that takes; cancel it to stop waiting."""
        if not self._tasks:
            raise RuntimeError("nobody listens: wait inside `async with Answers(…)`")
        expected: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._expected.setdefault(order_id, set()).add(expected)
        expected.add_done_callback(partial(self._forget, order_id))
        # Registered first: an answer from now on is heard, one from before is seen.
        self._look_at((order_id,))
        return expected

    async def __aenter__(self) -> Self:
        doing = (self._listen(), self._look(), self._sweep())
        self._tasks = [asyncio.create_task(task) for task in doing]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        tasks, self._tasks = self._tasks, []
        await ended(*tasks)
        for expected in list(itertools.chain.from_iterable(self._expected.values())):
            expected.cancel()

    async def _listen(self) -> None:
        """Stay subscribed, whatever becomes of the store."""
        away = False
        while True:
            try:
                async with _apart(self._redis) as redis, redis.pubsub() as moves:
                    await moves.subscribe(keys.MOVES)
                    if away:
                        _log.info("answers.listening_again")
                        away = False
                    await self._hear(moves)
            except Exception as error:  # noqa: BLE001  (a new subscription knows nothing of it)
                if not away:
                    _log.warning("answers.not_listening", why=repr(error))
                    away = True
                await asyncio.sleep(_AGAIN_S)

    async def _hear(self, moves: PubSub) -> None:
        """Listen until the connection is lost.

        Raises:
            RedisError, OSError: it is, or the store does not answer on it any more.
        """
        asked = False
        while True:
            said = await moves.get_message(timeout=_SILENCE_S)
            if said is None:
                if asked:
                    raise Disconnected(f"not a word for {2 * _SILENCE_S:g} s")
                await moves.ping()
            elif said["type"] == "subscribe":  # nobody told us what happened before
                self._look_at(self._expected)
            elif said["type"] == "message" and self._expected:
                self._look_at(_answered(said["data"]))
            asked = said is None

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self._look_at(self._expected)

    def _look_at(self, order_ids: Iterable[str]) -> None:
        self._due.update(order_id for order_id in order_ids if order_id in self._expected)
        if self._due:
            self._any_due.set()

    async def _look(self) -> None:
        """Look under the result keys of all orders that are due, many at a time."""
        while True:
            await self._any_due.wait()
            looked_at = [self._due.pop() for _ in range(min(_CHUNK, len(self._due)))]
            if not self._due:
                self._any_due.clear()
            if not looked_at:  # whoever waited went away meanwhile
                continue
            try:
                found = await self._results(looked_at)
            except Exception as error:  # noqa: BLE001  (whatever it is, others wait too)
                _log.warning("answers.not_read", why=repr(error))
                continue  # the sweep looks at them again
            for result in found:
                for expected in tuple(self._expected.get(result.order_id, ())):
                    if not expected.done():
                        expected.set_result(result)

    async def _results(self, order_ids: list[str]) -> list[Result]:
        with contextlib.suppress(ValueError):
            return await self._ledger.results(order_ids)
        # One of them was written by another version; the others are not to suffer from it.
        found: list[Result] = []
        for order_id in order_ids:
            try:
                found += await self._ledger.results([order_id])
            except ValueError:
                _log.error("answers.unreadable", order_id=order_id)
        return found

    def _forget(self, order_id: str, expected: asyncio.Future[Result]) -> None:
        others = self._expected.get(order_id, set())
        others.discard(expected)
        if not others:
            self._expected.pop(order_id, None)
            self._due.discard(order_id)


def _answered(data: str) -> list[str]:
    """Return the ids of those orders in a message that have an answer now."""
    try:
        moves: list[dict[str, Any]] = json.loads(data)
        return [move["order_id"] for move in moves if move["state"] in _ANSWERS]
    except (ValueError, TypeError, KeyError):
        _log.warning("answers.unreadable_message")
        return []


def _apart(redis: Redis) -> Redis:
    """Return a client of the same store with a connection of its own.

    A subscription holds its connection for good, which a pool of few should not lose. Nothing is
    tried again behind our back either: a connection that was lost has missed something.
    """
    pool = redis.connection_pool
    options = {name: value for name, value in pool.connection_kwargs.items() if "retry" not in name}
    options |= {"health_check_interval": 0}
    return Redis.from_pool(ConnectionPool(pool.connection_class, **options))
