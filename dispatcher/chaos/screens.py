"""What a person sees of a run: the faults, the states, and, if need be, the evidence."""

import json
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dispatcher.chaos.faults import FAULTS
from dispatcher.chaos.plan import Plan
from dispatcher.chaos.run import Report
from dispatcher.chaos.stage import HandlerKind
from dispatcher.chaos.witness import SHOWN_MAX, Offender


def fault_table(plan: Plan) -> Table:
    """Return the table of faults that `plan` injects."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("fault")
    table.add_column("times", justify="right")
    table.add_column("what happens")
    for name, times in plan.count().items():
        table.add_row(Text(name, "bold"), str(times), FAULTS[name].sentence)
    return table


def state_table(states: dict[str, int]) -> Table:
    """Return the table of the states in which the orders ended."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("state")
    table.add_column("orders", justify="right")
    for name, orders in sorted(states.items()):
        table.add_row(name, str(orders))
    return table


def show_evidence(console: Console, report: Report) -> None:
    """Print what was broken: each order's history beside its rings, and the surprises."""
    for surprise in report.surprises[:SHOWN_MAX]:
        console.print(Text.assemble(("surprise  ", "bold red"), surprise))
    for offender in report.testimony.offenders:
        _show_offender(console, offender)


def last_line(plan: Plan, kind: HandlerKind, report: Report) -> str:
    """Return the result as one JSON object."""
    verdict = report.testimony.verdict
    result: dict[str, Any] = {
        "seed": plan.seed,
        "orders": plan.orders,
        "faults": sum(plan.count().values()),
        "rung_twice": len(verdict.rung_twice),
        "lost": len(verdict.lost),
        "in_doubt": len(verdict.in_doubt),
        "false_failed": len(verdict.false_failed),
        "false_placed": len(verdict.false_placed),
        "states": dict(sorted(verdict.states.items())),
        "handler": str(kind),
        "plan": plan.digest(),
        "rings": report.testimony.rings,
        "unfounded_doubt": len(verdict.unfounded_doubt),
        "surprises": list(report.surprises[:SHOWN_MAX]),
        "seconds": report.took_s,
    }
    return json.dumps(result)


def _show_offender(console: Console, offender: Offender) -> None:
    console.print(
        Text.assemble((offender.order_id, "bold"), "  ", (", ".join(offender.breaches), "bold red"))
    )
    for ring in offender.rings or ("never",):
        console.print(Text.assemble(("  rang  ", "dim"), ring))
    for move in offender.history:
        console.print(
            Text.assemble(
                (f"  {move.at:%H:%M:%S.%f}"[:-3], "dim"),
                f"  {move.from_state or '·'} → {move.to_state}  {move.rule}",
                f"  attempt {move.attempt}",
                (f"  {move.reason}  by {move.by}", "dim"),
            )
        )
