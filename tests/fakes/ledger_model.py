"""The ledger as it is meant: no Redis, no time, nothing but the rules. The scripts must agree.

Time is three facts an order can have: its lease, its deadline or its wait is over.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

from shared.desk import Cancellation, Submission
from shared.ledger import Act
from shared.lifecycle import ENDED, MOVES, WAITING, Decision, OrderState

S = OrderState


class IllegalMove(Exception):
    """The table of moves does not have it; nothing was changed."""


@dataclass
class ModelOrder:
    """What is to be known of one order."""

    wish: str
    destination: str
    came: int
    state: OrderState = S.QUEUED
    rule: str | None = None
    call_sid: str | None = None
    token: int = 0
    attempt: int = 0
    free: int = 0
    unanswered: int = 0
    deaths: int = 0
    claim: str | None = None
    settled: int | None = None
    lease_over: bool = False
    deadline_over: bool = False
    wait_over: bool = True
    in_queue: bool = True
    asked_about: bool = False
    waits_for: str | None = None
    cancel_wish: bool = False
    moves: tuple[tuple[str, OrderState], ...] = (("", S.QUEUED),)
    fences: bool = False
    """Set when it moves: an ended order's late word that it rang raises no fence."""


@dataclass
class LedgerModel:
    """Answers as the ledger is to answer."""

    orders: dict[str, ModelOrder] = field(default_factory=dict)

    def submit(self, order_id: str, wish: str, destination: str) -> Submission:
        """Take an order in, once."""
        if known := self.orders.get(order_id):
            return Submission.ALREADY_QUEUED if known.wish == wish else Submission.CONFLICT
        self.orders[order_id] = ModelOrder(wish, destination, came=len(self.orders))
        return Submission.ACCEPTED

    def claim(
        self, order_id: str, claim_id: str, lost: Decision, overdue: Decision
    ) -> tuple[str, str | int]:
        """Answer ("claimed", token), or why not, with a detail."""
        if order_id not in self.orders:
            return "unknown", ""
        fenced_by = self.fenced_by(order_id)
        with self._changing(order_id) as order:
            if order.state is S.SENDING:
                if order.claim == claim_id:
                    return "claimed", order.token
                if not order.lease_over:
                    return "held", ""
                self._lose(order, lost)
                return "in_doubt", ""
            if order.state not in WAITING:
                order.in_queue = False
                return "ended", order.state
            if order.deadline_over and order.unanswered:
                _move(order, S.IN_DOUBT, overdue.rule, wait_s=overdue.wait_s)
                return "in_doubt", ""
            if order.deadline_over:
                _move(order, S.EXPIRED, "deadline")
                return "expired", ""
            if not order.wait_over:
                order.in_queue = True
                return "not_due", ""
            if fenced_by:
                order.in_queue, order.wait_over = True, False
                order.waits_for = fenced_by
                return "fenced", fenced_by
            order.token += 1
            order.attempt += 1
            order.claim = claim_id
            order.lease_over = False
            _move(order, S.SENDING, "claimed")
            return "claimed", order.token

    def settle(self, order_id: str, token: int, decision: Decision) -> Act:
        """Write what became of an attempt."""
        if order_id not in self.orders:
            return Act.UNKNOWN
        with self._changing(order_id) as order:
            if token and order.settled == token:
                return Act.DONE
            if not token or order.token != token:
                return Act.LOST
            late = order.state is S.IN_DOUBT and order.rule == "lease_ran_out"
            rang = decision.to is S.PLACED
            if rang and order.state in ENDED:
                order.settled, order.call_sid = token, decision.call_sid or order.call_sid
                order.unanswered += 1
                order.rule = "rang_after_all"
                order.moves += ((order.state, order.state),)
                return Act.LOST
            news = rang and (order.state is S.IN_DOUBT or order.state in WAITING)
            if not (order.state is S.SENDING or late or news):
                return Act.LOST
            if late and decision.to is S.IN_DOUBT:
                return Act.DONE
            order.settled = token
            if late:
                order.unanswered -= 1
                order.deaths -= 1
            elif decision.to is S.IN_DOUBT:
                order.unanswered += 1
            if not decision.spends_attempt:
                order.free += 1
            self._decide(order, decision)
            return Act.DONE

    def reconcile(self, order_id: str, token: int | None, decision: Decision) -> Act:
        """Clear a doubt: by the recoverer, who names the token, or by a person, who does not."""
        if order_id not in self.orders:
            return Act.UNKNOWN
        with self._changing(order_id) as order:
            if order.state is not S.IN_DOUBT or token not in {None, order.token}:
                return Act.MOVED_ON
            if decision.clears_doubt:
                order.unanswered = 0
            if _wished(order, decision.to) is S.IN_DOUBT:
                held = decision.to is not S.IN_DOUBT
                order.asked_about = decision.wait_s is not None and not held
                order.fences = order.unanswered > 0
                if not order.asked_about:
                    order.moves += ((S.IN_DOUBT, S.IN_DOUBT),)
                return Act.DONE
            self._decide(order, decision)
            return Act.DONE

    def recover(self, order_id: str, lost: Decision) -> bool:
        """Put an order whose lease ran out in doubt."""
        with self._changing(order_id) as order:
            if order.state is not S.SENDING or not order.lease_over:
                return False
            self._lose(order, lost)
            return True

    def requeue(self, order_id: str) -> Act:
        """Give a dead order another life."""
        with self._changing(order_id) as order:
            if order.state is not S.DEAD:
                return Act.NOT_DEAD
            order.free, order.deaths, order.deadline_over = order.attempt, 0, False
            order.cancel_wish = False
            _move(order, S.QUEUED, "requeued")
            return Act.DONE

    def cancel(self, order_id: str) -> Cancellation:
        """Take an order back while that is still true."""
        with self._changing(order_id) as order:
            if order.state in ENDED:
                return Cancellation.TOO_LATE
            if order.state in WAITING and not order.unanswered:
                _move(order, S.CANCELLED, "cancelled")
                return Cancellation.CANCELLED
            order.cancel_wish = True
            if order.state in WAITING:
                _move(order, S.IN_DOUBT, "cancelled_after_unanswered")
                return Cancellation.IN_DOUBT
            order.moves += ((order.state, order.state),)
            return Cancellation.SENDING if order.state is S.SENDING else Cancellation.IN_DOUBT

    def restore_job(self, order_id: str) -> bool:
        """Put a waiting order back into the queue."""
        order = self.orders[order_id]
        fell_out = order.state in WAITING and not order.in_queue
        order.in_queue = order.in_queue or fell_out
        return fell_out

    def pass_time(self, order_id: str, what: Literal["lease", "deadline", "wait"]) -> None:
        """Let one of an order's times be over."""
        order = self.orders[order_id]
        order.lease_over |= what == "lease"
        order.deadline_over |= what == "deadline"
        order.wait_over |= what in {"wait", "deadline"}

    def behind_the_fence(self, destination: str) -> set[str]:
        """Return the ids that may have rung this number while nobody knows."""
        return {
            order_id
            for order_id, order in self.orders.items()
            if order.destination == destination and order.fences
        }

    def fenced_by(self, order_id: str) -> str | None:
        """Return the order that `order_id` waits for: of two in doubt, the one that came first."""
        order = self.orders[order_id]
        others = self.behind_the_fence(order.destination) - {order_id}
        if order.unanswered:
            others = {other for other in others if self.orders[other].came < order.came}
        return min(others, default=None)

    def _lose(self, order: ModelOrder, lost: Decision) -> None:
        order.unanswered += 1
        order.deaths += 1
        _move(order, S.IN_DOUBT, "lease_ran_out", wait_s=lost.wait_s)

    def _decide(self, order: ModelOrder, decision: Decision) -> None:
        if decision.clears_doubt:
            order.unanswered = 0
        to = _wished(order, decision.to)
        wait_s = decision.wait_s if to is decision.to else None
        if to is order.state is S.IN_DOUBT:
            order.moves += ((to, to),)
            order.fences = order.unanswered > 0
        else:
            _move(order, to, decision.rule, decision.call_sid, wait_s)

    @contextmanager
    def _changing(self, order_id: str) -> Iterator[ModelOrder]:
        """Change an order as a whole, or, when that raises, not at all."""
        order = replace(self.orders[order_id])
        yield order
        self.orders[order_id] = order


def _wished(order: ModelOrder, to: OrderState) -> OrderState:
    """Return where an order goes that somebody wanted back."""
    if not order.cancel_wish or to not in WAITING:
        return to
    return S.IN_DOUBT if order.unanswered else S.CANCELLED


def _move(
    order: ModelOrder,
    to: OrderState,
    rule: str,
    call_sid: str | None = None,
    wait_s: float | None = None,
) -> None:
    if to not in MOVES[order.state]:
        raise IllegalMove(f"{order.state} to {to}")
    order.moves += ((order.state, to),)
    order.state, order.rule = to, rule
    order.fences = order.unanswered > 0 and (to not in ENDED or to is S.DEAD)
    order.call_sid = call_sid or order.call_sid
    order.in_queue = to in WAITING
    order.wait_over = order.deadline_over or not wait_s
    order.asked_about = to is S.IN_DOUBT and wait_s is not None
    order.waits_for = None
