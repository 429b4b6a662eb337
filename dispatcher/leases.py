"""Leases: what a worker holds, for as long as it is at work on it and is heard of.

A lease is short, so that a dead worker's orders are soon found. Most orders end long before theirs
does; whatever takes longer has it renewed, all in one call.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import structlog

from shared.claim import Claimed
from shared.ledger import Ledger
from shared.redis_pool import AWAY

WORN: Final = 1 / 3
"""What must have passed of a lease before it is renewed."""
LOOKS_A_LEASE: Final = 6
"""So that two renewals may fail in a row without anything being lost."""
BATCH: Final = 100

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Leases:
    """The orders that one worker holds."""

    ledger: Ledger
    lease_s: float
    _held: dict[tuple[str, int], Claimed] = field(default_factory=dict, init=False)
    """By order and token: an earlier attempt may still be under way when the next one begins."""

    @contextlib.contextmanager
    def hold(self, claimed: Claimed) -> Iterator[None]:
        """Hold an order while the block lasts."""
        name = claimed.order.order_id, claimed.token
        self._held[name] = claimed
        try:
            yield
        finally:
            self._held.pop(name, None)

    @property
    def held(self) -> list[Claimed]:
        """What is held now."""
        return list(self._held.values())

    async def keep(self) -> None:
        """Renew what is held for long until cancelled; nothing that fails stops it."""
        while True:
            await asyncio.sleep(self.lease_s / LOOKS_A_LEASE)
            try:
                await self.renew()
            except AWAY as error:
                log.warning("store.away", error=str(error))
            except Exception:
                log.exception("leases.broke")

    async def renew(self) -> None:
        """Renew each lease of which a third has passed."""
        asked_at = self.ledger.clock.monotonic()
        good_until = asked_at + self.lease_s
        worn = good_until - self.lease_s * WORN
        due = [name for name, claimed in self._held.items() if claimed.good_until <= worn]
        for start in range(0, len(due), BATCH):
            some = due[start : start + BATCH]
            answers = await self.ledger.renew(some, self.lease_s)
            for name, renewed in zip(some, answers, strict=True):
                claimed = self._held.get(name)
                if claimed is None:
                    continue  # it ended meanwhile
                if renewed:
                    claimed.good_until = good_until
                else:
                    # Somebody took it for dead. What it is doing is done; its answer still counts.
                    del self._held[name]
                    log.warning("lease.lost", order_id=name[0])
