"""The fake carrier: it rings telephones that do not exist, and counts.

Its count is the only witness the tests believe, so a ring stands in the journal before it counts,
and a handler that was killed and started again on the same journal knows what it rang.
"""

import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from shared.clock import SYSTEM_CLOCK, Clock


@dataclass(frozen=True, slots=True)
class Ring:
    """One telephone that rang."""

    at: datetime
    order_id: str
    call_sid: str
    number_sha256: str
    """Enough to recognise a number one is told. Guessable, so no secret; but not readable."""
    call_status: str
    key: str | None = None
    """The idempotency key it rang under, None where keys are not honoured."""
    digest: str | None = None
    """Of the request's body, to tell a replay from another wish under the same key."""


class Carrier:
    """Rings and counts; with a journal, across crashes."""

    def __init__(self, journal: Path | None = None, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._total = 0
        self._by_order: dict[str, list[Ring]] = {}
        self._by_number: dict[str, list[Ring]] = {}
        self._by_key: dict[str, Ring] = {}
        self._journal = None if journal is None else self._open(journal)

    def ring(
        self,
        order_id: str,
        number: str,
        *,
        key: str | None = None,
        digest: str | None = None,
        call_status: str = "completed",
    ) -> str:
        """Ring `number` once and return the call's sid."""
        sid = f"CA{secrets.token_hex(16)}"
        now = self._clock.now()
        ring = Ring(now, order_id, sid, _sha256(number), call_status, key, digest)
        if self._journal is not None:
            _append(self._journal, ring)
        self._count(ring)
        return sid

    def rings(self, order_id: str) -> int:
        """Return how often a telephone rang for the order."""
        return len(self._by_order.get(order_id, ()))

    def call_sids(self, order_id: str) -> list[str]:
        """Return the sids of the order's calls, oldest first."""
        return [ring.call_sid for ring in self._by_order.get(order_id, ())]

    def first_ring(self, order_id: str) -> Ring | None:
        """Return the order's first ring, the one it should have had."""
        rings = self._by_order.get(order_id)
        return rings[0] if rings else None

    def rung_under(self, key: str) -> Ring | None:
        """Return the ring that was made under an idempotency key."""
        return self._by_key.get(key)

    def rung_at(self, number: str) -> list[Ring]:
        """Return every ring at one destination, oldest first."""
        return list(self._by_number.get(_sha256(number), ()))

    def count(self) -> dict[str, Any]:
        """Return the whole count; numbers appear only as how many there are."""
        orders = {order_id: len(rings) for order_id, rings in self._by_order.items()}
        return {
            "total": self._total,
            "orders": orders,
            "rung_twice": [order_id for order_id, rings in orders.items() if rings > 1],
            "numbers_called": len(self._by_number),
        }

    def close(self) -> None:
        """Let go of the journal."""
        if self._journal is not None:
            os.close(self._journal)
            self._journal = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _count(self, ring: Ring) -> None:
        self._total += 1
        self._by_order.setdefault(ring.order_id, []).append(ring)
        self._by_number.setdefault(ring.number_sha256, []).append(ring)
        if ring.key is not None:
            self._by_key.setdefault(ring.key, ring)

    def _open(self, journal: Path) -> int:
        descriptor = os.open(journal, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            written = journal.read_bytes()
            whole = written.rfind(b"\n") + 1
            for line in written[:whole].splitlines():
                self._count(_from_line(line))
            # A torn last line was never a ring; left there, it would spoil the next one too.
            os.ftruncate(descriptor, whole)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def _append(journal: int, ring: Ring) -> None:
    line = _to_line(ring)
    written = os.write(journal, line)
    if written != len(line):  # a full disk: take the torn line back, the ring did not happen
        os.ftruncate(journal, os.fstat(journal).st_size - written)
        raise OSError("the journal took only part of a ring")


def _to_line(ring: Ring) -> bytes:
    fields = {
        "at": ring.at.isoformat(),
        "order_id": ring.order_id,
        "call_sid": ring.call_sid,
        "number_sha256": ring.number_sha256,
        "call_status": ring.call_status,
        "key": ring.key,
        "digest": ring.digest,
    }
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _from_line(line: bytes) -> Ring:
    fields = json.loads(line)
    return Ring(**fields | {"at": datetime.fromisoformat(fields["at"])})


def _sha256(number: str) -> str:
    return hashlib.sha256(number.encode()).hexdigest()
