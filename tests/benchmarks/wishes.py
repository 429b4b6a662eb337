"""Orders as people make them, each to a number of its own: no cache by number flatters us."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from typing import Any, Final

import phonenumbers

from shared.clock import SYSTEM_CLOCK
from shared.order import CallOrder, mint_order_id

PER_AREA: Final = 10_000
INSTRUCTIONS: Final = (
    "Begin by saying that you are an AI assistant calling on behalf of a customer. Order one large "
    "pepperoni pizza for delivery before eight, ask what it costs, repeat the address, and thank "
    "them for their time."
)


def wishes(number: int) -> list[CallOrder]:
    """Return `number` orders that nobody has made yet."""
    now = SYSTEM_CLOCK.now()
    return [
        CallOrder(
            order_id=mint_order_id(),
            target_phone_number=next(_numbers),
            final_instructions=INSTRUCTIONS,
            gathered_details={"size": "large", "deliver_to": "12 Elm Street", "pay": "cash"},
            user_name="Ada Example",
            owner="bench",
            created_at=now,
            expires_at=now + timedelta(hours=1),
        )
        for _ in range(number)
    ]


def body(order: CallOrder) -> dict[str, Any]:
    """Return what the call handler is sent for `order`."""
    left_out = {"schema_version", "owner", "thread_id", "created_at", "expires_at"}
    return order.model_dump(mode="json", exclude=left_out, exclude_none=True)


def _every_number() -> Iterator[str]:
    """Yield four million numbers, from +1 201 555 0000 on, that are valid and nobody's."""
    for area in count(201):
        if not phonenumbers.is_valid_number(phonenumbers.parse(f"+1{area}5550123")):
            continue
        yield from (f"+1{area}555{line:04d}" for line in range(PER_AREA))


_numbers = _every_number()
