"""`ringonce chaos`: break everything that can break, then ask the carrier who rang."""

import asyncio
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dispatcher.chaos.faults import FAULTS, named
from dispatcher.chaos.plan import Plan, draw_plan
from dispatcher.chaos.run import Report, run_plan
from dispatcher.chaos.screens import fault_table, last_line, show_evidence, state_table
from dispatcher.chaos.stage import HandlerKind
from dispatcher.chaos.wishes import most_orders

INTERRUPTED = 130
"""The shell's code for a program that was ended by Ctrl-C."""


def chaos(
    *,
    orders: Annotated[int, typer.Option(min=1, help="How many orders are handed in.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Draws the whole plan.")] = 1,
    handler: Annotated[
        HandlerKind, typer.Option(help="What the call handler promises.")
    ] = HandlerKind.KEYED,
    workers: Annotated[int, typer.Option(min=1, max=16, help="How many workers.")] = 3,
    faults: Annotated[
        str, typer.Option(help=f"A list with commas, `all` or `none`: {', '.join(FAULTS)}.")
    ] = "all",
    as_json: Annotated[bool, typer.Option("--json", help="Only the last line.")] = False,
) -> None:
    """Run real processes, break them, and count the rings. Exit code 1: a promise was broken."""
    if orders > most_orders():
        raise typer.BadParameter(f"--orders: there are numbers for {most_orders()} only")
    try:
        chosen = named(faults)
    except ValueError as error:
        raise typer.BadParameter(f"--faults: {error}") from None
    names = tuple(f"worker-{nth}" for nth in range(1, workers + 1))
    plan = draw_plan(seed, orders=orders, workers=names, faults=chosen)
    console = Console(highlight=False, soft_wrap=True, quiet=as_json)
    console.print(
        f"seed {seed}  plan {plan.digest()}  {orders} orders  {workers} workers  handler {handler}"
    )
    folder = Path(tempfile.mkdtemp(prefix="ringonce-chaos-"))
    kept = True
    try:
        report = _run(plan, handler, names, folder, quiet=as_json)
        console.print(fault_table(plan))
        console.print(state_table(report.testimony.verdict.states))
        if kept := not report.held:
            complaints = Console(stderr=True, highlight=False, soft_wrap=True)
            show_evidence(complaints, report)
            complaints.print(f"the logs of every process are kept in {folder}")
        print(last_line(plan, handler, report), flush=True)
    except (KeyboardInterrupt, asyncio.CancelledError):
        kept = False
        raise typer.Exit(INTERRUPTED) from None
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
    raise typer.Exit(0 if report.held else 1)


def _run(
    plan: Plan, kind: HandlerKind, workers: tuple[str, ...], folder: Path, *, quiet: bool
) -> Report:
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    ) as bar:
        handed_in = bar.add_task("handed in", total=plan.orders)
        answered = bar.add_task("answered", total=plan.orders)

        def tell(so_many: int, ended: int) -> None:
            bar.update(handed_in, completed=so_many)
            bar.update(answered, completed=ended)

        async def until_told() -> Report:
            task = asyncio.ensure_future(
                run_plan(plan, kind, workers=workers, folder=folder, tell=tell)
            )
            # As Ctrl-C does: what we started is stopped.
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
            return await task

        return asyncio.run(until_told())
