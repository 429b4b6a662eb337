"""Where a conversation stands, by what is saved of it. LangGraph alone would tell it wrongly."""

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.serde.types import RESUME
from langgraph.types import StateSnapshot

from orchestrator.graph import Graph


class UnknownThread(Exception):
    """There is no such conversation."""

    def __init__(self) -> None:
        super().__init__("there is no conversation of this id; leave thread_id out to start one")


async def standing(
    graph: Graph, saver: BaseCheckpointSaver[str], thread_id: str
) -> tuple[StateSnapshot, bool]:
    """Return where the conversation stands, and whether its last step was cut off.

    An interrupt whose answer is saved already is not open: LangGraph would show it as open, drop
    the next answer and act on the saved one. A step whose writes are saved, but not the checkpoint
    behind them, is not in `next` any more, and yet the graph has not gone on.

    Raises:
        UnknownThread: there is none; LangGraph would start one.
    """
    config = thread_config(thread_id)
    saved = await saver.aget_tuple(config)
    if saved is None:
        raise UnknownThread
    snapshot = await graph.aget_state(config)
    answered = any(channel == RESUME for _, channel, _ in saved.pending_writes or ())
    return snapshot, bool(snapshot.tasks) and (answered or not snapshot.interrupts)


def thread_config(thread_id: str) -> RunnableConfig:
    """Return how LangGraph is told which conversation is meant."""
    return {"configurable": {"thread_id": thread_id}}
