"""One run: start everything, hand in and strike, wait until nothing moves, then ask the carrier."""

import asyncio
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dispatcher.chaos import tempo
from dispatcher.chaos.blows import Milestones, strike
from dispatcher.chaos.desk import Desk
from dispatcher.chaos.plan import DESKS, Plan
from dispatcher.chaos.stage import HANDLER, STORE, HandlerKind, Stage, set_stage
from dispatcher.chaos.talks import Talks
from dispatcher.chaos.witness import Testimony, hear
from shared import keys
from shared.clock import SYSTEM_CLOCK
from shared.ledger import Ledger
from shared.lifecycle import ENDED, WAITING, OrderState
from shared.redis_pool import AWAY, ledger_client
from shared.register import Register

_LOOK_S: Final = 0.25
_DESK_PATIENCE_S: Final = 4.0
_THREADS: Final = 32

Tell = Callable[[int, int], object]
"""Told how many orders were handed in, and how many of them have an answer."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one run came to."""

    testimony: Testimony
    surprises: tuple[str, ...]
    """What should not have happened, and is no invariant."""
    took_s: float

    @property
    def held(self) -> bool:
        """Say whether every promise was kept."""
        return not self.testimony.verdict.broken and not self.surprises


@dataclass
class _Run:
    plan: Plan
    stage: Stage
    register: Register
    """Looks on, past every fault."""
    tell: Tell
    milestones: Milestones = field(default_factory=Milestones)
    accepted: dict[str, str] = field(default_factory=dict)
    surprises: list[str] = field(default_factory=list)


async def run_plan(
    plan: Plan, kind: HandlerKind, *, workers: tuple[str, ...], folder: Path, tell: Tell
) -> Report:
    """Carry `plan` out in `folder` and return what it came to. Nothing is left running."""
    began = SYSTEM_CLOCK.monotonic()
    # Waiting for processes takes a thread each; asyncio's own pool has six on two cores.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
    stage = set_stage(plan, kind, workers, folder)
    async with stage.fleet.watched(), AsyncExitStack() as stack:
        redis = ledger_client(stage.store_url, patience_s=_DESK_PATIENCE_S)
        stack.push_async_callback(redis.aclose)
        run = _Run(plan, stage, Register(Ledger(redis)), tell)
        watching = asyncio.create_task(_tell_progress(run))
        stack.callback(watching.cancel)
        await _start(run)
        await _play(run, stack)
        await _come_to_rest(run)
        # A handler that is slow may ring after everybody has given it up.
        await asyncio.sleep(tempo.SLOW_S + tempo.ACCEPT_S)
        async with stage.fleet.members[HANDLER].turn:
            await stage.fleet.members[HANDLER].down(signal.SIGTERM)
            testimony = await hear(
                run.register, stage.journal, run.accepted, can_find_out=kind.can_find_out
            )
        surprises = (*run.surprises, *stage.fleet.surprises)
    return Report(testimony, surprises, took_s=round(SYSTEM_CLOCK.monotonic() - began, 1))


async def _start(run: _Run) -> None:
    """Start the store and the lines, then all others at once."""
    members = run.stage.fleet.members
    await members[STORE].up()
    for line in run.stage.lines.values():
        await line.open()
    await asyncio.gather(*(member.up() for name, member in members.items() if name != STORE))


async def _play(run: _Run, stack: AsyncExitStack) -> None:
    """Hand in and strike until both are done, and everything struck is back."""
    stage, desks = run.stage, []
    for name in DESKS:
        redis = ledger_client(stage.lines[name].url, patience_s=_DESK_PATIENCE_S)
        stack.push_async_callback(redis.aclose)
        desks.append(Ledger(redis))
    talks = Talks(stage.talk_port, run.accepted, run.surprises)
    desk = Desk(run.plan, desks, talks.hold, run.milestones, run.accepted, run.surprises)
    async with asyncio.TaskGroup() as under_way:
        for blow in run.plan.blows:
            under_way.create_task(strike(blow, stage.fleet, stage.lines, run.milestones))
        under_way.create_task(desk.hand_in_all())


async def _come_to_rest(run: _Run) -> None:
    """Wait until nothing is waiting, being sent, or in a doubt that can be cleared."""
    before: object = None
    still_since = began = SYSTEM_CLOCK.monotonic()
    latest = tempo.REST_PATIENCE_S + tempo.span_s(run.plan.orders)
    while True:
        counts = await run.register.counts()
        clearable = int(await run.register.ledger.redis.zcard(keys.DOUBTS))
        still_open = sum(counts[state] for state in (*WAITING, OrderState.SENDING)) + clearable
        if not still_open:
            return
        now = SYSTEM_CLOCK.monotonic()
        if counts != before:
            before, still_since = counts, now
        if now - still_since > tempo.REST_PATIENCE_S or now - began > latest:
            run.surprises.append(f"{still_open} orders did not come to rest")
            return
        await asyncio.sleep(_LOOK_S)


async def _tell_progress(run: _Run) -> None:
    while True:
        with suppress(*AWAY):
            counts = await run.register.counts()
            ended = sum(counts[state] for state in (*ENDED, OrderState.IN_DOUBT))
            run.tell(run.milestones.handed_in, ended)
        await asyncio.sleep(_LOOK_S)
