"""Runs the scripts: each is loaded once, and what is asked at the same moment goes in one call."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from redis import exceptions as redis_errors
from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from shared.scripts import source

Words = Sequence[str | int]

BATCH_MAX: Final = 100
"""Orders in one call: a script holds the server up, for a few milliseconds at most."""
CALLS_MAX: Final = 2
"""Calls under way at once; what comes meanwhile goes together in the next."""


class ScriptRunner:
    """The scripts on one server."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._scripts: dict[str, AsyncScript] = {}

    async def run(self, name: str, *words: str | int) -> Any:
        """Run script `name`; it may be sent again if the connection is lost."""
        if name not in self._scripts:
            self._scripts[name] = self._redis.register_script(source(name))
        try:
            return await self._scripts[name](args=words)
        except redis_errors.NoScriptError:
            # Flushed between loading and calling: sent whole, it needs no loading.
            return await self._redis.eval(source(name), 0, *words)  # type: ignore[arg-type, misc]


class Together:
    """Gathers questions of one kind that are asked at the same moment into one call.

    Nobody waits for company: a question goes in the next turn of the event loop, with all that were
    asked in this one or while calls were under way. A store that syncs each write to its disk then
    does so once for many.
    """

    def __init__(self, call: Callable[[list[Words]], Awaitable[Sequence[Any]]]) -> None:
        """`call` sends questions and returns as many answers; one may be an exception."""
        self._call = call
        self._waiting: list[tuple[Words, asyncio.Future[Any]]] = []
        self._under_way: set[asyncio.Task[None]] = set()

    async def ask(self, *question: str | int) -> Any:
        """Return the answer to `question`.

        Raises:
            Exception: whatever was answered instead, or whatever the call raised.
        """
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answered))
        if len(self._under_way) < CALLS_MAX:
            calling = asyncio.create_task(self._send_waiting())
            self._under_way.add(calling)
            calling.add_done_callback(self._under_way.discard)
        return await answered

    async def _send_waiting(self) -> None:
        while self._waiting:
            asked, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
            futures = [answered for _, answered in asked]
            try:
                answers = await self._call([question for question, _ in asked])
            except asyncio.CancelledError:
                for answered in futures:
                    answered.cancel()
                raise
            except Exception as error:  # noqa: BLE001  (it belongs to whoever asked)
                answers = [error] * len(asked)
            for answered, answer in zip(futures, answers, strict=True):
                if answered.done():
                    continue  # whoever asked has gone
                if isinstance(answer, Exception):
                    answered.set_exception(answer)
                else:
                    answered.set_result(answer)
