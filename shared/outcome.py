"""What one attempt brought: five answers to "was a call placed?", with the evidence for it.

Only `dispatcher/call_handler.py` makes outcomes; only `shared/lifecycle.py` judges them.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class WireEvidence:
    """What was seen of one request on the wire: the witness that outlives every exception name."""

    connected: bool = False
    """A connection was there, new or kept alive."""
    request_left: bool = False
    """The first byte of the request was handed to the network; from here on nothing is sure."""
    answer_began: bool = False
    """The first line of the answer came back."""
    exception: str | None = None
    status: int | None = None
    excerpt: str | None = None
    """The beginning of the answer's body, for a person to read."""
    took_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """The handler took the order and named the call."""

    call_sid: str
    evidence: WireEvidence = field(default_factory=WireEvidence)


@dataclass(frozen=True, slots=True)
class Refused:
    """The handler says no, and will say no again: nothing was placed by this attempt."""

    status: int
    reason: str
    vouched: bool = False
    """The answer itself said `call_placed: no`, which speaks for earlier attempts too."""
    evidence: WireEvidence = field(default_factory=WireEvidence)


@dataclass(frozen=True, slots=True)
class Busy:
    """The handler asks us to come back later, and did nothing."""

    retry_after_s: float | None
    reason: str
    evidence: WireEvidence = field(default_factory=WireEvidence)


@dataclass(frozen=True, slots=True)
class NotSent:
    """Surely nothing was placed by this attempt, and the next one may fare better."""

    cause: str
    evidence: WireEvidence = field(default_factory=WireEvidence)


@dataclass(frozen=True, slots=True)
class Unanswered:
    """The request may have been acted upon, and nobody told us."""

    cause: str
    evidence: WireEvidence = field(default_factory=WireEvidence)


Outcome = Placed | Refused | Busy | NotSent | Unanswered


def as_evidence(outcome: Outcome) -> dict[str, Any]:
    """Return `outcome` as it stands in the order's history: its name, and all that is known."""
    # dataclasses.asdict copies deeply, which nobody needs of words and numbers
    facts = {name: getattr(outcome, name) for name in outcome.__slots__ if name != "evidence"}
    return {"outcome": type(outcome).__name__, **facts, "wire": wire_evidence(outcome.evidence)}


def wire_evidence(evidence: WireEvidence) -> dict[str, Any]:
    """Return what was seen on the wire, without what was not there to see."""
    seen = ((name, getattr(evidence, name)) for name in evidence.__slots__)
    return {name: fact for name, fact in seen if fact is not None}
