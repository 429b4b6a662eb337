"""What a worker asks for when it asks for orders, and what it is told."""

import uuid
from dataclasses import dataclass, field
from datetime import datetime

from shared.clock import from_epoch_ms
from shared.lifecycle import Decision, Tries
from shared.order import CallOrder
from shared.phone_number import ALREADY_CHECKED


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a worker asks, the same for every order."""

    worker: str
    lease_s: float
    lost: Decision
    """What becomes of an order whose lease is found to have run out."""
    overdue: Decision
    """What becomes of one whose deadline has passed while an attempt is unanswered."""
    handler: str = ""
    """The identity of the call handler it will go to: an order that may have rung at another is not
    claimed, but settled in doubt."""


@dataclass(slots=True)
class Question:
    """One question for orders that are due. Its answer lost, it is asked again, not anew."""

    asked_at: float
    """On this process's monotonic clock, in seconds."""
    limit: int
    void_after: int | None = None
    """By the server's clock, in milliseconds: heard so late, nobody waits for the answer."""
    claim_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    asked_before: bool = False


@dataclass(slots=True)
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
    """On this process's monotonic clock, in seconds: nothing may be sent after it. Renewing the
    lease moves it on."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The order was claimed, but this version does not understand its record."""

    token: int
    tries: Tries
    why: str


@dataclass(frozen=True, slots=True)
class NotClaimed:
    """There is nothing to do."""

    why: str
    """In a word: held, not_due, fenced, expired, in_doubt, ended, unknown, broken."""
    detail: str = ""


ClaimAnswer = Claimed | Unreadable | NotClaimed


@dataclass(frozen=True, slots=True)
class Due:
    """The orders that were due, by their ids."""

    answers: dict[str, ClaimAnswer]
    next_in_s: float | None
    """In how many seconds more are due; None: not known."""
    server_ms: int
    """The server's time."""


def read_answer(words: list[str], worker: str, good_until: float) -> ClaimAnswer:
    """Return what the script said about one order, `words` being behind its id."""
    if words[0] != "claimed":
        return NotClaimed(*words[:2])
    try:
        token, attempt, free, unanswered, deaths, expires = (int(part) for part in words[1:7])
    except ValueError:
        # Damaged from outside: its lease runs out, and it is in doubt.
        return NotClaimed("broken", "its record does not count")
    tries = Tries(spent=attempt - free, unanswered=unanswered, deaths=deaths)
    try:
        order = CallOrder.model_validate_json(words[7], context=ALREADY_CHECKED)
    except ValueError:
        return Unreadable(token, tries, "the record is not an order of this version")
    return Claimed(order, token, attempt, tries, from_epoch_ms(expires), worker, good_until)
