"""Time, held in the hand: the only module that asks the machine what time it is.

Leases and due times are decided by the Redis server's clock, inside the scripts. What is left for
this clock is the moment an order was made and how long something took.
"""

import time
from datetime import UTC, datetime
from typing import Final, Protocol

_LEASE_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """What the rooms need of time."""

    def now(self) -> datetime:
        """Return the time of day, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that only grow; the zero is arbitrary."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the time of day, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that only grow; a changed wall clock does not move them.

        Where the system has such a clock, it goes on while the machine is suspended: a worker that
        slept through its lease must know that it did (CLOCK_BOOTTIME, man 2 clock_gettime).
        """
        return time.clock_gettime(_LEASE_CLOCK)


SYSTEM_CLOCK = SystemClock()


def from_epoch_ms(epoch_ms: int) -> datetime:
    """Return the aware UTC time of `epoch_ms`, milliseconds since 1970, as the server counts."""
    return datetime.fromtimestamp(epoch_ms / 1000, UTC)


def to_epoch_ms(moment: datetime) -> int:
    """Return milliseconds since 1970 for an aware `moment`."""
    return round(moment.timestamp() * 1000)
