"""What must hold at the end, whatever died: a pure judgement of the ledger by the carrier's count.

The ledger says what became of each order; the carrier says which telephones rang. Where the two
disagree in a way that harms a person, an invariant is broken.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shared.lifecycle import ENDED, WAITING, OrderState
from shared.progress import Move, OrderProgress


@dataclass(frozen=True, slots=True)
class Ending:
    """One accepted order at the end, as the ledger has it and as the carrier counted it."""

    order_id: str
    progress: OrderProgress | None
    """None: the ledger does not know it."""
    sids: tuple[str, ...] = ()
    """The calls that the carrier placed for it."""
    rings_at_number: int = 0
    """Rings at its number, which no other wish has: one wish must not become two orders."""
    history: tuple[Move, ...] = ()
    """Asked of orders in doubt only."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The ids of the orders that broke each invariant, and what else is worth counting."""

    rung_twice: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    false_failed: tuple[str, ...] = ()
    false_placed: tuple[str, ...] = ()
    unfounded_doubt: tuple[str, ...] = ()
    """In doubt though the handler could have been asked, or though no request ever left."""
    in_doubt: tuple[str, ...] = ()
    states: dict[str, int] = field(default_factory=dict)

    @property
    def broken(self) -> dict[str, tuple[str, ...]]:
        """The invariants that did not hold, each with the orders that broke it."""
        breaches = {
            "rung_twice": self.rung_twice,
            "lost": self.lost,
            "false_failed": self.false_failed,
            "false_placed": self.false_placed,
            "unfounded_doubt": self.unfounded_doubt,
        }
        return {name: ids for name, ids in breaches.items() if ids}


def judge(endings: Sequence[Ending], *, can_find_out: bool) -> Verdict:
    """Return the verdict on every accepted order.

    `can_find_out`: the handler honours the key or answers lookups, so that no doubt may stay.
    """

    def those(rule: Callable[[Ending], bool]) -> tuple[str, ...]:
        return tuple(ending.order_id for ending in endings if rule(ending))

    return Verdict(
        rung_twice=those(rang_twice),
        lost=those(was_lost),
        false_failed=those(failed_falsely),
        false_placed=those(placed_falsely),
        unfounded_doubt=those(
            lambda ending: in_doubt(ending) and (can_find_out or not may_have_left(ending))
        ),
        in_doubt=those(in_doubt),
        states=dict(
            Counter(
                "unknown" if ending.progress is None else str(ending.progress.state)
                for ending in endings
            )
        ),
    )


def rang_twice(ending: Ending) -> bool:
    """Somebody's telephone rang more than once for one wish."""
    return max(len(ending.sids), ending.rings_at_number) > 1


def was_lost(ending: Ending) -> bool:
    """It neither rang, nor is it in doubt, nor did it end in a way that says why."""
    if ending.progress is None:
        return True
    said_why = ending.progress.state in ENDED and bool(ending.progress.reason)
    return not (ending.sids or said_why or in_doubt(ending))


def failed_falsely(ending: Ending) -> bool:
    """It rang, and is recorded as if it surely had not."""
    progress = ending.progress
    if progress is None or not ending.sids:
        return False
    if progress.state in {OrderState.REFUSED, OrderState.CANCELLED, OrderState.EXPIRED}:
        return True
    as_if_unrung = progress.state is OrderState.DEAD or progress.state in WAITING
    return as_if_unrung and progress.unanswered == 0


def placed_falsely(ending: Ending) -> bool:
    """It is recorded as placed, but not as a call that the carrier knows."""
    progress = ending.progress
    return (
        progress is not None
        and progress.state is OrderState.PLACED
        and progress.call_sid not in ending.sids
    )


def in_doubt(ending: Ending) -> bool:
    """It waits for somebody to find out."""
    return ending.progress is not None and ending.progress.state is OrderState.IN_DOUBT


def may_have_left(ending: Ending) -> bool:
    """At least one attempt was cut off, or went unanswered after its first byte had left."""
    return any(
        move.rule == "lease_ran_out"
        or bool(((move.evidence or {}).get("wire") or {}).get("request_left"))
        for move in ending.history
        if move.to_state == OrderState.IN_DOUBT
    )
