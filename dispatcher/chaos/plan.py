"""The plan of one run: which orders, which faults, when, against whom. Pure: a seed draws it all.

Every fault has dice of its own, thrown from the seed and its name, so that a fault left out leaves
the others as they were: that is how a broken run is narrowed down. Faults strike by progress (once
so many orders were handed in), because a wall clock would strike elsewhere on a slower machine.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from dispatcher.chaos.faults import (
    BURDENS,
    MISBEHAVIOURS,
    STRIKES,
    TALKS_MAX,
    TALKS_SHARE,
    WRONG_CLOCK_SHARE,
    Strike,
    handler_rates,
)
from dispatcher.chaos.tempo import SPAN_S, WRONG_CLOCK_S, span_s
from dispatcher.rehearsal.behaviours import Faults

BURST_MAX = 12
COPIES = (2, 8)
DESKS = ("desk-1", "desk-2")
"""Whence orders are handed in, each over connections of its own."""
TALK = "talk"
"""The `ringonce serve` process, and its line to the store."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One order to be made, and what is laid on it."""

    index: int
    copies: int = 1
    again_after: int | None = None
    """Hand it in once more when so many orders were handed in."""
    talked: bool = False
    """It comes out of a conversation."""
    shift_s: float = 0.0
    """How far the clock is off by which it was made."""


@dataclass(frozen=True, slots=True)
class Blow:
    """One strike, planned."""

    after: int
    """It strikes once so many orders were handed in, …"""
    delay_s: float
    """… and so many seconds later."""
    fault: str
    target: str
    lasts_s: float
    shift_s: float = 0.0
    """How far the clock is off that a worker comes back with; the delay of a late command."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is drawn before the first process is started."""

    seed: int
    faults: tuple[str, ...]
    wishes: tuple[Wish, ...]
    bursts: tuple[int, ...]
    """How many orders are handed in at the same moment, in turn."""
    blows: tuple[Blow, ...]
    span_s: float

    @property
    def orders(self) -> int:
        """How many orders there are."""
        return len(self.wishes)

    def digest(self) -> str:
        """Return a short name of this plan; two equal plans have the same."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:12]

    def order_id(self, wish: Wish) -> str:
        """Return the id of an order that does not come out of a conversation."""
        return f"chaos-{self.seed}-{wish.index:05d}"

    def count(self) -> dict[str, int]:
        """Return how often each fault is injected; of the handler's, those at first attempts."""
        counted = Counter(blow.fault for blow in self.blows)
        counted["same-order"] = sum(wish.copies > 1 for wish in self.wishes)
        counted["re-run"] = sum(wish.again_after is not None for wish in self.wishes)
        handler = Faults(handler_rates(self.faults))
        drawn = Counter(
            handler.draw(seed=self.seed, order_id=self.order_id(wish), attempt=1)
            for wish in self.wishes
            if not wish.talked
        )
        for fault in MISBEHAVIOURS:
            counted[fault.name] = sum(drawn[behaviour] for behaviour in fault.rates)
        return {name: counted[name] for name in self.faults}


def draw_plan(seed: int, *, orders: int, workers: Sequence[str], faults: Sequence[str]) -> Plan:
    """Return the plan that `seed` draws; the same arguments draw the same."""
    return Plan(
        seed=seed,
        faults=tuple(faults),
        wishes=_wishes(seed, orders, faults),
        bursts=_bursts(_dice(seed, "bursts"), orders),
        blows=_blows(seed, orders, workers, faults),
        span_s=span_s(orders),
    )


def _wishes(seed: int, orders: int, faults: Sequence[str]) -> tuple[Wish, ...]:
    share = min(TALKS_SHARE, TALKS_MAX / orders) if "graph-rerun" in faults else 0
    talked = _some(_dice(seed, "talks"), orders, share)
    same, again = (
        _some(_dice(seed, burden.name), orders, burden.share if burden.name in faults else 0)
        for burden in BURDENS
    )
    off = _some(_dice(seed, "off"), orders, WRONG_CLOCK_SHARE if "clock" in faults else 0)
    dice = _dice(seed, "wishes")
    wishes = []
    for index in range(orders):
        copies, again_after = dice.randint(*COPIES), dice.randint(index, orders)
        shift_s = dice.choice((-WRONG_CLOCK_S, WRONG_CLOCK_S))
        if index in talked:
            wishes.append(Wish(index, talked=True))
            continue
        wishes.append(
            Wish(
                index,
                copies=copies if index in same else 1,
                again_after=again_after if index in again else None,
                shift_s=shift_s if index in off else 0.0,
            )
        )
    return tuple(wishes)


def _bursts(dice: Random, orders: int) -> tuple[int, ...]:
    bursts: list[int] = []
    while (left := orders - sum(bursts)) > 0:
        bursts.append(min(left, dice.randint(1, BURST_MAX)))
    return tuple(bursts)


def _blows(
    seed: int, orders: int, workers: Sequence[str], faults: Sequence[str]
) -> tuple[Blow, ...]:
    times = span_s(orders) / SPAN_S
    blows = [
        _blow(dice, strike, orders, workers, talked="graph-rerun" in faults)
        for strike in STRIKES
        if strike.name in faults
        for dice in [_dice(seed, strike.name)]
        for _ in range(max(1, round(strike.often * times)))
    ]
    return tuple(sorted(blows, key=lambda blow: (blow.after, blow.delay_s)))


def _blow(
    dice: Random, strike: Strike, orders: int, workers: Sequence[str], *, talked: bool
) -> Blow:
    targets: dict[str, tuple[str, ...]] = {
        "worker": tuple(workers),
        "line": (*workers, *DESKS, TALK),
    }
    target = dice.choice(targets.get(strike.victim, (strike.victim,)))
    if strike.victim == "line" and target == TALK and not talked:
        target = DESKS[0]  # drawn all the same, so that the other draws stay as they are
    shift_s = {
        "clock": dice.choice((-WRONG_CLOCK_S, WRONG_CLOCK_S)),
        "delay": round(dice.uniform(0.05, 0.3), 3),
    }
    return Blow(
        after=dice.randint(1, orders),
        delay_s=round(dice.uniform(0.0, 0.4), 3),
        fault=strike.name,
        target=target,
        lasts_s=round(dice.uniform(*strike.lasts_s), 3),
        shift_s=shift_s.get(strike.name, 0.0),
    )


def _some(dice: Random, orders: int, share: float) -> frozenset[int]:
    wanted = max(1, round(orders * share)) if share else 0
    return frozenset(dice.sample(range(orders), min(wanted, orders)))


def _dice(seed: int, name: str) -> Random:
    return Random(f"{seed}/{name}")  # noqa: S311  (drawn again from the same seed: that is its use)
