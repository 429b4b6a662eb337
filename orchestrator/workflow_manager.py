"""Starts, continues and looks up conversations: one run per thread, every step saved at once.

A message to a conversation that waits for an answer is always given as that answer. Given as new
input it would drop what was open and keep the old order's id.
"""

import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Final

import aiosqlite
import structlog
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command, StateSnapshot
from langsmith import tracing_context
from redis.asyncio import Redis
from redis.exceptions import RedisError

from orchestrator import sentences, words
from orchestrator.analyst import Analyst, RuleAnalyst
from orchestrator.graph import Graph, build_graph
from orchestrator.nodes import Context
from orchestrator.parked import Parked
from orchestrator.standing import UnknownThread, standing, thread_config
from orchestrator.state import Conversation, new_task
from orchestrator.thread_lock import ThreadBusy, alone
from orchestrator.turn import Turn, turn_from
from shared.answers import Answers
from shared.clock import SYSTEM_CLOCK, Clock
from shared.desk import Cancellation, OrderDesk
from shared.settings import Settings

__all__ = [
    "StaleReply",
    "ThreadBusy",
    "Turn",
    "UnknownThread",
    "WorkflowManager",
    "open_workflow_manager",
]

CHECKPOINTS: Final = "conversations.sqlite3"
_JUST_LOOK: Final = ""

_log = structlog.get_logger(__name__)


class StaleReply(Exception):
    """The answer is to something that is not open any more."""

    def __init__(self) -> None:
        super().__init__("what this answers is not open any more; look the conversation up")


