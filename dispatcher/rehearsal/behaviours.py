"""What a call handler may do with an order, by name: chosen by a magic number or drawn by a seed.

A number in `MAGIC_NUMBERS` always gets its behaviour; any other number is answered, unless `Faults`
draws something else for that attempt. Both speak the same names, the keys of `BEHAVIOURS`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from types import MappingProxyType
from typing import Final, Literal

from dispatcher.rehearsal.exchange import Problem

CallStatus = Literal["completed", "busy", "no-answer"]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What becomes of one attempt that is no replay."""

    rings: bool = True
    reply: Problem | Literal["sid", "no-sid", "half", "reset", "hang"] = "sid"
    slow: bool = False
    """Wait before ringing, and let nobody see the order until it rings."""
    refused: bool = False
    """The order ends here without a call; a lookup says so."""
    call_status: CallStatus = "completed"
    """How the call ends, if it rings."""


ANSWERED: Final = "answered"

BEHAVIOURS: Final[Mapping[str, Behaviour]] = MappingProxyType(
    {
        ANSWERED: Behaviour(),
        "busy": Behaviour(call_status="busy"),
        "no-answer": Behaviour(call_status="no-answer"),
        "refused": Behaviour(
            rings=False,
            refused=True,
            reply=Problem(422, "refused", "Call refused", "This number cannot be called."),
        ),
        "too-many": Behaviour(
            rings=False,
            reply=Problem(
                429,
                "too-many-calls",
                "Too many calls",
                "All lines are taken.",
                retryable=True,
                retry_after_s=1,
            ),
        ),
        "unavailable": Behaviour(
            rings=False,
            reply=Problem(
                503,
                "unavailable",
                "Unavailable",
                "The handler is starting.",
                retryable=True,
                retry_after_s=1,
            ),
        ),
        "500-before": Behaviour(
            rings=False,
            reply=Problem(
                500, "failed-before", "Failed", "It broke before the call.", retryable=True
            ),
        ),
        "500-after": Behaviour(
            reply=Problem(
                500, "failed", "Failed", "It broke; the call may be placed.", call_placed="unknown"
            ),
        ),
        "hang-after": Behaviour(reply="hang"),
        "reset-before": Behaviour(rings=False, reply="reset"),
        "reset-after": Behaviour(reply="reset"),
        "half-body": Behaviour(reply="half"),
        "no-sid": Behaviour(reply="no-sid"),
        "done-unrung": Behaviour(rings=False, refused=True, reply="no-sid"),
        "slow": Behaviour(slow=True),
    }
)


@dataclass(frozen=True, slots=True)
class MagicNumber:
    """A number that makes the handler behave in one known way."""

    number: str
    name: str
    sentence: str
    attempts: int | None = None
    """How many attempts per order behave so before the call is answered; None is all of them."""


MAGIC_NUMBERS: Final = (
    MagicNumber("+12025550101", "busy", "rings, and the call ends busy"),
    MagicNumber("+12025550102", "no-answer", "rings, and nobody picks up"),
    MagicNumber("+12025550122", "refused", "refuses with 422, without ringing"),
    MagicNumber(
        "+12025550129", "too-many", "says 429 with Retry-After: 1 twice, then answers", attempts=2
    ),
    MagicNumber(
        "+12025550150", "500-before", "says 500 before ringing once, then answers", attempts=1
    ),
    MagicNumber("+12025550151", "500-after", "rings, then says 500"),
    MagicNumber(
        "+12025550153", "unavailable", "says 503 with Retry-After: 1 once, then answers", attempts=1
    ),
    MagicNumber("+12025550160", "hang-after", "rings, then says nothing until it hangs up"),
    MagicNumber("+12025550161", "reset-after", "rings, then resets the connection"),
    MagicNumber("+12025550162", "half-body", "rings, then sends half an answer and closes"),
    MagicNumber("+12025550163", "no-sid", "rings, then says `200 done` without a call_sid"),
    MagicNumber(
        "+12025550164", "slow", "waits, then rings, even if the client has hung up meanwhile"
    ),
    MagicNumber(
        "+12025550165",
        "reset-before",
        "resets the connection before ringing once, then answers",
        attempts=1,
    ),
    MagicNumber(
        "+12025550166", "done-unrung", "says `200 done` though the carrier refused: never rings"
    ),
)

_BY_NUMBER: Final = {magic.number: magic for magic in MAGIC_NUMBERS}


@dataclass(frozen=True, slots=True)
class Faults:
    """How likely an ordinary number gets each behaviour instead of an answer."""

    rates: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := sorted(self.rates.keys() - BEHAVIOURS.keys()):
            raise ValueError(
                f"no behaviour is called {unknown[0]!r}; known: {', '.join(BEHAVIOURS)}"
            )
        if any(not 0 <= rate <= 1 for rate in self.rates.values()) or self._total() > 1:
            raise ValueError("fault rates are probabilities and together at most 1")

    def draw(self, *, seed: int, order_id: str, attempt: int) -> str:
        """Return the name drawn for this attempt: the same arguments draw the same name."""
        if not self.rates:
            return ANSWERED
        lot = hashlib.blake2b(f"{seed}:{order_id}:{attempt}".encode(), digest_size=8).digest()
        drawn = int.from_bytes(lot) / 2**64
        # In order of the names, so that a mapping written in another order draws the same.
        names = sorted(self.rates)
        for name, upper in zip(names, accumulate(self.rates[n] for n in names), strict=True):
            if drawn < upper:
                return name
        return ANSWERED

    def _total(self) -> float:
        return round(sum(self.rates.values()), 9)


NO_FAULTS: Final = Faults()


def magic_behaviour(number: str, nth: int) -> str | None:
    """Return what a magic `number` does at an order's `nth` attempt; None for an ordinary one."""
    magic = _BY_NUMBER.get(number)
    if magic is None:
        return None
    return magic.name if magic.attempts is None or nth <= magic.attempts else ANSWERED
