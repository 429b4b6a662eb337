"""What a person on duty sees at the terminal."""

from datetime import datetime
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dispatcher.orders.order_file import Complaint
from shared.lifecycle import OrderState
from shared.order import CallOrder
from shared.phone_number import masked
from shared.progress import Move, OrderProgress, did_it_ring, why_it_waits

_COLOURS: Final = {
    OrderState.PLACED: "green",
    OrderState.QUEUED: "cyan",
    OrderState.SENDING: "cyan",
    OrderState.RETRYABLE: "yellow",
    OrderState.IN_DOUBT: "bold magenta",
    OrderState.DEAD: "bold red",
    OrderState.REFUSED: "red",
    OrderState.CANCELLED: "dim",
    OrderState.EXPIRED: "dim",
}


def order_table(orders: list[OrderProgress], now: datetime) -> RenderableType:
    """Return a table of orders, or what to do when there are none."""
    if not orders:
        return Text("No orders here. Submit some: ringonce orders submit FILE", style="dim")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("order", "state", "moved"):
        table.add_column(name, no_wrap=True)
    table.add_column("call_sid, or why not", overflow="ellipsis", no_wrap=True)
    for order in orders:
        table.add_row(
            order.order_id,
            _state(order.state),
            f"{_span(now, order.moved_at)} ago",
            order.call_sid or why_it_waits(order) or order.reason or "",
        )
    return table


def order_page(order: OrderProgress, wish: CallOrder, moves: list[Move]) -> RenderableType:
    """Return all that is known of one order; the answer to "did it ring?" comes first."""
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    facts.add_row("state", _state(order.state))
    if waits := why_it_waits(order):
        facts.add_row("waits", waits)
    facts.add_row("call_sid", order.call_sid or "none")
    facts.add_row("to", masked(wish.target_phone_number))
    facts.add_row("owner", order.owner)
    facts.add_row("thread", order.thread_id or "none")
    facts.add_row("deadline", f"{order.expires_at:%Y-%m-%d %H:%M:%S} UTC")
    if order.due_at and order.state in {OrderState.QUEUED, OrderState.RETRYABLE}:
        facts.add_row("due", f"{order.due_at:%H:%M:%S} UTC")
    return Group(
        Text(f"order {order.order_id}", style="bold"),
        Text.assemble(("Did it ring? ", "bold"), did_it_ring(order)),
        Text(),
        facts,
        Text(),
        _timeline(moves),
        Text(),
        Text(_next_acts(order), style="dim"),
    )


def complaint_table(faults: list[Complaint]) -> RenderableType:
    """Return the faults of a file, each with its line, its field and the rule."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("line", "field", "rule"):
        table.add_column(name, overflow="fold")
    for fault in faults:
        table.add_row(str(fault.line), fault.field, fault.rule)
    return table


def error_console() -> Console:
    """Return where people are told things that programs do not read."""
    return Console(stderr=True, highlight=False)


def _timeline(moves: list[Move]) -> RenderableType:
    """Return the moves, a paragraph each: a table would break words on a narrow screen."""
    lines: list[RenderableType] = [Text("time (UTC)    move", style="bold")]
    for move in moves:
        step = Text.assemble(
            (f"{move.at:%H:%M:%S.%f}"[:-3], "dim"),
            f"  {move.from_state or 'new'} → ",
            _state(move.to_state),
            (f"  {move.rule}, by {move.by}", "dim"),
        )
        told = [Text(move.reason), *([Text(_seen(move), style="dim")] if move.evidence else [])]
        lines += [step, *(Padding(line, (0, 0, 0, 14)) for line in told)]
    return Group(*lines)


def _seen(move: Move) -> str:
    evidence = dict(move.evidence or {})
    wire = evidence.pop("wire", {})
    shown = {
        name: value
        for name, value in {**evidence, **wire}.items()
        if value not in (None, "", False) and name not in {"reason", "cause"}
    }
    return " ".join(f"{name}={value}" for name, value in shown.items())


def _next_acts(order: OrderProgress) -> str:
    ringonce = "ringonce orders"
    match order.state:
        case OrderState.IN_DOUBT:
            return (
                f"{ringonce} resolve {order.order_id} --placed SID   it rang, this is the call\n"
                f"{ringonce} resolve {order.order_id} --not-placed   it did not: it will be sent"
            )
        case OrderState.DEAD:
            return f"{ringonce} requeue {order.order_id}   all its attempts and its time again"
        case OrderState.QUEUED | OrderState.RETRYABLE:
            return f"{ringonce} cancel {order.order_id}   before it is sent"
        case _:
            return "Nothing to do."


def _state(state: str) -> Text:
    try:
        return Text(state, style=_COLOURS[OrderState(state)])
    except ValueError:
        return Text(state)


def _span(now: datetime, then: datetime) -> str:
    seconds = max((now - then).total_seconds(), 0)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
