"""The desk where the conversation hands in an order. It can ask here, and nothing else.

That `trigger_call` only enqueues is visible in its type: this Protocol is all it is given.
"""

from enum import StrEnum
from typing import Protocol

from shared.order import CallOrder
from shared.progress import OrderProgress, Result


class OrderDesk(Protocol):
    """All that the conversation may do with orders."""

    async def submit(self, order: CallOrder) -> "Submission":
        """Put a confirmed order in the queue, once, however often it is asked.

        Raises:
            OrderNotAccepted: the store is full, read-only, or gave no answer.
        """
        ...

    async def progress(self, order_id: str) -> OrderProgress | None:
        """Return how an order stands, or None if there is no such order."""
        ...

    async def result(self, order_id: str) -> Result | None:
        """Return what stands under the result key, or None while there is no answer."""
        ...

    async def cancel(
        self, order_id: str, *, by: str, why: str, even_if_unknown: bool = False
    ) -> "Cancellation":
        """Take an order back while that is still true, and say whether it was.

        `even_if_unknown` holds back for good an order that has not arrived.
        """
        ...


class AnswerDesk(Protocol):
    """Where the conversation waits for what became of an order."""

    async def wait(self, order_id: str, within_s: float) -> Result | None:
        """Return what stands under the result key, or None if nothing does after `within_s`."""
        ...


class Submission(StrEnum):
    """What became of a submit."""

    ACCEPTED = "accepted"
    ALREADY_QUEUED = "already_queued"
    """The same order was taken in before; nothing was changed."""
    CONFLICT = "conflict"
    """The id belongs to another wish; nothing was changed."""


class Cancellation(StrEnum):
    """What became of a cancel."""

    CANCELLED = "cancelled"
    """It never rang and never will."""
    SENDING = "sending"
    """Too late: it is with the call handler now. If no call is placed, it is not sent again."""
    IN_DOUBT = "in_doubt"
    """It may have rung; it will not be sent again."""
    TOO_LATE = "ended"
    """It had ended already."""
    UNKNOWN = "unknown"


class OrderNotAccepted(Exception):
    """The store did not take the order.

    `certain` says whether it surely did not. If not, the store went silent after it was asked;
    submitting the same order again finds out, and cannot make a second call.
    """

    def __init__(self, reason: str, *, certain: bool) -> None:
        self.certain = certain
        told = "was not accepted" if certain else "may or may not have been accepted"
        super().__init__(f"the order {told}: {reason}")
