"""How fast chaos runs: every time it sets, in seconds, and why each is long enough for the next.

The settings keep their proportions, so what holds here holds at the usual times too.
"""

import math
from typing import Final

CONNECT_S: Final = 0.5
READ_S: Final = 1.0

LEASE_S: Final = 4.0
"""A worker that lives renews it every third of that; nothing is sent with less than a second of it
left."""

ACCEPT_S: Final = 0.1
"""How long the handler takes over an ordinary order, so that deaths meet orders under way."""
SLOW_S: Final = 1.3
"""How long it takes over a slow one: longer than READ_S, so that we have hung up when it rings."""
HANG_S: Final = 5.0
HANDLER_HANG_S: Final = (0.4, 1.2)
"""How long it is stopped at a time."""

QUIET_S: Final = 4.5
"""A lookup is believed so long after an unanswered request. The handler may be stopped twice while
it is slow, and rings within READ_S + QUIET_S all the same: that is what the setting promises."""

PAUSE_S: Final = (LEASE_S + 0.5, LEASE_S + 1.5)
"""How long a worker is stopped: past its lease."""

BACKOFF_BASE_S: Final = 0.1
BACKOFF_CAP_S: Final = 1.0
SWEEP_S: Final = 0.3
RECOVER_S: Final = 0.5
STORE_PATIENCE_S: Final = 8.0
AWAIT_CALL_S: Final = 1.0

BREATH_S: Final = 1.5
"""What came back is left alone for so long: killed again at once, it would never get to work."""

WRONG_CLOCK_S: Final = 300.0
"""How far a clock is off, either way."""

SPAN_S: Final = 20.0
SPAN_ORDERS: Final = 300
"""So many orders are handed in within SPAN_S; more orders take longer, with the square root."""

REST_PATIENCE_S: Final = 30.0
"""Where nothing moved for so long and something is still open, nothing will."""


def span_s(orders: int) -> float:
    """Return how long handing in `orders` takes."""
    return SPAN_S * math.sqrt(orders / SPAN_ORDERS)
