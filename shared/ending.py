"""Ending a task for certain. One cancellation may get lost on the way.

`asyncio.wait_for` of Python 3.11, which redis-py sends every command with, swallows a cancellation
that arrives together with the result; the task then goes on as if nobody had asked.
"""

import asyncio
from typing import Any, Final

_AGAIN_S: Final = 1.0


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancel `tasks`, again if need be, until all are over; what they raised is theirs."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        over, left = await asyncio.wait(left, timeout=_AGAIN_S)
        for task in over:
            if not task.cancelled():
                task.exception()  # looked at, so that asyncio does not complain that nobody did
