"""The recoverer: leases that ran out, doubts that can be cleared, orders that lost their job.

It runs beside every worker. That several do the same is harmless: each step is one script, and
what one has put in order the next one finds in order.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog

from dispatcher.attempt import Workshop
from shared.finding import CannotTell, Finding, Known, SendAgain
from shared.lifecycle import WAITING, Tries, decide_doubt
from shared.order import CallOrder
from shared.outcome import WireEvidence, wire_evidence
from shared.recovery import Retention
from shared.redis_pool import AWAY
from shared.register import Register

BATCH: Final = 100
ASKED_AT_ONCE: Final = 10
TRIM_EVERY_S: Final = 60.0

_T = TypeVar("_T")

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Recoverer:
    """Puts right what somebody's death left behind, and forgets what has ended long ago."""

    workshop: Workshop
    every_s: float
    retention: Retention | None = None

    async def run(self) -> None:
        """Look every `every_s` seconds until cancelled, and on time for each doubt that is known.

        Nothing that fails stops it.
        """
        clock, trim_at = self.workshop.ledger.clock, 0.0
        while True:
            next_s = await self._unbroken(self.look()) or self.every_s
            if clock.monotonic() >= trim_at:
                trim_at = clock.monotonic() + TRIM_EVERY_S
                await self._unbroken(self.trim())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.workshop.doubted.wait(), next_s)
            self.workshop.doubted.clear()

    async def look(self) -> float:
        """Look once at everything; return in how many seconds to look again."""
        profile = self.workshop.handler.profile
        can_ask = profile.answers_lookup or profile.honours_idempotency_key
        seen = await self.workshop.ledger.look(
            leases=BATCH,
            doubts=ASKED_AT_ONCE if can_ask else 0,  # left for a worker that can ask
            put_off_s=profile.attempt_limit_s,
        )
        await self._unbroken(self.recover_leases(seen.lost))
        await self._unbroken(self.clear_doubts(seen.doubts))
        if seen.queue_is_short:
            await self._unbroken(self.restore_jobs())
        if len(seen.lost) == BATCH or len(seen.doubts) == ASKED_AT_ONCE:
            return 0.001  # there is more
        return min(self.every_s, seen.next_doubt_s or self.every_s)

    async def recover_leases(self, lost_ids: Sequence[str]) -> None:
        """Settle as in doubt whatever was being sent by a worker that is not heard of any more."""
        shop = self.workshop
        lost = shop.terms.lost
        for order_id in lost_ids:
            # One that cannot be recovered does not stand before the others.
            if await self._unbroken(shop.ledger.recover(order_id, lost, by=shop.name)):
                log.warning("order.in_doubt", order_id=order_id, rule=lost.rule)

    async def clear_doubts(self, due: Sequence[str]) -> None:
        """Ask about each doubt whose time has come, a few at once."""
        cleared = await asyncio.gather(
            *(self.clear_doubt(order_id) for order_id in due), return_exceptions=True
        )
        for failed in cleared:
            if isinstance(failed, BaseException):
                log.warning("doubt.not_cleared", error=f"{type(failed).__name__}: {failed}"[:200])

    async def clear_doubt(self, order_id: str) -> None:
        """Ask about one order, and write what it came to, unless it has moved on meanwhile."""
        shop = self.workshop
        known = await shop.ledger.progress(order_id)
        if known is None:
            return
        if known.handler not in (None, shop.handler.profile.identity):
            finding: Finding = CannotTell("it was sent to another handler than this worker's")
            evidence = WireEvidence()
        else:
            finding, evidence = await self._ask(order_id, wanted_back=known.cancel_wish is not None)
        decision = decide_doubt(
            finding,
            Tries(spent=known.spent, unanswered=known.unanswered, deaths=known.deaths),
            shop.policy,
            shop.handler.profile,
            shop.random.random(),
        )
        act = await shop.ledger.reconcile(
            order_id,
            known.token,
            decision,
            evidence={"finding": type(finding).__name__, "wire": wire_evidence(evidence)},
            by=shop.name,
        )
        log.info("order.reconciled", order_id=order_id, rule=decision.rule, to=decision.to, act=act)

    async def restore_jobs(self) -> None:
        """Put waiting orders back into arq's queue if any fell out of it."""
        ledger = self.workshop.ledger
        register = Register(ledger)
        counts = await register.counts()
        for state in WAITING:
            if await register.queued(state) >= counts[state]:
                continue
            async for order_id in register.ids(state):
                if await ledger.restore_job(order_id):
                    log.warning("order.job_restored", order_id=order_id)

    async def trim(self) -> None:
        """Forget what ended long ago, a batch at a time."""
        if self.retention is None:
            return
        forgotten = total = 0
        while forgotten == BATCH or not total:
            forgotten = await self.workshop.ledger.trim(self.retention, limit=BATCH)
            total += forgotten
            if not forgotten:
                break
            await asyncio.sleep(0)
        if total:
            log.info("orders.forgotten", count=total)

    async def _unbroken(self, step: Awaitable[_T]) -> _T | None:
        """Take a step; what fails in it is logged and stops no other."""
        try:
            return await step
        except AWAY as error:
            log.warning("store.away", error=str(error))
        except Exception:
            log.exception("recoverer.broke")
        return None

    async def _ask(self, order_id: str, *, wanted_back: bool) -> tuple[Finding, WireEvidence]:
        profile = self.workshop.handler.profile
        if wanted_back and profile.cancel is not None:
            wanted = await Register(self.workshop.ledger).body(order_id)
            if wanted is not None:
                finding, evidence = await self.workshop.handler.take_back(wanted)
                if isinstance(finding, Known):
                    return finding, evidence
        if profile.answers_lookup:
            register = Register(self.workshop.ledger)
            order = await register.body(order_id)
            if order is None:
                return CannotTell("the record cannot be read"), WireEvidence()
            finding, evidence = await self.workshop.handler.look_up(order)
            if profile.lookup is None and isinstance(finding, Known):
                finding = await _own_calls(finding, order, register)
            return finding, evidence
        if profile.honours_idempotency_key:
            return SendAgain(), WireEvidence()
        return CannotTell("the handler cannot be asked"), WireEvidence()


async def _own_calls(listed: Known, order: CallOrder, register: Register) -> Finding:
    """Return which of the calls to a number can be this order's: not those that are another's."""
    beside = await register.unsettled_beside(order)
    owners = await register.orders_of(listed.call_sids)
    free = [sid for sid in listed.call_sids if owners.get(sid, order.order_id) == order.order_id]
    if free and beside:
        return CannotTell("another order to this number is open too: either may be that call")
    return Known(tuple(free))
