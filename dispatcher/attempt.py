"""One attempt, read as a pipe: claim, send, decide, settle."""

import asyncio
from dataclasses import dataclass, field, replace
from functools import cached_property
from random import Random
from typing import Final

import structlog
from redis.exceptions import RedisError

from dispatcher.call_handler import CallHandler
from dispatcher.leases import Leases
from shared.claim import ClaimAnswer, Claimed, NotClaimed, Terms, Unreadable
from shared.ledger import Act, Ledger
from shared.lifecycle import (
    Decision,
    OrderState,
    Policy,
    Tries,
    decide,
    decide_lost_lease,
    decide_overdue,
)
from shared.outcome import NotSent, Outcome, as_evidence
from shared.redis_pool import passes

SETTLE_AGAIN_S: Final = 0.5

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Workshop:
    """All that one worker works with."""

    name: str
    """This worker's, unique among all."""
    ledger: Ledger
    handler: CallHandler
    policy: Policy
    lease_s: float
    random: Random = field(default_factory=Random)
    at_hand: dict[str, Claimed | Unreadable] = field(default_factory=dict)
    """Orders that were claimed together with others, and are started next."""
    doubted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when an order comes to be in doubt that can be asked about."""

    async def attempt(self, order_id: str) -> str:
        """Try one order once, if it is ours to try; return in a word what came of it."""
        answer = self.at_hand.pop(order_id, None) or await self.claim(order_id)
        claimed = await self.readable(order_id, answer)
        if isinstance(claimed, NotClaimed):
            return claimed.why
        with self.leases.hold(claimed):
            outcome = await self.send(claimed)
            decision = self.decide(outcome, claimed.tries)
            return await self.settle(order_id, claimed.token, decision, outcome)

    async def claim(self, order_id: str) -> ClaimAnswer:
        """Ask for the order."""
        return await self.ledger.claim(order_id, self.terms)

    async def readable(self, order_id: str, answer: ClaimAnswer) -> Claimed | NotClaimed:
        """Settle an order that cannot be read; it is never sent."""
        if not isinstance(answer, Unreadable):
            return answer
        outcome = NotSent(answer.why)
        # Reading it again brings nothing else: no attempt is left.
        tries = replace(answer.tries, spent=self.policy.max_attempts)
        await self.settle(order_id, answer.token, self.decide(outcome, tries), outcome)
        return NotClaimed("unreadable", answer.why)

    async def send(self, claimed: Claimed) -> Outcome:
        """Place the order with the handler, once."""
        return await self.handler.send(claimed)

    def decide(self, outcome: Outcome, tries: Tries) -> Decision:
        """Judge the outcome; the jitter is drawn here so that judging stays pure."""
        return decide(outcome, tries, self.policy, self.handler.profile, self.random.random())

    async def settle(self, order_id: str, token: int, decision: Decision, outcome: Outcome) -> str:
        """Write it down, if the order is still ours."""
        evidence = as_evidence(outcome)
        act: Act | None = None
        while act is None:
            try:
                act = await self.ledger.settle(
                    order_id, token, decision, evidence=evidence, by=self.name
                )
            except (RedisError, OSError) as error:
                if not passes(error):
                    raise
                # What we know is known to nobody else: it is kept until the store is back.
                log.warning("store.away", order_id=order_id, error=str(error))
                await asyncio.sleep(SETTLE_AGAIN_S)
        if decision.to is OrderState.IN_DOUBT and decision.wait_s is not None:
            self.doubted.set()
        state = decision.to.lower() if act is Act.DONE else act.value
        log.info(
            "order.settled",
            to=state,
            order_id=order_id,
            rule=decision.rule,
            call_sid=decision.call_sid,
            token=token,
            wait_s=decision.wait_s,
        )
        return state

    @cached_property
    def terms(self) -> Terms:
        """On what terms this worker asks for orders."""
        profile = self.handler.profile
        return Terms(
            worker=self.name,
            lease_s=self.lease_s,
            lost=decide_lost_lease(self.policy, profile),
            overdue=decide_overdue(profile),
            handler=profile.identity,
        )

    @cached_property
    def leases(self) -> Leases:
        """What this worker holds."""
        return Leases(self.ledger, self.lease_s)
