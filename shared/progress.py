"""How an order stands, as a value: what a waiting graph, a table or a person reads."""

from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from shared.clock import from_epoch_ms
from shared.lifecycle import ENDED, OrderState


class Result(BaseModel):
    """What stands under the result key once there is an answer."""

    model_config = ConfigDict(frozen=True)

    order_id: str
    state: OrderState
    call_sid: str | None = None
    rule: str
    reason: str


class OrderProgress(BaseModel):
    """One order as it stands, without what the person said."""

    model_config = ConfigDict(frozen=True)

    order_id: str
    state: OrderState
    call_sid: str | None = None
    rule: str | None = None
    reason: str | None = None
    attempt: int = 0
    spent: int = 0
    """Attempts that count against the policy."""
    unanswered: int = 0
    deaths: int = 0
    token: int = 0
    worker: str | None = None
    owner: str
    thread_id: str | None = None
    created_at: datetime
    moved_at: datetime
    expires_at: datetime
    due_at: datetime | None = None
    waits_for: str | None = None
    """The order in doubt about the same number, which this one waits for."""
    handler: str | None = None
    """Which call handler was asked last."""
    cancel_wish: str | None = None
    """Why somebody wanted it back when it was too late to be sure."""

    @property
    def ended(self) -> bool:
        """Say whether nothing but a person's act moves it any more."""
        return self.state in ENDED


class Move(BaseModel):
    """One line of an order's history."""

    model_config = ConfigDict(frozen=True)

    at: datetime
    from_state: str
    to_state: str
    by: str
    rule: str
    reason: str
    attempt: int = 0
    evidence: dict[str, Any] | None = None


def progress_of(order_id: str, record: dict[str, str]) -> OrderProgress:
    """Return how an order stands by the fields of its record."""
    due = record.get("due")
    return OrderProgress(
        order_id=order_id,
        state=OrderState(record["state"]),
        call_sid=record.get("call_sid"),
        rule=record.get("rule"),
        reason=record.get("reason"),
        attempt=int(record["attempt"]),
        spent=int(record["attempt"]) - int(record["free"]),
        unanswered=int(record.get("unanswered", 0)),
        token=int(record["token"]),
        deaths=int(record.get("deaths", 0)),
        worker=record.get("worker"),
        owner=record["owner"],
        thread_id=record["thread"] or None,
        created_at=from_epoch_ms(int(record["created"])),
        moved_at=from_epoch_ms(int(record["moved"])),
        expires_at=from_epoch_ms(int(record["expires"])),
        due_at=from_epoch_ms(int(due)) if due else None,
        waits_for=record.get("waits_for") or None,
        handler=record.get("handler"),
        cancel_wish=record.get("cancel_wish") or None,
    )


_RANG: Final[dict[OrderState, str]] = {
    OrderState.QUEUED: "No: it waits to be sent.",
    OrderState.SENDING: "Not known yet: it is with the call handler now.",
    OrderState.PLACED: "Yes: the call handler placed the call.",
    OrderState.REFUSED: "No: the call handler refused it.",
    OrderState.RETRYABLE: "No: it will be tried again.",
    OrderState.DEAD: "No: no attempt placed a call, and none is left.",
    OrderState.IN_DOUBT: "It may have rung: an attempt went unanswered.",
    OrderState.CANCELLED: "No: it was cancelled before it was sent.",
    OrderState.EXPIRED: "No: its deadline passed before it could be sent.",
}


def did_it_ring(progress: OrderProgress) -> str:
    """Return the one sentence a person wants first."""
    if progress.unanswered and progress.state not in {OrderState.PLACED, OrderState.REFUSED}:
        tries = "an attempt" if progress.unanswered == 1 else f"{progress.unanswered} attempts"
        return f"It may have rung: {tries} went unanswered."
    return _RANG[progress.state]


def why_it_waits(progress: OrderProgress) -> str | None:
    """Return what an order that is neither ended nor being sent waits for, or None."""
    if progress.waits_for:
        return f"for order {progress.waits_for} to the same number, which is in doubt"
    if progress.state is OrderState.QUEUED:
        return "for a worker"
    if progress.state is OrderState.RETRYABLE:
        return f"to be tried again; last: {progress.reason}"
    if progress.state is OrderState.IN_DOUBT:
        return f"until it is known whether it rang: {progress.reason}"
    return None
