"""Death in this process, at a named point: from there on nothing of the dead reaches anybody.

A `Fuse` knows the points that its bearer comes by: before and after every command to the store,
every event of a request on the wire, and whatever else a test names. It burns at one of them. What
comes by afterwards stays there for ever, as nothing comes by after `kill -9`; then the sockets are
closed, as the kernel does. What a cancelled coroutine would still do on its way out finds the fuse
burnt, and does nothing.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NoReturn, cast

import httpx
from redis.asyncio import Redis

from dispatcher.call_handler import CallHandler
from dispatcher.order_request import WrittenRequest
from dispatcher.wire import WireWatch
from shared import keys
from shared.redis_pool import connection_pool
from shared.scripts import source

SCRIPTS = (
    "cancel",
    "claim",
    "look",
    "progress",
    "recover",
    "requeue",
    "resolve",
    "restore_job",
    "settle",
    "submit",
)


class Fuse:
    """Burns at the point named `at`; at none if that is None."""

    def __init__(self, at: str | None = None) -> None:
        self.at = at
        self.passed: list[str] = []
        """The points that were come by, in order; the second of a name is called `name (2)`."""
        self.burnt = asyncio.Event()
        self._times = Counter[str]()
        self._buried = asyncio.Event()

    async def point(self, name: str) -> None:
        """Pass, or stay here for ever."""
        if not self.burnt.is_set():
            self._times[name] += 1
            nth = self._times[name]
            self.passed.append(name if nth == 1 else f"{name} ({nth})")
            if self.passed[-1] != self.at:
                return
            self.burnt.set()
        await self._stay()

    async def kill(self, doing: Coroutine[Any, Any, object], *, socket_holder: "Mortal") -> None:
        """Run `doing` until the fuse burns, and leave it there."""
        task = asyncio.ensure_future(doing)
        burning = asyncio.ensure_future(self.burnt.wait())
        await asyncio.wait({task, burning}, return_when=asyncio.FIRST_COMPLETED)
        burning.cancel()
        assert self.burnt.is_set(), f"never came by {self.at!r}, only by {self.passed}"
        await socket_holder.close_sockets()
        self._buried.set()
        task.cancel()
        _, undead = await asyncio.wait({task}, timeout=10)
        assert not undead

    async def _stay(self) -> NoReturn:
        await self._buried.wait()
        raise asyncio.CancelledError


class FusedRedis(Redis):
    """A client of the store with two points at each command: before it is sent, after its reply."""

    fuse: Fuse

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        name = _name_of(args)
        await self.fuse.point(f"before {name}")
        answer = await super().execute_command(*args, **options)
        await self.fuse.point(f"after {name}")
        return answer


class FusedHandler(CallHandler):
    """The way to the call handler, with a point at each event of its transport."""

    fuse: Fuse

    async def _exchange(
        self, request: WrittenRequest, watch: WireWatch
    ) -> tuple[int, httpx.Headers, bytes]:
        return await super()._exchange(request, _FusedWatch(watch, self.fuse))


class _FusedWatch(WireWatch):
    def __init__(self, watch: WireWatch, fuse: Fuse) -> None:
        self._watch = watch
        self._fuse = fuse

    async def watch(self, event: str, info: dict[str, Any]) -> None:
        await self._watch.watch(event, info)
        await self._fuse.point(event.partition(".")[2])


class Mortal:
    """All sockets of one who is going to die."""

    def __init__(self, redis: FusedRedis, handler: FusedHandler | None) -> None:
        self.redis = redis
        self._handler = handler

    @property
    def handler(self) -> FusedHandler:
        assert self._handler is not None
        return self._handler

    async def close_sockets(self) -> None:
        await self.redis.connection_pool.disconnect()
        if self._handler is not None:
            await self._handler.aclose()


@asynccontextmanager
async def mortal(
    url: str, fuse: Fuse, *, handler: FusedHandler | None = None
) -> AsyncIterator[Mortal]:
    """Give somebody who dies by `fuse` connections of his own to the store at `url`."""
    redis = cast("FusedRedis", FusedRedis.from_pool(connection_pool(url, 2, decode_responses=True)))
    redis.fuse = fuse
    if handler is not None:
        handler.fuse = fuse
    async with Redis.from_url(url) as loader:
        for name in SCRIPTS:
            await loader.script_load(
                source(name)
            )  # so that the points do not depend on who came first
    holder = Mortal(redis, handler)
    try:
        yield holder
    finally:
        await holder.close_sockets()


async def let_time_pass(redis: Redis) -> None:
    """Make it late: every lease has run out, every wait is over."""
    for order_id in await redis.zrange(keys.LEASES, 0, -1):
        await redis.hset(keys.record(order_id), "lease", "1")  # type: ignore[misc]
        await redis.zadd(keys.LEASES, {order_id: 1})
    for order_id in await redis.zrange(keys.DOUBTS, 0, -1):
        await redis.zadd(keys.DOUBTS, {order_id: 1})
    for order_id in await redis.zrange(keys.QUEUE, 0, -1):
        await redis.hset(keys.record(order_id), "due", "1")  # type: ignore[misc]
        await redis.zadd(keys.QUEUE, {order_id: 1})


_NAMES = {hashlib.sha1(source(name).encode()).hexdigest(): name for name in SCRIPTS}  # noqa: S324


def _name_of(command: tuple[Any, ...]) -> str:
    word = str(command[0])
    return _NAMES.get(str(command[1]), "a script") if word == "EVALSHA" else word.lower()
