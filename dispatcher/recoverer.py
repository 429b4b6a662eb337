"""The recoverer: leases that ran out, doubts that can be cleared, orders that lost their job.

It runs beside every worker. That several do the same is harmless: each step is one script, and
what one has put in order the next one finds in order.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog

from dispatcher.attempt import Workshop
from shared import keys
from shared.finding import CannotTell, Finding, Known, SendAgain
from shared.lifecycle import WAITING, Tries, decide_doubt, decide_lost_lease
from shared.order import CallOrder
from shared.outcome import WireEvidence, wire_evidence
from shared.redis_pool import AWAY
from shared.register import Register

BATCH: Final = 100
ASKED_AT_ONCE: Final = 10

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Recoverer:
    """Puts right what somebody's death left behind."""

    workshop: Workshop
    every_s: float

    async def run(self) -> None:
        """Look every `every_s` seconds until cancelled; nothing that fails stops it."""
        while True:
            for step in (self.recover_leases, self.clear_doubts, self.restore_jobs):
                try:
                    await step()
                except AWAY as error:
                    log.warning("store.away", error=str(error))
                except Exception:
                    log.exception("recoverer.broke")
            await asyncio.sleep(self.every_s)

    async def look(self) -> None:
        """Look once at everything."""
        await self.recover_leases()
        await self.clear_doubts()
        await self.restore_jobs()

    async def recover_leases(self) -> None:
        """Settle as in doubt whatever was being sent by a worker that is not heard of any more."""
        shop = self.workshop
        lost = decide_lost_lease(shop.policy, shop.handler.profile)
        for order_id in await shop.ledger.overdue(keys.LEASES, limit=BATCH):
            if await shop.ledger.recover(order_id, lost, by=shop.name):
                log.warning("order.in_doubt", order_id=order_id, rule=lost.rule)

    async def clear_doubts(self) -> None:
        """Ask about each doubt whose time has come, a few at once."""
        profile = self.workshop.handler.profile
        if not profile.answers_lookup and not profile.honours_idempotency_key:
            return  # left for a worker that can ask
        ledger, patience_s = self.workshop.ledger, profile.attempt_limit_s
        due = await ledger.overdue(keys.DOUBTS, limit=ASKED_AT_ONCE, put_off_s=patience_s)
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
