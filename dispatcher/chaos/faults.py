"""The faults, by name: what each does, how often it strikes, and for how long.

Three kinds: a strike hits a process or a connection at a moment; a burden is laid on some of the
orders; a misbehaviour is drawn by the rehearsal handler for each attempt.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from dispatcher.chaos.tempo import HANDLER_HANG_S, PAUSE_S, WRONG_CLOCK_S

Victim = Literal["worker", "line", "store", "handler", "talk"]


@dataclass(frozen=True, slots=True)
class Strike:
    """A fault that hits one process, or one line between a process and the store."""

    name: str
    sentence: str
    victim: Victim
    often: float
    """How many while `tempo.SPAN_S` lasts; at least one in any run."""
    lasts_s: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Burden:
    """A fault that is laid on a share of the orders."""

    name: str
    sentence: str
    share: float


@dataclass(frozen=True, slots=True)
class Misbehaviour:
    """Behaviours of the rehearsal handler and how likely each is, at every attempt anew."""

    name: str
    sentence: str
    rates: Mapping[str, float]


STRIKES: Final = (
    Strike("kill", "a worker is killed (kill -9) and started again", "worker", 6, (0.0, 0.3)),
    Strike("term", "a worker is told to stop (SIGTERM), and started again", "worker", 3, (0, 0)),
    Strike("pause", "a worker is stopped past its lease, then goes on", "worker", 3, PAUSE_S),
    Strike(
        "clock",
        f"a worker is killed and comes back with a clock {WRONG_CLOCK_S / 60:.0f} minutes off",
        "worker",
        2,
        (0.0, 0.1),
    ),
    Strike(
        "cut-before", "connections are cut before a command is carried out", "line", 5, (0.2, 1)
    ),
    Strike("cut-after", "connections are cut after it was, before the answer", "line", 7, (0.2, 1)),
    Strike("delay", "every command is late", "line", 4, (0.5, 2.0)),
    Strike("half-open", "connections swallow everything and stay open", "line", 3, (0.5, 2.0)),
    Strike(
        "refuse", "connecting to the store is refused, what is open is cut", "line", 3, (0.3, 2)
    ),
    Strike(
        "store-kill", "the store is killed (kill -9) and reads its file", "store", 3, (0.1, 1.0)
    ),
    Strike("handler-kill", "the handler is killed and started again", "handler", 3, (0.1, 0.8)),
    Strike("handler-hang", "the handler is stopped for a while", "handler", 3, HANDLER_HANG_S),
    Strike(
        "graph-rerun",
        "`ringonce serve` is killed in the midst of conversations",
        "talk",
        4,
        (0.0, 0.3),
    ),
)

BURDENS: Final = (
    Burden("same-order", "an order is handed in several times at once", 0.08),
    Burden("re-run", "an order is handed in again later, with new times", 0.08),
)

MISBEHAVIOURS: Final = (
    Misbehaviour(
        "reset-after", "the handler rings, then resets", MappingProxyType({"reset-after": 0.05})
    ),
    Misbehaviour(
        "odd-answers",
        "the handler is slow, breaks off, answers 200 without a sid, 500, 503, 429, 422 …",
        MappingProxyType(
            {
                "500-before": 0.02,
                "500-after": 0.02,
                "hang-after": 0.01,
                "half-body": 0.02,
                "no-sid": 0.02,
                "done-unrung": 0.01,
                "reset-before": 0.02,
                "slow": 0.03,
                "too-many": 0.02,
                "unavailable": 0.02,
                "refused": 0.02,
            }
        ),
    ),
)

FAULTS: Final[Mapping[str, Strike | Burden | Misbehaviour]] = MappingProxyType(
    {fault.name: fault for fault in (*STRIKES, *BURDENS, *MISBEHAVIOURS)}
)

TALKS_SHARE: Final = 0.03
TALKS_MAX: Final = 60
"""So many orders come out of a conversation, where `graph-rerun` is among the faults."""

WRONG_CLOCK_SHARE: Final = 0.05
"""So many orders are made by a clock that is off, where `clock` is among the faults."""


def named(told: str) -> tuple[str, ...]:
    """Return the faults that `told` names: a list with commas, `all` or `none`.

    Raises:
        ValueError: one of them is unknown.
    """
    if told == "all":
        return tuple(FAULTS)
    wanted = {name.strip() for name in told.split(",")} - {"", "none"}
    if unknown := sorted(wanted - FAULTS.keys()):
        raise ValueError(f"no fault is called {unknown[0]!r}; known: {', '.join(FAULTS)}")
    return tuple(name for name in FAULTS if name in wanted)


def handler_rates(names: Iterable[str]) -> dict[str, float]:
    """Return the rates by which the rehearsal handler is to misbehave."""
    chosen = set(names)
    return {
        behaviour: rate
        for fault in MISBEHAVIOURS
        if fault.name in chosen
        for behaviour, rate in fault.rates.items()
    }
