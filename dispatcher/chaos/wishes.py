"""The orders of one run: each to a number of its own, so that none waits for another's doubt."""

from datetime import datetime, timedelta
from functools import cache
from typing import Final

from pydantic_core import PydanticCustomError

from dispatcher.chaos.plan import Plan, Wish
from shared.order import CallOrder
from shared.phone_number import callable_number

LIFETIME: Final = timedelta(hours=1)
_FICTIONAL: Final = 100
"""The lines 555-0100 to 555-0199 of every North American area code belong to nobody."""
_REHEARSED: Final = 202
"""The area code of the rehearsal handler's magic numbers."""


def number_of(index: int) -> str:
    """Return the number that the order of this index calls, and no other."""
    area, line = divmod(index, _FICTIONAL)
    return f"+1{area_codes()[area]}55501{line:02d}"


def most_orders() -> int:
    """Return how many numbers there are."""
    return len(area_codes()) * _FICTIONAL


def make_order(plan: Plan, wish: Wish, now: datetime) -> CallOrder:
    """Return the order that `wish` asks for, made at `now` by a clock that is right."""
    made_at = now + timedelta(seconds=wish.shift_s)
    return CallOrder(
        order_id=plan.order_id(wish),
        target_phone_number=number_of(wish.index),
        final_instructions=f"Order pizza number {wish.index}.",
        gathered_details={"pizza": wish.index},
        owner=f"owner-{wish.index % 7}",
        created_at=made_at,
        expires_at=made_at + LIFETIME,
    )


@cache
def area_codes() -> tuple[int, ...]:
    """Return the North American area codes in which a line of nobody's is a number in use."""
    return tuple(code for code in range(201, 990) if code != _REHEARSED and _in_use(code))


def _in_use(code: int) -> bool:
    if code // 10 % 10 == code % 10:  # 800, 888, 533 …: no place, and some cost money
        return False
    try:
        callable_number(f"+1{code}5550100")
    except PydanticCustomError:
        return False
    return True
