"""What an order means to the rehearsal handler: rings, replays, lookups and lists, no sockets.

It makes the promises it is told to make. With `keyed` off a second POST rings again: that is the
handler the dispatcher must be safe with.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final, assert_never
from urllib.parse import unquote

from dispatcher.rehearsal.behaviours import (
    BEHAVIOURS,
    NO_FAULTS,
    Behaviour,
    Faults,
    magic_behaviour,
)
from dispatcher.rehearsal.carrier import Carrier
from dispatcher.rehearsal.enquiries import Unrung, count_rings, list_calls, look_up
from dispatcher.rehearsal.exchange import (
    NO_SUCH_PAGE,
    Answer,
    Problem,
    Request,
    as_json,
    as_text,
)
from dispatcher.rehearsal.order_request import OrderRequest, read_order

_REPLAYED: Final = ((b"idempotency-replayed", b"true"),)


@dataclass(frozen=True, slots=True)
class Promises:
    """What a call handler may promise; switched off, it is a handler as found in the wild."""

    keyed: bool = True
    """Honour Idempotency-Key: one key, one ring."""
    lookup: bool = True
    """Answer GET /order/{order_id}."""
    listing: bool = True
    """Answer GET /orders?to=&since=."""
    problem_members: bool = True
    """Say call_placed and retryable in a problem."""


@dataclass(slots=True)
class _Key:
    """One idempotency key: which body it stands for, and whose turn it is."""

    digest: str
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class RehearsalHandler:
    """Answers requests as its promises, the magic numbers and the drawn faults say."""

    def __init__(
        self,
        carrier: Carrier,
        *,
        promises: Promises = Promises(),
        faults: Faults = NO_FAULTS,
        seed: int = 0,
        slow_s: float = 3.0,
        hang_s: float = 300.0,
        accept_s: float = 0.0,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """Take a `carrier` and what to promise; `accept_s` is how long an ordinary call takes."""
        self.carrier = carrier
        self.promises = promises
        self._faults = faults
        self._seed = seed
        self._slow_s = slow_s
        self._hang_s = hang_s
        self._accept_s = accept_s
        self._sleep = sleep
        self._keys: dict[str, _Key] = {}
        self._attempts: dict[str, int] = {}
        self._unrung: dict[str, Unrung] = {}

    async def answer(self, request: Request) -> Answer:
        """Answer one request; an order is finished even if nobody waits for it any more."""
        path, _, query = request.target.partition("?")
        if path == "/order":
            return await self._take(request) if request.method == "POST" else _only(b"POST")
        found = self._page(path, query)
        if found is not NO_SUCH_PAGE and request.method not in {"GET", "HEAD"}:
            return _only(b"GET, HEAD")
        return found.answer(members=self._members) if isinstance(found, Problem) else found

    def _page(self, path: str, query: str) -> Answer | Problem:
        match path.split("/"):
            case ["", "order", order_id] if self.promises.lookup:
                return look_up(self.carrier, self._unrung, unquote(order_id))
            case ["", "orders"] if self.promises.listing:
                return list_calls(self.carrier, query)
            case ["", "rings"]:
                return as_json(self.carrier.count())
            case ["", "rings", order_id]:
                return count_rings(self.carrier, unquote(order_id))
            case ["", "healthz"]:
                return as_json({"status": "ok"})
            case _:
                return NO_SUCH_PAGE

    async def _take(self, request: Request) -> Answer:
        order = read_order(request)
        if isinstance(order, Problem):
            return order.answer(members=self._members)
        if order.key is None or not self.promises.keyed:
            return await self._attempt(order, key=None)
        key = self._known_key(order.key, order)
        # A second request under the same key waits here until the first has rung or failed.
        async with key.turn:
            rung = self.carrier.rung_under(order.key)
            sid = None if rung is None else rung.call_sid
            if key.digest != order.digest:
                return _conflict(sid).answer(members=self._members)
            return _initiated(sid, _REPLAYED) if sid else await self._attempt(order, key=order.key)

    def _known_key(self, name: str, order: OrderRequest) -> _Key:
        key = self._keys.get(name)
        if key is None:
            rung = self.carrier.rung_under(name)  # by the process before this one
            key = self._keys[name] = _Key((rung and rung.digest) or order.digest)
        return key

    async def _attempt(self, order: OrderRequest, *, key: str | None) -> Answer:
        behaviour = self._behaviour(order)
        if behaviour.slow:
            await self._sleep(self._slow_s)
        elif behaviour.rings and self._accept_s:
            self._unrung[order.order_id] = "in-progress"
            await self._sleep(self._accept_s)
        if not behaviour.rings:
            if behaviour.refused:
                self._unrung[order.order_id] = "refused"
            return self._reply(behaviour, sid="")
        sid = self.carrier.ring(
            order.order_id,
            order.number,
            key=key,
            digest=order.digest,
            call_status=behaviour.call_status,
        )
        self._unrung.pop(order.order_id, None)
        return self._reply(behaviour, sid)

    def _behaviour(self, order: OrderRequest) -> Behaviour:
        nth = self._attempts[order.order_id] = self._attempts.get(order.order_id, 0) + 1
        name = magic_behaviour(order.number, nth) or self._faults.draw(
            seed=self._seed, order_id=order.order_id, attempt=order.attempt or nth
        )
        return BEHAVIOURS[name]

    def _reply(self, behaviour: Behaviour, sid: str) -> Answer:
        match behaviour.reply:
            case Problem() as problem:
                return problem.answer(members=self._members)
            case "sid":
                return _initiated(sid)
            case "no-sid":
                return as_text("done")
            case "half" | "reset" as manner:
                return replace(_initiated(sid), manner=manner)
            case "hang":
                return replace(_initiated(sid), manner="hang", hang_s=self._hang_s)
            case never:
                assert_never(never)

    @property
    def _members(self) -> bool:
        return self.promises.problem_members


def _initiated(sid: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Answer:
    return as_json({"status": "Call initiated", "call_sid": sid}, headers=headers)


def _conflict(sid: str | None) -> Problem:
    return Problem(
        422,
        "key-reused",
        "Key reused",
        "This Idempotency-Key came with another body before.",
        call_placed="no" if sid is None else "yes",
        call_sid=sid,
    )


def _only(methods: bytes) -> Answer:
    return replace(as_text("Method Not Allowed", status=405), headers=((b"allow", methods),))
