"""The order: what one person wants done by one phone call, complete and unchangeable.

It is minted before the person confirms it and checked once, here; whatever holds a `CallOrder`
holds a valid one. What may be sent where, and when, is not its business.
"""

import hashlib
import json
import re
import uuid
from datetime import timedelta
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from shared.phone_number import PhoneNumber

INSTRUCTIONS_MAX: Final = 8_000
DETAILS_MAX: Final = 50
DETAIL_MAX: Final = 1_000
METADATA_MAX: Final = 20
LIFETIME_MAX: Final = timedelta(days=31)
EARLIEST_YEAR: Final = 2000
LATEST_YEAR: Final = 2199

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f\ud800-\udfff]")


_RULES: Final = {
    "missing": "is required",
    "extra_forbidden": "is not a field of an order",
}
"""Rules whose usual wording speaks to programmers."""


def mint_order_id() -> str:
    """Return an id no order has yet."""
    return f"ord_{uuid.uuid4().hex}"


def order_id_from(*parts: str) -> str:
    """Return the one id that belongs to `parts`, so that the same wish gets the same id again."""
    return f"ord_{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:32]}"


def _printable(text: str) -> str:
    if found := _CONTROL.search(text):
        raise PydanticCustomError(
            "control_character",
            "must not contain control characters, has {code} at position {position}",
            {"code": f"U+{ord(found.group()):04X}", "position": found.start()},
        )
    return text


OrderId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{7,63}$")]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127}$")]
DetailName = Annotated[
    str, StringConstraints(min_length=1, max_length=64), AfterValidator(_printable)
]
DetailText = Annotated[str, StringConstraints(max_length=DETAIL_MAX), AfterValidator(_printable)]


class CallOrder(BaseModel):
    """One wish, ready to be called. Frozen; unknown fields are refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        str_strip_whitespace=True,
        allow_inf_nan=False,  # JSON has no such numbers
        hide_input_in_errors=True,
    )

    schema_version: Literal[1] = 1
    order_id: OrderId
    """Minted before the confirmation; names the order, its job, its key at the handler, its log."""
    target_phone_number: PhoneNumber
    """Whom to call, E.164."""
    final_instructions: Annotated[
        str,
        StringConstraints(min_length=1, max_length=INSTRUCTIONS_MAX),
        AfterValidator(_printable),
    ]
    """What the voice agent is to do on the line, in words."""
    gathered_details: Annotated[
        dict[DetailName, DetailText | StrictInt | StrictFloat | StrictBool],
        Field(max_length=DETAILS_MAX),
    ] = {}
    """What the person told us, by name of the detail."""
    user_name: (
        Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(_printable)]
        | None
    ) = None
    """On whose behalf the call is made."""
    owner: Word = "local"
    """Whose order it is: the account, not the person's name."""
    thread_id: Word | None = None
    """The conversation it came from."""
    created_at: AwareDatetime
    expires_at: AwareDatetime
    """After this moment the call is not begun any more."""
    metadata: Annotated[dict[DetailName, DetailText], Field(max_length=METADATA_MAX)] = {}
    """Passed on to the call handler untouched."""

    @model_validator(mode="after")
    def _expires_after_it_is_made(self) -> Self:
        if self.expires_at <= self.created_at:
            raise PydanticCustomError("deadline", "expires_at must be later than created_at")
        if self.expires_at.year > LATEST_YEAR or self.created_at.year < EARLIEST_YEAR:
            raise PydanticCustomError("deadline", "created_at and expires_at must be of our time")
        if self.expires_at - self.created_at > LIFETIME_MAX:
            raise PydanticCustomError("deadline", "expires_at must be within 31 days of created_at")
        return self

    def __repr_args__(self) -> list[tuple[str, str]]:
        # Whoever prints an order by accident, in a log or an error, prints its name only.
        return [("order_id", self.order_id)]

    def digest(self) -> str:
        """Return what tells this wish from another under the same id; its times do not count.

        A node that runs again mints new times for the same wish, and that is not another wish.
        """
        content = self.model_dump(mode="json", exclude={"created_at", "expires_at"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def destination(self) -> str:
        """Return the name of (owner, number), without the number in it, for the fence."""
        return hashlib.sha256(f"{self.owner}\0{self.target_phone_number}".encode()).hexdigest()[:32]


def complaints(error: ValidationError) -> list[dict[str, str]]:
    """Return each fault that `error` found as {field, rule}, without the value that was given.

    The value is left out on purpose: it may be somebody's number, and errors end up in logs.
    """
    return [
        {
            "field": ".".join(str(part) for part in fault["loc"]) or "order",
            "rule": _RULES.get(fault["type"], fault["msg"]),
        }
        for fault in error.errors(include_input=False, include_context=False, include_url=False)
    ]
