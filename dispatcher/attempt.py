"""One attempt, read as a pipe: claim, send, decide, settle."""

import asyncio
from dataclasses import dataclass, field, replace
from random import Random, SystemRandom
from typing import Final

import structlog
from redis.exceptions import RedisError

from dispatcher.call_handler import CallHandler
from shared.claim import Claimed, NotClaimed, Unreadable
from shared.ledger import Act, Ledger
from shared.lifecycle import Decision, Policy, Tries, decide, decide_lost_lease, decide_overdue
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
    random: Random = field(default_factory=SystemRandom)

    async def attempt(self, order_id: str) -> str:
        """Try one order once, if it is ours to try; return in a word what came of it."""
        claimed = await self.claim(order_id)
        if not isinstance(claimed, Claimed):
            return claimed.why
        outcome = await self.send(claimed)
        decision = self.decide(outcome, claimed.tries)
        return await self.settle(order_id, claimed.token, decision, outcome)

    async def claim(self, order_id: str) -> Claimed | NotClaimed:
        """Ask for the order. One that cannot be read is settled here, and never sent."""
        answer = await self.ledger.claim(
            order_id,
            worker=self.name,
            lease_s=self.lease_s,
            lost=decide_lost_lease(self.policy, self.handler.profile),
            overdue=decide_overdue(self.handler.profile),
            handler=self.handler.profile.identity,
        )
        if isinstance(answer, Unreadable):
            outcome = NotSent(answer.why)
            # Reading it again brings nothing else: no attempt is left.
            tries = replace(answer.tries, spent=self.policy.max_attempts)
            decision = self.decide(outcome, tries)
            await self.settle(order_id, answer.token, decision, outcome)
            return NotClaimed("unreadable", answer.why)
        return answer

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
