"""The ledger: the only code that moves an order. One method, one script, one step.

The ledger is the truth; arq's job only says "look at order X". Expected answers are values, never
exceptions. What a script does stands at the head of its file in `shared/scripts/`; the keys stand
in `shared/keys.py`, the legal moves in `shared/lifecycle.py`.
"""

import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from pydantic_core import to_json
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared import keys
from shared.claim import ClaimAnswer, Due, Question, Terms, read_answer
from shared.clock import SYSTEM_CLOCK, Clock, to_epoch_ms
from shared.desk import Cancellation, OrderNotAccepted, Submission
from shared.durability import check_waitaof, written_to_disk
from shared.envelope import envelope
from shared.lifecycle import Decision, OrderState
from shared.order import CallOrder
from shared.progress import OrderProgress, Result, progress_of
from shared.recovery import Look, Retention
from shared.refusal import not_accepted
from shared.script_runner import ScriptRunner, Together, Words
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
    _submitting: Together = field(init=False, repr=False)
    _settling: Together = field(init=False, repr=False)
    _run: Callable[..., Awaitable[Any]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Make what runs the scripts."""
        object.__setattr__(self, "_run", ScriptRunner(self.redis).run)
        object.__setattr__(self, "_submitting", Together(self._submit_all))
        object.__setattr__(self, "_settling", Together(self._settle_all))

    async def submit(self, order: CallOrder) -> Submission:
        """Take `order` in, once, however often it is asked; return when it is as safe as asked for.

        Raises:
            OrderNotAccepted: the store is full, read-only, gave no answer, or did not confirm that
                the order is on its disk.
        """
        try:
            answer = await self._submitting.ask(
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
        except (RedisError, OSError) as error:
            refused = not_accepted(error)
            if refused is None:
                raise
            raise refused from error
        return Submission(answer[0])

    async def check_durability(self) -> None:
        """Return if the store can confirm what `durability` asks for.

        Raises:
            BadSettings: it cannot; the message names the setting and the remedies.
        """
        if self.durability == "memory":
            return
        await check_waitaof(self.redis)

    async def claim(self, order_id: str, terms: Terms) -> ClaimAnswer:
        """Ask for the right to send one order.

        The lease is counted here from before the question was sent, so that this side believes in
        it for a shorter time than the store does.
        """
        question = Question(self.clock.monotonic(), limit=0)
        _, _, words = await self._claim(question, terms, order_id)
        return read_answer(words[1:], terms.worker, question.asked_at + terms.lease_s)

    async def claim_due(self, question: Question, terms: Terms) -> Due:
        """Ask for the right to send those orders that are due, as many as `question.limit`.

        If no answer came, ask the same question again: it is answered with what it was given then.
        So `redis` must be a client that does not send it again by itself.
        """
        good_until = question.asked_at + terms.lease_s
        next_ms, server_ms, *found = await self._claim(question, terms)
        answers = {words[0]: read_answer(words[1:], terms.worker, good_until) for words in found}
        return Due(answers, int(next_ms) / 1000 if next_ms else None, int(server_ms))

    async def renew(self, held: Sequence[tuple[str, int]], lease_s: float) -> list[bool]:
        """Hold orders, by id and token, for `lease_s` from now; say of each whether they are."""
        words = [word for order in held for word in order]
        answers = await self._run("renew", _ms(lease_s), *words)
        return [answer == "renewed" for answer in answers]

    async def settle(
        self, order_id: str, token: int, decision: Decision, *, evidence: dict[str, Any], by: str
    ) -> Act:
        """Write what became of an attempt, if `token` is still the order's last; else LOST."""
        words = _written(token, decision, evidence)
        answer = await self._settling.ask(by, order_id, *words)
        return Act(answer[0])

    async def look(self, *, leases: int, doubts: int, put_off_s: float = 0) -> Look:
        """Return what there is to recover; due doubts are put off, so that others skip them."""
        lost, due, short, next_ms = await self._run("look", leases, doubts, _ms(put_off_s))
        return Look(lost, due, short == "1", int(next_ms) / 1000 if next_ms else None)

    async def recover(self, order_id: str, lost: Decision, *, by: str) -> bool:
        """Settle an order whose lease ran out as in doubt; False if it did not."""
        answer = await self._run("recover", order_id, lost.reason, _ms(lost.wait_s), by)
        return bool(answer[0] == "done")

    async def reconcile(
        self, order_id: str, token: int, decision: Decision, *, evidence: dict[str, Any], by: str
    ) -> Act:
        """Write what asking about a doubt brought, if the doubt is still about attempt `token`."""
        words = _written(token, decision, evidence)
        return Act((await self._run("resolve", order_id, *words, by, ""))[0])

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
        written = _written(known.token, decision, None)
        answer = await self._run("resolve", order_id, *written, by, uuid.uuid4().hex)
        return Act(answer[0])

    async def requeue(self, order_id: str, *, by: str, why: str) -> Act:
        """Give a dead order all its attempts and its time again, by a person's word."""
        act, job = uuid.uuid4().hex, envelope(order_id, self.clock)
        return Act((await self._run("requeue", order_id, by, why, job, act))[0])

    async def cancel(
        self, order_id: str, *, by: str, why: str, even_if_unknown: bool = False
    ) -> Cancellation:
        """Take an order back while that is still true, and say whether it was.

        `even_if_unknown` holds back for good an order that is not here: should it still arrive, it
        is refused.
        """
        act = uuid.uuid4().hex
        answer = await self._run("cancel", order_id, by, why, act, int(even_if_unknown))
        return Cancellation(answer[0])

    async def restore_job(self, order_id: str) -> bool:
        """Put a waiting order back into arq's queue if it fell out; False if it did not."""
        answer = await self._run("restore_job", order_id, envelope(order_id, self.clock))
        return bool(answer[0] == "restored")

    async def progress(self, order_id: str) -> OrderProgress | None:
        """Return how an order stands, or None if there is no such order."""
        answer = await self._run("progress", order_id)
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

    async def trim(self, retention: Retention, *, limit: int) -> int:
        """Forget the details of orders that ended long ago or are too many; return of how many."""
        keep_ms, ids_ms = _ms(retention.keep_s), _ms(retention.keep_ids_s)
        forgotten: int = await self._run("trim", keep_ms, retention.keep_max, ids_ms, limit)
        return forgotten

    async def announced(self, limit: int, within_s: float) -> list[str]:
        """Wait up to `within_s` for orders that just became due. A hint: it may miss some."""
        # redis-py's type asks for a list where its code takes one key
        answer = await self.redis.blmpop(within_s, 1, keys.WAKEUP, direction="RIGHT", count=limit)  # type: ignore[arg-type, misc]
        return [] if answer is None else list(answer[1])

    async def _claim(self, question: Question, terms: Terms, *order_ids: str) -> list[Any]:
        asked_again, question.asked_before = question.asked_before, True
        answer: list[Any] = await self._run(
            "claim",
            question.claim_id,
            terms.worker,
            _ms(terms.lease_s),
            _ms(FENCE_RECHECK_S),
            terms.lost.reason,
            _ms(terms.lost.wait_s),
            terms.overdue.reason,
            _ms(terms.overdue.wait_s),
            terms.handler,
            int(asked_again),
            0 if asked_again else question.limit,
            "" if question.void_after is None or asked_again else question.void_after,
            *order_ids,
        )
        return answer

    async def _submit_all(self, orders: list[Words]) -> list[Any]:
        words = [word for order in orders for word in order]
        if self.durability == "memory":
            answers: list[Any] = await self._run("submit", 0, *words)
            return answers
        on_disk, trouble = await written_to_disk(self.redis, source("submit"), [0, 1, *words])
        if trouble is None and not any(_unmarked(answer) for answer in on_disk):
            return on_disk
        trouble = trouble or "the store has it, but cannot confirm again that it is on disk"
        return [
            OrderNotAccepted(trouble, certain=False) if _needs_disk(answer) else answer
            for answer in on_disk
        ]

    async def _settle_all(self, attempts: list[Words]) -> list[Any]:
        by = attempts[0][0]  # one process, one worker
        words = [word for attempt in attempts for word in attempt[1:]]
        answers: list[Any] = await self._run("settle", by, *words)
        return answers


def _written(token: int, decision: Decision, evidence: dict[str, Any] | None) -> list[str | int]:
    return [
        token,
        decision.to,
        decision.rule,
        decision.reason,
        decision.call_sid or "",
        _ms(decision.wait_s),
        int(decision.spends_attempt),
        int(decision.clears_doubt),
        "" if evidence is None else to_json(evidence).decode(),
    ]


def _unmarked(answer: Any) -> bool:
    return not isinstance(answer, Exception) and answer[-1] == "unmarked"


def _needs_disk(answer: Any) -> bool:
    return not isinstance(answer, Exception) and answer[0] != Submission.CONFLICT


def _ms(seconds: float | None) -> int:
    """Return whole milliseconds; -1 tells a script that nobody is going to look by himself."""
    return -1 if seconds is None else round(seconds * 1000)
