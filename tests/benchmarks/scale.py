"""How much is measured: enough to be believed, or just enough to see that it works."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Scale:
    """Sizes of all legs, and how often each is repeated."""

    runs: int
    """Of what ratios are made from."""
    scaling_runs: int
    """Of numbers of workers between one and the most."""
    orders: int
    """In one run."""
    scaling_orders: int
    """In one run of several workers."""
    scaling_arq_orders: int
    """The same for stock arq, which gets slow there."""
    workers: tuple[int, ...]
    alone: int
    """Orders one at a time, a kind."""
    backlog: tuple[int, int]
    queued: int
    """Orders whose bytes are counted."""
    waiting: int
    waiting_s: float
    idle_s: float
    slow: int
    conversations: int


FULL: Final = Scale(
    runs=5,
    scaling_runs=3,
    orders=4_000,
    scaling_orders=4_000,
    scaling_arq_orders=500,
    workers=(1, 4, 16, 50),
    alone=1_000,
    backlog=(1_000, 100_000),
    queued=5_000,
    waiting=10_000,
    waiting_s=10,
    idle_s=10,
    slow=5_000,
    conversations=200,
)
QUICK: Final = Scale(
    runs=2,
    scaling_runs=1,
    orders=500,
    scaling_orders=500,
    scaling_arq_orders=200,
    workers=(1, 4),
    alone=150,
    backlog=(1_000, 5_000),
    queued=1_000,
    waiting=2_000,
    waiting_s=3,
    idle_s=3,
    slow=1_500,
    conversations=30,
)
