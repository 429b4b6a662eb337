"""The register: looking orders up without moving any. Reads the indexes that the scripts keep."""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from shared import keys
from shared.clock import from_epoch_ms
from shared.ledger import Ledger
from shared.lifecycle import OrderState
from shared.order import CallOrder
from shared.progress import Move, OrderProgress


@dataclass(frozen=True)
class Register:
    """Lists, counts and histories, from the same Redis as the ledger."""

    ledger: Ledger

    async def counts(self) -> dict[OrderState, int]:
        """Return how many orders stand in each state."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for state in OrderState:
                pipe.zcard(keys.state(state))
            return dict(zip(OrderState, await pipe.execute(), strict=True))

    async def newest(
        self, *, state: OrderState | None = None, limit: int = 50, offset: int = 0
    ) -> list[OrderProgress]:
        """Return orders, the last that came (or moved into `state`) first."""
        index = keys.ORDERS if state is None else keys.state(state)
        ids: list[str] = await self._redis.zrevrange(index, offset, offset + limit - 1)
        found = [await self.ledger.progress(order_id) for order_id in ids]
        return [progress for progress in found if progress is not None]

    async def ids(self, state: OrderState, batch: int = 500) -> AsyncIterator[str]:
        """Yield the id of every order in `state`, those that moved first, first."""
        last, seen = "-inf", set[str]()
        while page := await self._redis.zrangebyscore(
            keys.state(state), last, "+inf", start=len(seen), num=batch, withscores=True
        ):
            for order_id, score in page:
                seen = (seen if str(score) == last else set()) | {order_id}
                last = str(score)
                yield order_id

    async def queued(self, state: OrderState) -> int:
        """Return how many orders in `state` stand in arq's queue, due or not."""
        return int(await self._redis.zintercard(2, [keys.QUEUE, keys.state(state)]))  # type: ignore[misc]

    async def history(self, order_id: str) -> list[Move]:
        """Return every move of an order, the oldest first; empty if there is no such order."""
        record: dict[str, str] = await self._redis.hgetall(keys.record(order_id))  # type: ignore[misc]
        lines = (record.get(f"move_{n}") for n in range(1, int(record.get("moves", 0)) + 1))
        return [_move(json.loads(line)) for line in lines if line is not None]

    async def orders_of(self, call_sids: Sequence[str]) -> dict[str, str]:
        """Return {call_sid: order id} for those calls that an order is known to have made."""
        if not call_sids:
            return {}
        owners = await self._redis.mget([keys.call(sid) for sid in call_sids])
        return {sid: owner for sid, owner in zip(call_sids, owners, strict=True) if owner}

    async def unsettled_beside(self, order: CallOrder) -> list[str]:
        """Return the other orders, whoever's, that may be ringing or have rung the same number."""
        found = []
        for state in (OrderState.SENDING, OrderState.IN_DOUBT):
            async for order_id in self.ids(state):
                other = None if order_id == order.order_id else await self.body(order_id)
                if other and other.target_phone_number == order.target_phone_number:
                    found.append(order_id)
        return found

    async def body(self, order_id: str) -> CallOrder | None:
        """Return what was ordered, with the number and the instructions in it.

        None if there is no such order, or this version cannot read it.
        """
        body: str | None = await self._redis.hget(keys.record(order_id), "body")  # type: ignore[misc]
        try:
            return None if body is None else CallOrder.model_validate_json(body)
        except ValueError:
            return None

    @property
    def _redis(self) -> Redis:
        return self.ledger.redis


def _move(entry: dict[str, object]) -> Move:
    at = entry.pop("at")
    renamed = {"from_state": entry.pop("from"), "to_state": entry.pop("to"), **entry}
    return Move.model_validate({"at": from_epoch_ms(int(str(at))), **renamed})
