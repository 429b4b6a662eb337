"""The life of an order: its states, its legal moves, and what to make of an outcome. All pure.

  submit ─▶ QUEUED ── claim ─▶ SENDING ── Placed(call_sid) ───▶ PLACED     final
              ▲                  │ ├────── Refused ────────────▶ REFUSED    final
              │                  │ ├────── NotSent, Busy ──────▶ RETRYABLE  waits, claimed again
              │                  │ ├────── NotSent, none left ─▶ DEAD       requeue (a person)
              └──────────────────┼─┼─────────────────────────────┘
                                 │ └────── Unanswered,
                                 │         the lease ran out ─▶ IN_DOUBT   reconcile or resolve:
                                 │                                  PLACED REFUSED RETRYABLE DEAD
  cancel before SENDING ─▶ CANCELLED              deadline before SENDING ─▶ EXPIRED
  either of the two while an earlier attempt is unanswered ─▶ IN_DOUBT
  a wish to cancel, said while it was SENDING or IN_DOUBT, turns RETRYABLE into CANCELLED
  a late word that it rang turns a waiting order into PLACED

The same table is handed to the scripts (`shared/ledger.py`), which refuse any move not in it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, assert_never

from shared.finding import CannotTell, Finding, Known, KnownRefused, SendAgain
from shared.handler_profile import HandlerProfile
from shared.outcome import Busy, NotSent, Outcome, Placed, Refused, Unanswered


class OrderState(StrEnum):
    """Where an order stands. HTTP has statuses; orders have states."""

    QUEUED = "QUEUED"
    SENDING = "SENDING"
    PLACED = "PLACED"
    REFUSED = "REFUSED"
    RETRYABLE = "RETRYABLE"
    DEAD = "DEAD"
    IN_DOUBT = "IN_DOUBT"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


_S = OrderState

MOVES: Final[dict[OrderState, frozenset[OrderState]]] = {
    _S.QUEUED: frozenset({_S.SENDING, _S.CANCELLED, _S.EXPIRED, _S.IN_DOUBT, _S.PLACED}),
    _S.RETRYABLE: frozenset({_S.SENDING, _S.CANCELLED, _S.EXPIRED, _S.IN_DOUBT, _S.PLACED}),
    _S.SENDING: frozenset(
        {_S.PLACED, _S.REFUSED, _S.RETRYABLE, _S.DEAD, _S.IN_DOUBT, _S.CANCELLED}
    ),
    _S.IN_DOUBT: frozenset({_S.PLACED, _S.REFUSED, _S.RETRYABLE, _S.DEAD, _S.CANCELLED}),
    _S.DEAD: frozenset({_S.QUEUED}),
    _S.PLACED: frozenset(),
    _S.REFUSED: frozenset(),
    _S.CANCELLED: frozenset(),
    _S.EXPIRED: frozenset(),
}

WAITING: Final = frozenset({_S.QUEUED, _S.RETRYABLE})
"""May be claimed when due."""
ENDED: Final = frozenset({_S.PLACED, _S.REFUSED, _S.DEAD, _S.CANCELLED, _S.EXPIRED})
"""Nothing moves these any more, but a person's named act."""
NEEDS_A_PERSON: Final = frozenset({_S.IN_DOUBT, _S.DEAD})


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient we are. Times are seconds."""

    max_attempts: int = 40
    backoff_base_s: float = 0.25
    backoff_cap_s: float = 60.0
    busy_default_s: float = 1.0
    max_deaths: int = 3
    """So many workers may die holding an order before it is taken for the cause."""

    def backoff_s(self, attempt: int, jitter: float) -> float:
        """Return the wait after `attempt` (from 1): full jitter, `jitter` drawn from [0, 1).

        Full jitter is AWS's finding: "Exponential Backoff And Jitter", Marc Brooker, 2015.
        """
        return jitter * min(self.backoff_cap_s, self.backoff_base_s * 2.0 ** min(attempt - 1, 32))


@dataclass(frozen=True, slots=True)
class Tries:
    """What an order has behind it. Attempts count from 1."""

    spent: int
    """Attempts that count against the policy; one that met a busy handler does not."""
    unanswered: int = 0
    """Earlier attempts whose fate nobody knows."""
    deaths: int = 0
    """Workers that died while they held it."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of the order now: the state to move to and the name of the rule that says so."""

    to: OrderState
    rule: str
    reason: str
    call_sid: str | None = None
    wait_s: float | None = None
    """RETRYABLE: how long until it is due. IN_DOUBT: how long until we ask; None: ask a person."""
    spends_attempt: bool = True
    clears_doubt: bool = False
    """The fate of every earlier attempt is known now."""


