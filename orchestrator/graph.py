"""The conversation as a table: which steps there are, and which may follow which.

analyze_task ─▶ ask_for_details ─▶ confirm_task ─▶ trigger_call ─▶ await_call ─▶ report_result
"""

from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from orchestrator import nodes, routes
from orchestrator.nodes import Context
from orchestrator.state import Conversation

Graph = CompiledStateGraph[Conversation, Context, Conversation, Conversation]


def build_graph(checkpointer: BaseCheckpointSaver[Any] | None = None) -> Graph:
    """Return the conversation, ready to run; it remembers in `checkpointer`."""
    graph = StateGraph(Conversation, context_schema=Context)

    graph.add_node("analyze_task", nodes.analyze_task)
    graph.add_node("ask_for_details", nodes.ask_for_details)
    graph.add_node("confirm_task", nodes.confirm_task)
    graph.add_node("trigger_call", nodes.trigger_call)
    graph.add_node("await_call", nodes.await_call)
    graph.add_node("report_result", nodes.report_result)

    graph.add_edge(START, "analyze_task")
    graph.add_conditional_edges("analyze_task", routes.after_understanding)
    graph.add_conditional_edges("ask_for_details", routes.after_understanding)
    graph.add_conditional_edges("confirm_task", routes.after_confirmation)
    graph.add_conditional_edges("trigger_call", routes.after_handing_in)
    graph.add_conditional_edges("await_call", routes.after_looking)
    graph.add_edge("report_result", END)

    return graph.compile(checkpointer=checkpointer)
