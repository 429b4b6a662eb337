"""Asking for orders that are due: what a worker is given is known to it, whatever gets lost.

A claim whose answer is lost would leave orders under a lease that nobody knows of, and in doubt
when it ends. So a question is asked again until it is answered, and one that the store carries out
so late that nobody waits for it any more is void.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from redis.exceptions import RedisError

from shared.claim import Due, Question, Terms
from shared.ledger import Ledger

AWAY_S: Final = 0.5
"""How long a store that is away is left alone."""
VOID_AFTER_MS: Final = 4000
"""Less than the 5 s after which a connection that says nothing is given up."""

log = structlog.get_logger(__name__)


@dataclass
class DueOrders:
    """Where one worker asks. The client of `ledger` sends nothing again by itself."""

    ledger: Ledger
    patience_s: float
    """How long a worker that was asked to end asks on."""
    _server_ahead_ms: int | None = None
    """The store's clock less ours."""

    async def take(self, limit: int, terms: Terms, wanted: Callable[[], bool]) -> Due | None:
        """Claim what is due, `limit` orders at most; None if they are not `wanted` any more."""
        question = Question(self.ledger.clock.monotonic(), limit, self._void_after())
        until = math.inf
        while True:
            try:
                due = await self.ledger.claim_due(question, terms)
            except (RedisError, OSError) as error:
                # Full, or a replica since a moment ago: whatever it says, it is no reason to end.
                log.warning("store.away", error=str(error))
            else:
                self._server_ahead_ms = due.server_ms - self._now_ms()
                return due
            now = self.ledger.clock.monotonic()
            if not wanted():
                until = min(until, now + self.patience_s)
            if now >= until:
                return None
            await asyncio.sleep(AWAY_S)

    def _void_after(self) -> int | None:
        if self._server_ahead_ms is None:
            return None
        return self._now_ms() + self._server_ahead_ms + VOID_AFTER_MS

    def _now_ms(self) -> int:
        return round(self.ledger.clock.monotonic() * 1000)
