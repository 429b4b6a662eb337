"""What a recoverer sees to, and what it forgets."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Look:
    """What there is to recover at this moment."""

    lost: list[str]
    """Orders whose lease ran out."""
    doubts: list[str]
    """Orders in doubt that are to be asked about now."""
    queue_is_short: bool
    """Waiting orders are missing in arq's queue."""
    next_doubt_s: float | None
    """In how many seconds another doubt is due; None: not known."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long what has ended is kept. Times are seconds."""

    keep_s: float
    """The details of an order, after its end."""
    keep_max: int
    """So many orders that ended keep their details, the last that did."""
    keep_ids_s: float
    """That there was such an order and what became of it, after that and its own deadline."""