@contextlib.asynccontextmanager
async def open_workflow_manager(
    settings: Settings,
    desk: OrderDesk,
    redis: Redis,
    *,
    answers: Answers | None = None,
    analyst: Analyst | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> AsyncIterator["WorkflowManager"]:
    """Open the conversations kept in `settings.data_dir`, and close them afterwards.

    They wait at `answers`, which must be open; left out, at their own.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    async with contextlib.AsyncExitStack() as opened:
        if answers is None:
            answers = await opened.enter_async_context(Answers(redis))
        connection = await opened.enter_async_context(
            aiosqlite.connect(settings.data_dir / CHECKPOINTS)
        )
        await connection.execute("PRAGMA busy_timeout = 5000")
        saver = AsyncSqliteSaver(connection)
        await saver.setup()
        context = Context(
            desk=desk,
            answers=answers,
            analyst=analyst or RuleAnalyst(settings.default_region),
            clock=clock,
            await_call_s=settings.await_call_s,
            order_lifetime_s=settings.order_lifetime_s,
        )
        yield WorkflowManager(build_graph(saver), saver, context, redis)


class WorkflowManager:
    """The conversations of one deployment. Several processes may share them."""

    def __init__(
        self, graph: Graph, saver: AsyncSqliteSaver, context: Context, redis: Redis
    ) -> None:
        self._graph = graph
        self._saver = saver
        self._context = context
        self._redis = redis
        self.parked = Parked(redis)

    async def start(self, message: str, owner: str, user_name: str | None = None) -> Turn:
        """Begin a conversation with a task.

        Raises:
            OrderNotAccepted, RedisError: the store is away; what was saved before is kept.
        """
        thread_id = f"thr_{uuid.uuid4().hex}"
        about: Conversation = {"thread_id": thread_id, "owner": owner, "user_name": user_name}
        async with alone(self._redis, thread_id):
            return await self._begin(thread_id, message, about)

    async def continue_(self, thread_id: str, message: str, reply_to: str | None = None) -> Turn:
        """Give the person's next words to a conversation; `reply_to` names what they answer.

        A no is heard even while another message waits for the call: the order is taken back.

        Raises:
            UnknownThread, ThreadBusy, StaleReply: nothing was done.
            OrderNotAccepted, RedisError: the store is away; what was saved before is kept.
        """
        try:
            async with alone(self._redis, thread_id):
                turn = await self._continue(thread_id, message, reply_to)
        except ThreadBusy:
            if words.says_no(message):
                return await self._take_back(thread_id)
            raise
        if turn.kind == "waiting" and turn.order_id:
            self.parked.left_waiting(turn.order_id, thread_id)
        return turn

    async def look_up(self, thread_id: str) -> Turn | None:
        """Return where a conversation stands, or None if there is none of this id.

        One that waits for its call is moved on if there is an answer: looking is asking.
        """
        try:
            snapshot, cut_off = await self._standing(thread_id)
        except UnknownThread:
            return None
        turn = turn_from(snapshot, cut_off=cut_off)
        if turn.kind == "report":
            return await self._as_it_stands_now(turn)
        if cut_off or turn.kind != "waiting" or turn.order_id is None:
            return turn
        if await self._context.desk.result(turn.order_id) is None:
            return turn
        try:
            return await self.resume(thread_id, turn.order_id)
        except ThreadBusy:
            return turn

    async def resume(self, thread_id: str, order_id: str) -> Turn:
        """Move a conversation on that waits for this order, without a word of the person's.

        One that does not wait for it (any more) is left as it is.

        Raises:
            UnknownThread, ThreadBusy: nothing was done.
        """
        if await self._saver.aget_tuple(thread_config(thread_id)) is None:
            raise UnknownThread  # and no lock was taken: another process may have it
        async with alone(self._redis, thread_id):
            snapshot, cut_off = await self._standing(thread_id)
            turn = turn_from(snapshot, cut_off=cut_off)
            if turn.order_id == order_id and turn.kind == "waiting":
                look: Command[Any] = Command(resume={turn.reply_to: _JUST_LOOK})
                at_once = replace(self._context, await_call_s=0.0)
                return await self._run(thread_id, None if cut_off else look, at_once)
            await self.parked.remove(order_id)
            return turn

    async def ping(self) -> None:
        """Return if the checkpoints can be read; raise what SQLite raises if not."""
        await self._saver.aget_tuple(thread_config("ping"))

    async def _continue(self, thread_id: str, message: str, reply_to: str | None) -> Turn:
        snapshot, cut_off = await self._standing(thread_id)
        turn = turn_from(snapshot, cut_off=cut_off)
        if turn.order_id and (cut_off or (turn.kind == "confirmation" and words.says_yes(message))):
            await self.parked.add(turn.order_id, thread_id)  # before it may be handed in
        if cut_off:
            return await self._finish_step(thread_id, snapshot, message)
        asks = snapshot.values["handed_in"] and words.asks_how_it_stands(message)
        if reply_to is not None and reply_to != turn.reply_to:
            # Who asks on may find that the answer came first.
            if turn.reply_to is None and asks:
                return await self._as_it_stands_now(turn)
            raise StaleReply
        if turn.reply_to is not None:
            return await self._run(thread_id, Command(resume={turn.reply_to: message}))
        if asks:
            return await self._as_it_stands_now(turn)
        return await self._begin(thread_id, message)

    async def _take_back(self, thread_id: str) -> Turn:
        """Take back the order that a turn is waiting for; that turn then finds it cancelled.

        Raises:
            ThreadBusy: it is at work on something else.
        """
        snapshot, cut_off = await self._standing(thread_id)
        if not cut_off or "await_call" not in {task.name for task in snapshot.tasks}:
            raise ThreadBusy
        turn, desk = turn_from(snapshot, cut_off=cut_off), self._context.desk
        order_id, owner = str(turn.order_id), snapshot.values["owner"]
        became = await desk.cancel(order_id, by=owner, why="the person took it back")
        progress = await desk.progress(order_id)
        if progress is None:
            raise ThreadBusy
        text = f"{sentences.taken_back(became)}{sentences.report(progress)}"
        return turn.model_copy(update={"text": text, "call_state": str(progress.state)})

    async def _begin(self, thread_id: str, message: str, about: Conversation | None = None) -> Turn:
        task: Conversation = {**new_task(message), "messages": [HumanMessage(message)]}
        return await self._run(thread_id, {**task, **(about or {})})

    async def _finish_step(self, thread_id: str, snapshot: StateSnapshot, message: str) -> Turn:
        """Run a step that was cut off to its end.

        `message` was said before the person could know how that step ends, so it answers nothing.
        Only a no is heard, as it can do no harm: it holds the order back, or takes it back.
        """
        cut_off = {task.name for task in snapshot.tasks}
        _log.warning("conversation.cut_off", thread_id=thread_id, step=sorted(cut_off))
        if not words.says_no(message):
            return await self._run(thread_id, None)
        confirming = {"confirm_task", "trigger_call"} & cut_off
        known = await self._context.desk.progress(snapshot.values["order_id"])
        if confirming and known is None and await self._held_back(snapshot):
            config = thread_config(thread_id)
            await self._graph.aupdate_state(config, {"decision": "no"}, as_node="confirm_task")
            return await self._run(thread_id, None)
        turn = await self._run(thread_id, None, replace(self._context, await_call_s=0.0))
        if turn.kind != "waiting":
            return turn
        return await self._run(thread_id, Command(resume={turn.reply_to: message}))

    async def _held_back(self, snapshot: StateSnapshot) -> bool:
        """Say whether the order is held back for good, even while it is on its way to the store."""
        became = await self._context.desk.cancel(
            snapshot.values["order_id"],
            by=snapshot.values["owner"],
            why="the person took it back",
            even_if_unknown=True,
        )
        return became is Cancellation.CANCELLED

    async def _run(
        self,
        thread_id: str,
        given: Conversation | Command[Any] | None,
        context: Context | None = None,
    ) -> Turn:
        # "sync": the answer is saved before the step that acts on it begins.
        with tracing_context(enabled=False):  # what a person says goes to nobody, whatever is set
            await self._graph.ainvoke(
                given, thread_config(thread_id), context=context or self._context, durability="sync"
            )
        snapshot, cut_off = await self._standing(thread_id)
        turn = turn_from(snapshot, cut_off=cut_off)
        _log.info(
            "conversation.turn",
            thread_id=thread_id,
            kind=turn.kind,
            order_id=turn.order_id,
            call_state=turn.call_state,
        )
        # What was done is done: an entry was written before, and the resumer removes what is over.
        with contextlib.suppress(RedisError, OSError):
            if turn.kind == "waiting" and turn.order_id:
                await self.parked.add(turn.order_id, thread_id)
            elif turn.kind == "report" and turn.order_id:
                await self.parked.remove(turn.order_id)
        return turn

    async def _standing(self, thread_id: str) -> tuple[StateSnapshot, bool]:
        return await standing(self._graph, self._saver, thread_id)

    async def _as_it_stands_now(self, turn: Turn) -> Turn:
        """Return a report with what became known since: a doubt cleared, a dead order requeued."""
        if turn.call_state is None or turn.order_id is None:
            return turn
        progress = await self._context.desk.progress(turn.order_id)
        if progress is None or progress.state == turn.call_state:
            return turn
        now = {"call_state": str(progress.state), "call_sid": progress.call_sid}
        return turn.model_copy(update={**now, "text": sentences.report(progress)})
