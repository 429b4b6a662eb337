"""What a worker is told when it asks for an order."""

from dataclasses import dataclass
from datetime import datetime

from shared.lifecycle import Tries
from shared.order import CallOrder


@dataclass(frozen=True, slots=True)
class Claimed:
    """The right to send one order until the lease runs out."""

    order: CallOrder
    token: int
    """Grows with every claim of this order; every write carries it."""
    attempt: int
    """Serial number of this attempt, from 1."""
    tries: Tries
    expires_at: datetime
    """The order's deadline as it stands now; a requeue moves it."""
    worker: str
    good_until: float
    """On this process's monotonic clock, in seconds: nothing may be sent after it."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The order was claimed, but this version does not understand its record."""

    token: int
    tries: Tries
    why: str


@dataclass(frozen=True, slots=True)
class NotClaimed:
    """There is nothing to do: `why` is held, not_due, fenced, expired, in_doubt, ended, unknown."""

    why: str
    detail: str = ""


ClaimAnswer = Claimed | Unreadable | NotClaimed
