"""The ledger: the only code that moves an order. One method, one script, one step.

The ledger is the truth; arq's job only says "look at order X". Expected answers are values, never
exceptions. What a script does stands at the head of its file in `shared/scripts/`; the keys stand
in `shared/keys.py`, the legal moves in `shared/lifecycle.py`.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from redis import exceptions as redis_errors
from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from shared import keys
from shared.claim import ClaimAnswer, Claimed, NotClaimed, Unreadable
from shared.clock import SYSTEM_CLOCK, Clock, from_epoch_ms, to_epoch_ms
from shared.desk import Cancellation, OrderNotAccepted, Submission
from shared.durability import check_waitaof, written_to_disk
from shared.envelope import envelope
from shared.lifecycle import Decision, OrderState, Tries
from shared.order import CallOrder
from shared.progress import OrderProgress, Result, progress_of
from shared.redis_pool import passes
from shared.scripts import source
from shared.settings import Durability

FENCE_RECHECK_S: Final = 2.0


class Act(StrEnum):
    """What became of a write to an order that is already in the ledger."""

    DONE = "done"
    LOST = "lost"
    """Somebody holds a newer token, or the order has moved: nothing was written."""
    MOVED_ON = "moved_on"
    """It is not in doubt, or not about that attempt any more: nothing was written."""
    NOT_DEAD = "not_dead"
    """Only dead orders are requeued: nothing was written."""
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Ledger:
    """The record of every order's life, in one Redis.

    `redis` must decode its responses. All methods but `submit` raise what redis-py raises when the
    store stays away for longer than that client's patience; every script may be sent again.
    """

    redis: Redis
    clock: Clock = SYSTEM_CLOCK
    durability: Durability = "memory"
    """When `submit` returns: when the store has the order, or when its disk has."""
    _scripts: dict[str, AsyncScript] = field(default_factory=dict, init=False, repr=False)

    async def submit(self, order: CallOrder) -> Submission:
        """Take `order` in, once, however often it is asked; return when it is as safe as asked for.

        Raises:
            OrderNotAccepted: the store is full, read-only, gave no answer, or did not confirm that
                the order is on its disk.
        """
        submit = self._submit_to_disk if self.durability == "fsync" else self._submit_to_memory
        try:
            answer = await submit(
                order.order_id,
                order.model_dump_json(),
                order.digest(),
                order.destination(),
                order.owner,
                order.thread_id or "",
                to_epoch_ms(order.created_at),
                to_epoch_ms(order.expires_at),
                envelope(order.order_id, self.clock),
            )
        except redis_errors.OutOfMemoryError as error:
            raise OrderNotAccepted("the store is full", certain=True) from error
        except redis_errors.ReadOnlyError as error:
            raise OrderNotAccepted("the store is read-only", certain=True) from error
        except (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError) as error:
            raise OrderNotAccepted(f"the store does not answer ({error})", certain=False) from error
        except redis_errors.ResponseError as error:
            if not passes(error):
                raise
            told = f"the store takes no orders now ({error})"
            raise OrderNotAccepted(told, certain=not str(error).startswith("BUSY")) from error
        return Submission(answer[0])

    async def check_durability(self) -> None:
        """Return if the store can confirm what `durability` asks for.

        Raises:
            BadSettings: it cannot; the message names the setting and the remedies.
        """
        if self.durability == "memory":
            return
        await check_waitaof(self.redis)

    async def claim(
        self,
        order_id: str,
        *,
        worker: str,
        lease_s: float,
        lost: Decision,
        overdue: Decision,
        handler: str = "",
    ) -> ClaimAnswer:
        """Ask for the right to send. `lost` and `overdue` say what becomes of an order found so.

        `handler` is the identity of the call handler it will go to: an order that may have rung at
        another is not claimed, but settled in doubt.

        The lease is counted here from before the question was sent, so that this side believes in
        it for a shorter time than the store does.
        """
        good_until = self.clock.monotonic() + lease_s
        answer = await self._order_script(
            "claim",
            order_id,
            uuid.uuid4().hex,
            worker,
            _ms(lease_s),
            _ms(FENCE_RECHECK_S),
            lost.reason,
            _ms(lost.wait_s),
            overdue.reason,
            _ms(overdue.wait_s),
            handler,
        )
        if answer[0] != "claimed":
            return NotClaimed(*answer[:2])
        token, attempt, free, unanswered, deaths, expires = (int(part) for part in answer[1:7])
        tries = Tries(spent=attempt - free, unanswered=unanswered, deaths=deaths)
        try:
            order = CallOrder.model_validate_json(answer[7])
        except ValueError:
            return Unreadable(token, tries, "the record is not an order of this version")
        return Claimed(
            order=order,
            token=token,
            attempt=attempt,
            tries=tries,
            expires_at=from_epoch_ms(expires),
            worker=worker,
            good_until=good_until,
        )

    async def settle(
        self, order_id: str, token: int, decision: Decision, *, evidence: dict[str, Any], by: str
    ) -> Act:
        """Write what became of an attempt, if `token` is still the order's last; else LOST."""
        written = _written(token, decision, evidence, by)
        return Act((await self._order_script("settle", order_id, *written))[0])

    async def recover(self, order_id: str, lost: Decision, *, by: str) -> bool:
        """Settle an order whose lease ran out as in doubt; False if it did not."""
        answer = await self._order_script("recover", order_id, lost.reason, _ms(lost.wait_s), by)
        return bool(answer[0] == "done")

    async def reconcile(
        self, order_id: str, token: int, decision: Decision, *, evidence: dict[str, Any], by: str
    ) -> Act:
        """Write what asking about a doubt brought, if the doubt is still about attempt `token`."""
        written = _written(token, decision, evidence, by)
        return Act((await self._order_script("resolve", order_id, *written))[0])

    async def resolve(self, order_id: str, *, call_sid: str | None, by: str, why: str) -> Act:
        """Clear a doubt by a person's word: placed as `call_sid`, or (None) surely not placed.

        The word is about the attempt that is in doubt now; it never speaks for a later one.
        """
        known = await self.progress(order_id)
        if known is None:
            return Act.UNKNOWN
        if call_sid is None:
            decision = Decision(
                OrderState.RETRYABLE, "resolved_not_placed", why, wait_s=0, clears_doubt=True
            )
        else:
            decision = Decision(OrderState.PLACED, "resolved_placed", why, call_sid=call_sid)
        written = _written(known.token, decision, None, by, act=uuid.uuid4().hex)
        return Act((await self._order_script("resolve", order_id, *written))[0])

    async def requeue(self, order_id: str, *, by: str, why: str) -> Act:
        """Give a dead order all its attempts and its time again, by a person's word."""
        act, job = uuid.uuid4().hex, envelope(order_id, self.clock)
        return Act((await self._order_script("requeue", order_id, by, why, job, act))[0])

    async def cancel(
        self, order_id: str, *, by: str, why: str, even_if_unknown: bool = False
    ) -> Cancellation:
        """Take an order back while that is still true, and say whether it was.

        `even_if_unknown` holds back for good an order that is not here: should it still arrive, it
        is refused.
        """
        act = uuid.uuid4().hex
        answer = await self._order_script("cancel", order_id, by, why, act, int(even_if_unknown))
        return Cancellation(answer[0])

    async def restore_job(self, order_id: str) -> bool:
        """Put a waiting order back into arq's queue if it fell out; False if it did not."""
        answer = await self._order_script("restore_job", order_id, envelope(order_id, self.clock))
        return bool(answer[0] == "restored")

    async def progress(self, order_id: str) -> OrderProgress | None:
        """Return how an order stands, or None if there is no such order."""
        answer = await self._order_script("progress", order_id)
        if not answer:
            return None
        record = dict(zip(answer[1::2], answer[2::2], strict=True))
        return progress_of(order_id, record)

    async def result(self, order_id: str) -> Result | None:
        """Return what stands under the result key, or None while there is no answer."""
        answer = await self.redis.get(keys.result(order_id))
        return None if answer is None else Result.model_validate_json(answer)

    async def results(self, order_ids: Sequence[str]) -> list[Result]:
        """Return the answers of those orders that have one."""
        answers = await self.redis.mget([keys.result(order_id) for order_id in order_ids])
        return [Result.model_validate_json(answer) for answer in answers if answer is not None]

    async def overdue(self, index: str, *, limit: int, put_off_s: float = 0) -> list[str]:
        """Return ids of `index` (a key of times) that are due, put off so that others skip them."""
        script = self._script("overdue")
        answer: list[str] = await script(keys=[index], args=[limit, _ms(put_off_s)])
        return answer

    async def put_off(self, order_id: str, wait_s: float) -> None:
        """Look at a waiting job again after `wait_s` only. By this clock: it need not be exact."""
        due_ms = to_epoch_ms(self.clock.now()) + _ms(wait_s)
        await self.redis.zadd(keys.QUEUE, {order_id: due_ms}, xx=True)

    async def announced(self, limit: int, within_s: float) -> list[str]:
        """Wait up to `within_s` for orders that just became due. A hint: it may miss some."""
        # redis-py's type asks for a list where its code takes one key
        answer = await self.redis.blmpop(within_s, 1, keys.WAKEUP, direction="RIGHT", count=limit)  # type: ignore[arg-type, misc]
        return [] if answer is None else list(answer[1])

    async def _submit_to_memory(self, order_id: str, *arguments: str | int) -> list[str]:
        return await self._order_script("submit", order_id, *arguments, 0)

    async def _submit_to_disk(self, order_id: str, *arguments: str | int) -> list[str]:
        places = keys.of_order(order_id)
        words = [len(places), *places, order_id, *arguments, 1]
        answer, trouble = await written_to_disk(self.redis, source("submit"), words)
        if trouble is not None and answer[0] != Submission.CONFLICT:
            raise OrderNotAccepted(trouble, certain=False)
        return answer

    async def _order_script(self, name: str, order_id: str, *arguments: str | int) -> list[str]:
        script, args = self._script(name), [order_id, *arguments]
        try:
            answer: list[str] = await script(keys=keys.of_order(order_id), args=args)
        except redis_errors.NoScriptError:
            # Flushed between loading and calling: sent whole, it needs no loading.
            words = keys.of_order(order_id)
            answer = await self.redis.eval(source(name), len(words), *words, *args)  # type: ignore[arg-type, misc]
        return answer

    def _script(self, name: str) -> AsyncScript:
        if name not in self._scripts:
            self._scripts[name] = self.redis.register_script(source(name))
        return self._scripts[name]


def _written(
    token: int, decision: Decision, evidence: dict[str, Any] | None, by: str, act: str = ""
) -> list[str | int]:
    return [
        token,
        decision.to,
        decision.rule,
        decision.reason,
        decision.call_sid or "",
        _ms(decision.wait_s),
        int(decision.spends_attempt),
        int(decision.clears_doubt),
        "" if evidence is None else json.dumps(evidence),
        by,
        act,
    ]


def _ms(seconds: float | None) -> int:
    """Return whole milliseconds; -1 tells a script that nobody is going to look by himself."""
    return -1 if seconds is None else round(seconds * 1000)
