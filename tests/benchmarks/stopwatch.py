"""How long something took."""

from collections.abc import Awaitable
from time import perf_counter
from typing import Any


async def seconds(doing: Awaitable[Any]) -> float:
    began = perf_counter()
    await doing
    return perf_counter() - began
