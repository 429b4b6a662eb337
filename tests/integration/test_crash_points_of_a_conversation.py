"""Wherever a conversation's process dies between the yes and the report: one order, one ring.

Each test stops one turn at one named point, as `kill -9` would, lets the lock of the dead run out,
opens the conversation anew on the same files, and lets the person go on. The call handler keeps no
promise, so a second order would ring a second time. That the points named here are all there are is
a test too.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import aiosqlite
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from redis.asyncio import Redis

from dispatcher.attempt import Workshop
from dispatcher.call_handler import CallHandler
from dispatcher.rehearsal.carrier import Carrier
from dispatcher.rehearsal.handler import Promises, RehearsalHandler
from dispatcher.rehearsal.server import rehearsal_server
from orchestrator.analyst import RuleAnalyst
from orchestrator.graph import build_graph
from orchestrator.nodes import Context
from orchestrator.resumer import resuming
from orchestrator.turn import turn_from
from orchestrator.workflow_manager import (
    CHECKPOINTS,
    StaleReply,
    Turn,
    WorkflowManager,
    open_workflow_manager,
)
from shared import keys
from shared.answers import Answers
from shared.clock import SYSTEM_CLOCK
from shared.desk import Cancellation, Submission
from shared.ledger import Ledger
from shared.lifecycle import OrderState
from shared.order import CallOrder
from shared.progress import OrderProgress, Result
from shared.register import Register
from shared.settings import Settings
from tests.conftest import eventually
from tests.fakes.crash_points import Fuse, mortal

PIZZA: Final = "Order a large pepperoni pizza from Luigi's at +1 202 555 0123"
OWNER: Final = "local"


def _around(*steps: str) -> tuple[str, ...]:
    return tuple(f"{side} {step}" for step in steps for side in ("before", "after"))


def _saved(nth: int) -> tuple[str, ...]:
    """What a step wrote and the checkpoint behind it are saved side by side."""
    again = "" if nth == 1 else f" ({nth})"
    step = ("before writes", "before a checkpoint", "after writes", "after a checkpoint")
    return tuple(f"{point}{again}" for point in step)


# `set` takes the conversation's lock and `a script` gives it back; `hset` and `hdel` say that the
# conversation is parked, and that it has moved on; `get` reads the result key.
YES: Final = (
    *_around("set", "a reading", "a reading (2)", "hset", "a reading (3)"),
    *_saved(1),
    *_around("submit"),
    *_saved(2),
    *_around("get"),
)
READ: Final = _around("a reading (4)", "a reading (5)")
ANSWERED: Final = (
    *(*YES, *_saved(3)),
    *(*_around("progress"), *_saved(4)),
    *(*READ, *_around("hdel", "a script")),
)
"""A yes whose call is placed before anybody looks."""
WAITING: Final = (
    *(*YES, *_around("progress"), *_saved(3)),
    *_around("writes (4)"),
    *(*READ, *_around("hset (2)", "a script")),
)
"""A yes whose call takes its time."""
LOOKED: Final = (
    *_around("a reading", "a reading (2)", "get", "a reading (3)", "set"),
    *_around("a reading (4)", "a reading (5)", "a reading (6)", "get (2)"),
    *_saved(1),
    *_around("progress"),
    *_saved(2),
    *_around("a reading (7)", "a reading (8)", "hdel", "a script"),
)
"""A look at a call that was placed meanwhile, by a person or by the resumer."""


class FusedSaver(AsyncSqliteSaver):
    """The real checkpoints, with a point before and after whatever is saved or read."""

    fuse: Fuse

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        await self.fuse.point("before a checkpoint")
        saved = await super().aput(config, checkpoint, metadata, new_versions)
        await self.fuse.point("after a checkpoint")
        return saved

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        await self.fuse.point("before writes")
        await super().aput_writes(config, writes, task_id, task_path)
        await self.fuse.point("after writes")

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        await self.fuse.point("before a reading")
        found = await super().aget_tuple(config)
        await self.fuse.point("after a reading")
        return found


class PromptDesk:
    """The real desk, in a world whose worker has placed the call before anybody looks."""

    def __init__(self, ledger: Ledger, shop: Workshop) -> None:
        self._ledger = ledger
        self._shop = shop

    async def submit(self, order: CallOrder) -> Submission:
        became = await self._ledger.submit(order)
        await self._shop.attempt(order.order_id)
        return became

    async def progress(self, order_id: str) -> OrderProgress | None:
        return await self._ledger.progress(order_id)

    async def result(self, order_id: str) -> Result | None:
        return await self._ledger.result(order_id)

    async def cancel(
        self, order_id: str, *, by: str, why: str, even_if_unknown: bool = False
    ) -> Cancellation:
        return await self._ledger.cancel(order_id, by=by, why=why, even_if_unknown=even_if_unknown)


@dataclass
class Scene:
    """A conversation that waits for its yes, and the world around it."""

    url: str
    redis: Redis
    settings: Settings
    shop: Workshop
    carrier: Carrier
    manager: WorkflowManager
    asked: Turn

    @property
    def thread_id(self) -> str:
        return self.asked.thread_id

    async def yes(self, manager: WorkflowManager) -> Turn:
        return await manager.continue_(self.thread_id, "yes", self.asked.reply_to)

    async def look(self, manager: WorkflowManager) -> Turn:
        turn = await manager.look_up(self.thread_id)
        assert turn is not None
        return turn

    async def dies(
        self, at: str | None, turn: Callable[[WorkflowManager], Any], *, prompt: bool = False
    ) -> list[str]:
        """Take a turn in a process of its own that dies at a point; return the points passed."""
        fuse = Fuse(at)
        async with (
            aiosqlite.connect(self.settings.data_dir / CHECKPOINTS) as connection,
            mortal(self.url, fuse) as doomed,
        ):
            saver = FusedSaver(connection)
            saver.fuse = fuse
            ledger = Ledger(doomed.redis)
            context = Context(
                desk=PromptDesk(ledger, self.shop) if prompt else ledger,
                answers=Answers(doomed.redis),
                analyst=RuleAnalyst(self.settings.default_region),
                clock=SYSTEM_CLOCK,
                await_call_s=0.0,
                order_lifetime_s=self.settings.order_lifetime_s,
            )
            manager = WorkflowManager(build_graph(saver), saver, context, doomed.redis)
            if at is None:
                await turn(manager)
            else:
                await fuse.kill(turn(manager), socket_holder=doomed)
        await self.redis.delete(keys.thread(self.thread_id))  # the lock of the dead runs out
        return fuse.passed

    async def calls_are_placed(self) -> None:
        for order_id in await self.shop.ledger.redis.zrange(keys.QUEUE, 0, -1):
            await self.shop.attempt(order_id)

    async def told(self) -> Turn:
        """Let the person go on in a new process, until there is a report."""
        async with open_workflow_manager(self.settings, self.shop.ledger, self.redis) as manager:
            turn = await self.look(manager)
            for _ in range(5):
                if turn.kind == "report":
                    return turn
                word = "yes" if turn.kind == "confirmation" else "how is it going?"
                turn = await manager.continue_(self.thread_id, word, turn.reply_to)
                await self.calls_are_placed()
        pytest.fail(f"no report after all that was said: {turn}")

    async def resumed(self) -> Turn:
        """Let a new process run until no conversation is parked; return where ours stands then."""

        async def none_is_parked() -> bool:
            return not await self.redis.exists(keys.PARKED)

        async with (
            Answers(self.redis) as answers,
            open_workflow_manager(
                self.settings, self.shop.ledger, self.redis, answers=answers
            ) as manager,
            resuming(manager, answers, sweep_s=0.05),
        ):
            await eventually(none_is_parked)
            snapshot, cut_off = await manager._standing(self.thread_id)
            return turn_from(snapshot, cut_off=cut_off)

    async def orders(self) -> list[OrderProgress]:
        return await Register(self.shop.ledger).newest()

    async def one_order_one_ring_and_it_is_told(self, turn: Turn) -> None:
        (order,) = await self.orders()
        assert order.thread_id == self.thread_id
        assert order.state is OrderState.PLACED
        assert self.carrier.count()["orders"] == {order.order_id: 1}
        assert [order.call_sid] == self.carrier.call_sids(order.order_id)
        assert (turn.order_id, turn.call_sid) == (order.order_id, order.call_sid)
        assert str(order.call_sid) in turn.text


SetScene = Callable[..., Any]


@pytest.fixture
def scene(store_url: str, redis: Redis, settings: Settings) -> SetScene:
    @asynccontextmanager
    async def set_scene() -> AsyncIterator[Scene]:
        carrier = Carrier()
        promises = Promises(keyed=False, lookup=False, listing=False)
        quick = settings.model_copy(update={"await_call_s": 0.0})
        ledger = Ledger(redis)
        async with rehearsal_server(RehearsalHandler(carrier, promises=promises)) as url:
            mine = Settings.model_validate({**quick.model_dump(), "call_handler_url": url})
            async with (
                CallHandler(mine.profile, connections=4) as handler,
                open_workflow_manager(mine, ledger, redis) as manager,
            ):
                shop = Workshop("w-1", ledger, handler, mine.policy, 120.0, Random(1))
                asked = await manager.start(PIZZA, OWNER)
                assert asked.kind == "confirmation"
                yield Scene(store_url, redis, mine, shop, carrier, manager, asked)

    return set_scene


async def test_the_points_of_a_conversation_are_all_there_are(scene: SetScene):
    async with scene() as here:
        assert await here.dies(None, here.yes, prompt=True) == [*ANSWERED]
    await here.redis.flushdb()
    async with scene() as here:
        assert await here.dies(None, here.yes) == [*WAITING]
        await here.calls_are_placed()
        assert await here.dies(None, here.look) == [*LOOKED]


@pytest.mark.parametrize("at", ANSWERED)
async def test_who_looks_after_a_death_in_a_yes_that_was_answered_is_told_of_one_call(
    at: str, scene: SetScene
):
    async with scene() as here:
        await here.dies(at, here.yes, prompt=True)
        await here.one_order_one_ring_and_it_is_told(await here.told())


@pytest.mark.parametrize("at", ANSWERED)
async def test_a_yes_that_is_sent_again_after_a_death_makes_no_second_call(
    at: str, scene: SetScene
):
    async with scene() as here:
        await here.dies(at, here.yes, prompt=True)
        with suppress(StaleReply):
            await here.yes(here.manager)
        await here.calls_are_placed()
        await here.one_order_one_ring_and_it_is_told(await here.told())


@pytest.mark.parametrize("at", WAITING)
async def test_who_looks_after_a_death_in_a_yes_that_waits_is_told_of_one_call(
    at: str, scene: SetScene
):
    async with scene() as here:
        await here.dies(at, here.yes)
        await here.one_order_one_ring_and_it_is_told(await here.told())


@pytest.mark.parametrize("at", WAITING)
async def test_a_no_after_a_death_in_a_yes_that_waits_is_heard_and_nobody_is_called(
    at: str, scene: SetScene
):
    async with scene() as here:
        await here.dies(at, here.yes)
        turn = await here.manager.continue_(here.thread_id, "no")
        await here.calls_are_placed()
        assert turn.kind == "report"
        assert [order.state for order in await here.orders()] in ([], [OrderState.CANCELLED])
        assert here.carrier.count()["total"] == 0


@pytest.mark.parametrize("at", LOOKED)
async def test_who_looks_again_after_a_death_in_a_look_is_told_of_one_call(
    at: str, scene: SetScene
):
    async with scene() as here:
        assert (await here.yes(here.manager)).kind == "waiting"
        await here.calls_are_placed()
        await here.dies(at, here.look)
        await here.one_order_one_ring_and_it_is_told(await here.told())


@pytest.mark.parametrize("at", [*ANSWERED, *(point for point in WAITING if point not in ANSWERED)])
async def test_after_a_death_in_a_yes_the_report_comes_without_anybody_asking(
    at: str, scene: SetScene
):
    async with scene() as here:
        await here.dies(at, here.yes, prompt=at in ANSWERED)
        await here.calls_are_placed()
        turn = await here.resumed()
        if await here.orders():
            await here.one_order_one_ring_and_it_is_told(turn)
        else:
            assert here.carrier.count()["total"] == 0, "the yes is kept until somebody says a word"


@pytest.mark.parametrize("at", LOOKED)
async def test_after_a_death_of_the_resumer_the_next_one_brings_the_report(
    at: str, scene: SetScene
):
    async with scene() as here:
        assert (await here.yes(here.manager)).kind == "waiting"
        await here.calls_are_placed()
        await here.dies(at, here.look)
        await here.one_order_one_ring_and_it_is_told(await here.resumed())
