"""Strikes the blows of a plan, each when its moment has come."""

import asyncio
import signal
from typing import cast

from dispatcher.chaos.fleet import Fleet, Member
from dispatcher.chaos.line import Line, LineFault
from dispatcher.chaos.plan import Blow
from dispatcher.chaos.tempo import BREATH_S


class Milestones:
    """How many orders were handed in, for whoever waits for so many."""

    def __init__(self) -> None:
        self.handed_in = 0
        self._waited_for: dict[int, asyncio.Event] = {}

    def one_more(self) -> None:
        """Count one order more."""
        self.handed_in += 1
        if reached := self._waited_for.pop(self.handed_in, None):
            reached.set()

    async def reached(self, orders: int) -> None:
        """Return once so many orders were handed in."""
        if orders > self.handed_in:
            await self._waited_for.setdefault(orders, asyncio.Event()).wait()


async def strike(blow: Blow, fleet: Fleet, lines: dict[str, Line], milestones: Milestones) -> None:
    """Strike once it is time; return when what was struck is as it was before.

    Blows against the same process or line take turns.
    """
    await milestones.reached(blow.after)
    await asyncio.sleep(blow.delay_s)
    match blow.fault:
        case "cut-before" | "cut-after" | "delay" | "half-open" | "refuse":
            await _strike_line(blow, lines[blow.target])
        case _:
            wrong = await _strike_process(blow, fleet.members[blow.target])
            if wrong is not None:
                fleet.surprises.append(wrong)


async def _strike_line(blow: Blow, line: Line) -> None:
    async with line.turn:
        if blow.fault == "refuse":
            await line.refuse()
            await asyncio.sleep(blow.lasts_s)
            await line.open()
            return
        line.delay_s = blow.shift_s
        line.fault = cast("LineFault", blow.fault)
        await asyncio.sleep(blow.lasts_s)
        line.fault = None


async def _strike_process(blow: Blow, member: Member) -> str | None:
    """Strike, and have it back; return what was wrong with how it ended."""
    async with member.turn:
        match blow.fault:
            case "pause" | "handler-hang":
                member.send(signal.SIGSTOP)
                await asyncio.sleep(blow.lasts_s)
                member.send(signal.SIGCONT)
                return None
            case "term":
                wrong = await member.down(signal.SIGTERM)
            case _:
                wrong = await member.down(signal.SIGKILL)
        if blow.fault == "clock":
            member.shift_s = blow.shift_s
        await asyncio.sleep(blow.lasts_s)
        await member.up()
        await asyncio.sleep(BREATH_S)
        return wrong
