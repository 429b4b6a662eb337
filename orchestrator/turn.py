"""One turn of a conversation, as the person's side gets it."""

from typing import Any, Literal

from langgraph.types import StateSnapshot
from pydantic import BaseModel, ConfigDict

from orchestrator import sentences


class Turn(BaseModel):
    """What we said last, what it is about, and whether an answer is awaited."""

    model_config = ConfigDict(frozen=True)

    thread_id: str
    kind: Literal["question", "confirmation", "waiting", "report"]
    text: str
    reply_to: str | None = None
    """Names what is open; an answer that names something else is refused. None: nothing is open."""
    order_id: str | None = None
    call_sid: str | None = None
    call_state: str | None = None
    """The order's state, once it was handed in."""
    required_details: tuple[str, ...] = ()
    missing_details: tuple[str, ...] = ()
    gathered_details: dict[str, str] = {}


def turn_from(snapshot: StateSnapshot, *, cut_off: bool) -> Turn:
    """Return the turn a conversation stands at; `cut_off` if its last step did not finish."""
    state: dict[str, Any] = snapshot.values
    facts = {name: state.get(name) for name in ("order_id", "call_sid", "call_state")}
    details = {
        "required_details": state.get("required_details", ()),
        "missing_details": state.get("missing_details", ()),
        "gathered_details": state.get("gathered_details", {}),
    }
    if cut_off:
        said: dict[str, Any] = {"kind": "waiting", "text": sentences.IN_BETWEEN}
    elif snapshot.interrupts:
        opened = snapshot.interrupts[0]
        said = {"kind": opened.value["kind"], "text": opened.value["text"], "reply_to": opened.id}
    else:
        said = {"kind": "report", "text": state["messages"][-1].content}
    thread_id = snapshot.config["configurable"]["thread_id"]
    return Turn.model_validate({"thread_id": thread_id, **facts, **details, **said})
