"""What one call handler wants and promises, as data. What it does not promise is not assumed.

A profile is a TOML file (docs/HANDLERS.md has worked examples). Without one, the settings say where
the handler is and which of the two promises it makes, and the rest is the contract of the README.
"""

import hashlib
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    StringConstraints,
    ValidationError,
    model_validator,
)

Pointer = Annotated[str, StringConstraints(pattern=r"^(/[^/]+)+$")]
"""A JSON pointer (RFC 6901) into a body."""
Path_ = Annotated[str, StringConstraints(pattern=r"^/\S*$")]
Status = Annotated[int, Field(ge=100, le=599)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]

CONTRACT_FIELDS: Final = {
    "/order_id": "{order_id}",
    "/target_phone_number": "{target_phone_number}",
    "/final_instructions": "{final_instructions}",
    "/gathered_details": "{gathered_details}",
    "/user_name": "{user_name}",
    "/metadata": "{metadata}",
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OrderRequest(_Part):
    """How an order is written down for this handler. `{name}` stands for a part of the order."""

    method: Literal["POST", "PUT"] = "POST"
    path: Path_ = "/order"
    encoding: Literal["json", "form"] = "json"
    fields: dict[Pointer, Any] = CONTRACT_FIELDS
    """Where it stands in the body, and what stands there; what has no `{}` is a constant."""
    headers: dict[str, str] = {}
    basic_auth: tuple[str, str] | None = None


class Predicate(_Part):
    """Something that holds of an answer's body. All that is given must hold."""

    pointer: Pointer | None = None
    """Where to look in a JSON body; unset: the body as text."""
    equals: str | int | bool | None = None
    contains: str | None = None
    """Letters that stand in it, in whatever case."""


class Rule(_Part):
    """A judgement that goes before the general table: the first rule that fits decides."""

    status: frozenset[Status] = frozenset()
    """Empty: any."""
    body: Predicate | None = None
    outcome: Literal["refused", "busy", "not_sent", "unanswered"]
    """Not "placed": only a call_sid says that a call was placed."""


class Answer(_Part):
    """How this handler's answers are read."""

    call_sid: Pointer = "/call_sid"
    retry_after: Pointer | None = None
    """Where a body says how many seconds to wait; the header Retry-After is read regardless."""
    rules: tuple[Rule, ...] = ()
    trust_problem_members: bool = True
    """Believe `call_placed` and `retryable` of an application/problem+json."""


class Lookup(_Part):
    """How to ask what became of one order. 404 must mean: never seen."""

    path: Path_ = "/order/{order_id}"
    call_sid: Pointer = "/call_sid"
    refused: Predicate = Predicate(pointer="/status", equals="refused")


class Listing(_Part):
    """How to list the calls to a number since a time, for handlers that know no order ids."""

    path: Path_ = "/orders?to={target_phone_number}&since={since}"
    items: Pointer | None = None
    """Where the list stands in the answer; unset: the answer is the list."""
    call_sid: Pointer = "/call_sid"
    order_id: Pointer | None = "/order_id"
    """Where an item names its order, if it does; those of other orders are left out."""


class Cancel(_Part):
    """How to take an order back that is in doubt and that somebody wished to have back."""

    method: Literal["DELETE", "POST"] = "DELETE"
    path: Path_ = "/order/{order_id}"
    cancelled: Predicate = Predicate(pointer="/status", equals="cancelled")
    """What a 2xx says when no call was placed for the order, and none will be."""


class HandlerProfile(_Part):
    """One call handler: its address, its dialect, its patience and its promises."""

    name: str = "contract"
    url: HttpUrl = HttpUrl("http://127.0.0.1:8700")
    order: OrderRequest = OrderRequest()
    answer: Answer = Answer()
    honours_idempotency_key: bool = False
    """A second request with the same key answers the first one's call, and rings nobody."""
    key_header: str = "Idempotency-Key"
    lookup: Lookup | None = None
    listing: Listing | None = None
    cancel: Cancel | None = None
    connect_timeout_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    read_timeout_s: Annotated[float, Field(gt=0, le=600)] = 90.0
    """How long the handler may take to accept. Too short is the usual cause of double calls."""
    quiet_period_s: Seconds = 120.0
    """How long after an unanswered request "never seen" is believed: longer than the handler, and
    any proxy before it, can hold a request before it acts on it."""

    @model_validator(mode="after")
    def _body_is_writable(self) -> Self:
        places = sorted(self.order.fields)
        inside = [b for a, b in pairwise(places) if b.startswith(f"{a}/")]
        if inside:
            raise ValueError(f"stands inside another field: {', '.join(inside)}")
        if self.order.encoding == "form":
            nested = [where for where in self.order.fields if where.count("/") > 1]
            if nested:
                raise ValueError(f"a form has no nested fields: {', '.join(nested)}")
        return self

    @property
    def answers_lookup(self) -> bool:
        """Say whether it can be asked what became of an order."""
        return self.lookup is not None or self.listing is not None

    @property
    def identity(self) -> str:
        """The handler as an unanswered request remembers it: another one cannot know of it."""
        known_by = f"{self.url}\0{self.key_header}\0{self.honours_idempotency_key}"
        return hashlib.sha256(known_by.encode()).hexdigest()[:16]

    @property
    def attempt_limit_s(self) -> float:
        """The longest one attempt can take: connect, write, read."""
        return 2 * self.connect_timeout_s + self.read_timeout_s


class BadProfile(Exception):
    """The file holds no profile; the message names each member at fault, and the rule."""


class UnknownPlaceholder(ValueError):
    """A profile speaks of something that no order and no setting has."""


def read_profile(path: Path) -> HandlerProfile:
    """Return the profile in a TOML file.

    Raises:
        BadProfile: it cannot be read, or says what no profile says.
    """
    try:
        return HandlerProfile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadProfile(f"{path}: {error}") from None
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False)
        told = [f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults]
        raise BadProfile("\n".join(told)) from None