def decide(
    outcome: Outcome, tries: Tries, policy: Policy, handler: HandlerProfile, jitter: float
) -> Decision:
    """Return what becomes of an order after one attempt. Pure: same arguments, same decision."""
    backoff = policy.backoff_s(tries.spent, jitter)
    again_s = backoff if tries.spent < policy.max_attempts else None
    match outcome:
        case Placed(call_sid):
            return Decision(_S.PLACED, "placed", "the handler named the call", call_sid=call_sid)
        case Refused(status, reason, vouched):
            if tries.unanswered and not (vouched and handler.honours_idempotency_key):
                # A 4xx to a second attempt proves nothing about an unanswered first one.
                told = f"{status}: {reason}"
                return _doubt("refused_after_unanswered", told, again_s, handler)
            return Decision(_S.REFUSED, "refused", f"{status}: {reason}")
        case Busy(retry_after_s, reason):
            wait = policy.busy_default_s if retry_after_s is None else retry_after_s
            wait += jitter * policy.busy_default_s  # or everyone comes back in the same instant
            return Decision(_S.RETRYABLE, "busy", reason, wait_s=wait, spends_attempt=False)
        case NotSent(cause):
            if again_s is not None:
                return Decision(_S.RETRYABLE, "not_sent", cause, wait_s=again_s)
            if tries.unanswered:
                return _doubt("none_left_after_unanswered", cause, None, handler)
            return Decision(_S.DEAD, "none_left", f"{tries.spent} attempts, the last: {cause}")
        case Unanswered(cause):
            return _doubt("unanswered", cause, again_s, handler)
        case _:
            assert_never(outcome)


def decide_lost_lease(policy: Policy, handler: HandlerProfile) -> Decision:
    """Return what becomes of an order whose worker was not heard of before its lease ran out."""
    reason = "the worker that was sending it was not heard of again"
    return _doubt("lease_ran_out", reason, policy.backoff_base_s, handler)


def decide_overdue(handler: HandlerProfile) -> Decision:
    """Return what becomes of an order that may not ring any more, but may have rung already."""
    reason = "its time was up while an earlier attempt was still unanswered"
    return _doubt("overdue_after_unanswered", reason, None, handler)


def decide_doubt(
    finding: Finding, tries: Tries, policy: Policy, handler: HandlerProfile, jitter: float
) -> Decision:
    """Return what becomes of an order in doubt, from what asking the handler brought.

    A decision that stays IN_DOUBT says when to ask again, or (no wait) that a person has to.
    """
    poisoned = tries.deaths >= policy.max_deaths
    killed = f"{tries.deaths} workers died while they held it"
    none_left = f"{tries.spent} attempts, none placed a call"
    match finding:
        case Known(call_sids=(call_sid,)):
            reason = "the handler knows the call"
            return Decision(_S.PLACED, "found_placed", reason, call_sid=call_sid)
        case Known(call_sids=()) if poisoned:
            return Decision(_S.DEAD, "poison", killed, clears_doubt=True)
        case Known(call_sids=()) if tries.spent >= policy.max_attempts:
            return Decision(_S.DEAD, "none_left", none_left, clears_doubt=True)
        case Known(call_sids=()):
            reason = "the handler never saw it"
            return Decision(_S.RETRYABLE, "found_unplaced", reason, wait_s=0, clears_doubt=True)
        case Known(call_sids):
            return Decision(_S.IN_DOUBT, "found_several", f"{len(call_sids)} calls would fit")
        case KnownRefused(reason):
            return Decision(_S.REFUSED, "found_refused", reason, clears_doubt=True)
        case SendAgain() if poisoned:
            return Decision(_S.DEAD, "poison", f"{killed}; it may have rung")
        case SendAgain():
            reason = "the handler will not ring twice for the same key"
            return Decision(_S.RETRYABLE, "same_key_again", reason, wait_s=0)
        case CannotTell(cause):
            can_be_asked = handler.answers_lookup or handler.honours_idempotency_key
            again = max(handler.connect_timeout_s, policy.backoff_s(tries.spent + 1, jitter))
            wait_s = again if can_be_asked else None
            return Decision(_S.IN_DOUBT, "cannot_tell", cause, wait_s=wait_s)
        case _:
            assert_never(finding)


def _doubt(rule: str, reason: str, again_s: float | None, handler: HandlerProfile) -> Decision:
    """In doubt. One fact decides whether we find out ourselves: what the handler promises."""
    if handler.answers_lookup:
        wait_s: float | None = handler.quiet_period_s
    elif handler.honours_idempotency_key:
        wait_s = again_s
    else:
        wait_s = None
    return Decision(_S.IN_DOUBT, rule, reason, wait_s=wait_s)
