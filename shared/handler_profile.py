"""What one call handler promises. Whatever it does not promise is assumed not to hold."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, HttpUrl


class HandlerProfile(BaseModel):
    """The handler's address, its patience and its promises. Times are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: HttpUrl = HttpUrl("http://127.0.0.1:8700")
    """Where the handler listens; orders go to its `/order`."""
    honours_idempotency_key: bool = False
    """A second request with the same `Idempotency-Key` answers the first one's call, unrung."""
    answers_lookup: bool = False
    """`GET /order/{order_id}` says what became of an order, and 404 only if it was never seen."""
    connect_timeout_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    read_timeout_s: Annotated[float, Field(gt=0, le=600)] = 90.0
    """How long the handler may take to accept. Too short is the usual cause of double calls."""
    quiet_period_s: Annotated[float, Field(gt=0)] = 120.0
    """How long after an unanswered request a lookup's 404 means "never": longer than the handler,
    and any proxy before it, can hold a request before acting on it."""

    @property
    def attempt_limit_s(self) -> float:
        """The longest one attempt can take: connect, write, read."""
        return 2 * self.connect_timeout_s + self.read_timeout_s
