"""Puts the ledger and the carrier side by side: what each says about every accepted order."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dispatcher.chaos.invariants import Ending, Verdict, in_doubt, judge
from dispatcher.rehearsal.carrier import Carrier
from shared.progress import Move
from shared.register import Register

SHOWN_MAX: Final = 10
_ASKED_AT_ONCE: Final = 200


@dataclass(frozen=True, slots=True)
class Offender:
    """An order that broke an invariant, with both records of it."""

    order_id: str
    breaches: tuple[str, ...]
    history: tuple[Move, ...]
    rings: tuple[str, ...]
    """Every ring at its number: when, the call's sid, and the order's id the handler was told."""


@dataclass(frozen=True, slots=True)
class Testimony:
    """The verdict, and the evidence for what is wrong."""

    verdict: Verdict
    accepted: int
    rings: int
    offenders: tuple[Offender, ...]


async def hear(
    register: Register, journal: Path, accepted: Mapping[str, str], *, can_find_out: bool
) -> Testimony:
    """Return what became of every order in `accepted` (order id → number).

    The journal must not be written to any more.
    """
    with Carrier(journal) as carrier:
        ids = list(accepted)
        endings = []
        for start in range(0, len(ids), _ASKED_AT_ONCE):
            asked = ids[start : start + _ASKED_AT_ONCE]
            endings += await asyncio.gather(
                *(_ending(register, carrier, order_id, accepted[order_id]) for order_id in asked)
            )
        verdict = judge(endings, can_find_out=can_find_out)
        return Testimony(
            verdict=verdict,
            accepted=len(accepted),
            rings=int(carrier.count()["total"]),
            offenders=await _offenders(register, carrier, verdict, accepted),
        )


async def _ending(register: Register, carrier: Carrier, order_id: str, number: str) -> Ending:
    ending = Ending(
        order_id,
        await register.ledger.progress(order_id),
        tuple(carrier.call_sids(order_id)),
        len(carrier.rung_at(number)),
    )
    if not in_doubt(ending):
        return ending
    return replace(ending, history=tuple(await register.history(order_id)))


async def _offenders(
    register: Register, carrier: Carrier, verdict: Verdict, accepted: Mapping[str, str]
) -> tuple[Offender, ...]:
    breaches: dict[str, list[str]] = {}
    for name, ids in verdict.broken.items():
        for order_id in ids:
            breaches.setdefault(order_id, []).append(name)
    return tuple(
        [
            Offender(
                order_id,
                tuple(names),
                tuple(await register.history(order_id)),
                tuple(
                    f"{ring.at:%H:%M:%S.%f} {ring.call_sid} for {ring.order_id}"
                    for ring in carrier.rung_at(accepted[order_id])
                ),
            )
            for order_id, names in list(breaches.items())[:SHOWN_MAX]
        ]
    )
