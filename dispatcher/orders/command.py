"""`ringonce orders …`: submit, list, show, cancel, requeue, resolve.

Exit codes: 0 done; 1 not done, and the answer says why; 2 bad input; 3 no store.
"""

import asyncio
import getpass
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dispatcher.orders.order_file import BadFile, read_orders
from dispatcher.orders.screens import complaint_table, error_console, order_page, order_table
from shared.clock import SYSTEM_CLOCK
from shared.desk import Cancellation, OrderNotAccepted, Submission
from shared.embedded_server import store
from shared.ledger import Act, Ledger
from shared.lifecycle import OrderState
from shared.progress import OrderProgress, did_it_ring
from shared.redis_pool import ledger_client
from shared.register import Register
from shared.settings import Settings, read_settings

AT_ONCE: Final = 32
LOOKED_AT_ONCE: Final = 500
LOOK_AGAIN_S: Final = 0.05
FILE_MAX: Final = 256 * 1024 * 1024

orders = typer.Typer(no_args_is_help=True, help="Submit orders, look at them, and act on them.")

T = TypeVar("T")
OrderIdArgument = Annotated[str, typer.Argument(metavar="ID", help="The order's id.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
Why = Annotated[str, typer.Option("--why", help="Your reason; it is kept in the history.")]
By = Annotated[str, typer.Option("--by", help="Who acts.", default_factory=getpass.getuser)]


@orders.command()
def submit(
    file: Annotated[Path, typer.Argument(help="CSV or JSON lines; - reads standard input.")],
    *,
    wait: Annotated[bool, typer.Option(help="Wait until each has an answer.")] = False,
    as_json: AsJson = False,
) -> None:
    """Queue every order in FILE, or none if one of them is bad.

    Columns or members: target_phone_number, final_instructions, and if you like user_name, owner,
    order_id, expires_at, metadata, and detail.NAME (CSV) or gathered_details (JSON). The same file
    again is the same orders again: nobody is called twice.
    """
    settings = read_settings()
    try:
        content = _read(file)
        wishes = read_orders(content, now=SYSTEM_CLOCK.now(), lifetime_s=settings.order_lifetime_s)
    except BadFile as error:
        if as_json:
            print(json.dumps({"errors": [asdict(fault) for fault in error.complaints]}))
        else:
            console = error_console()
            console.print(f"{file}: nothing was queued", style="bold red")
            console.print(complaint_table(error.complaints))
        raise typer.Exit(2) from None

    async def work(ledger: Ledger) -> tuple[Counter[str], Counter[str]]:
        with _progress_bar() as bar:
            told = Counter(await _each(bar, "submitted", wishes, ledger.submit))
            ids = [wish.order_id for wish in wishes]
            return told, await _answers(bar, ledger, ids) if wait else Counter()

    told, states = _with_ledger(work, settings)
    if as_json:
        print(json.dumps({"submitted": told, "states": states}))
    else:
        print(", ".join(f"{count} {word}" for word, count in told.items()))
        if states:
            print(", ".join(f"{count} {state}" for state, count in states.items()))
    raise typer.Exit(1 if told[Submission.CONFLICT] else 0)


@orders.command("list")
def list_(
    *,
    state: Annotated[OrderState | None, typer.Option(case_sensitive=False)] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    as_json: AsJson = False,
) -> None:
    """List orders, the newest first."""
    found, counts = _with_ledger(lambda ledger: _list(ledger, state, limit))
    if as_json:
        listed = [order.model_dump(mode="json") for order in found]
        print(json.dumps({"counts": counts, "orders": listed}))
        return
    console = Console(highlight=False)
    console.print(order_table(found, SYSTEM_CLOCK.now()))
    console.print(
        "  ".join(f"{count} {name}" for name, count in counts.items() if count), style="dim"
    )


@orders.command()
def show(order_id: OrderIdArgument, *, as_json: AsJson = False) -> None:
    """Show all that happened to one order; "did it ring?" comes first."""

    async def look(ledger: Ledger) -> Any:
        register = Register(ledger)
        return (
            await ledger.progress(order_id),
            await register.body(order_id),
            await register.history(order_id),
        )

    progress, wish, moves = _with_ledger(look)
    if progress is None or wish is None:
        _not_done("unknown", f"there is no order {order_id}", as_json=as_json)
    if as_json:
        page = progress.model_dump(mode="json") | {"did_it_ring": did_it_ring(progress)}
        print(json.dumps(page | {"history": [move.model_dump(mode="json") for move in moves]}))
        return
    Console(highlight=False).print(order_page(progress, wish, moves))


@orders.command()
def cancel(
    order_id: OrderIdArgument, *, by: By, why: Why = "no reason given", as_json: AsJson = False
) -> None:
    """Take an order back while that is still true: before it is sent."""
    answer = _with_ledger(lambda ledger: ledger.cancel(order_id, by=by, why=why))
    told = {
        Cancellation.CANCELLED: "cancelled before it was sent: it never rang and never will",
        Cancellation.SENDING: "too late: it is with the call handler now",
        Cancellation.IN_DOUBT: "it may have rung, and will not be sent again unless resolved",
        Cancellation.TOO_LATE: "it had ended already",
        Cancellation.UNKNOWN: f"there is no order {order_id}",
    }[answer]
    _report(answer, told, done=answer is Cancellation.CANCELLED, as_json=as_json)


@orders.command()
def requeue(
    order_id: OrderIdArgument, *, by: By, why: Why = "no reason given", as_json: AsJson = False
) -> None:
    """Give a dead order all its attempts and its time again."""
    answer = _with_ledger(lambda ledger: ledger.requeue(order_id, by=by, why=why))
    told = {
        Act.DONE: "queued again",
        Act.NOT_DEAD: "it is not dead: only dead orders are requeued",
        Act.UNKNOWN: f"there is no order {order_id}",
    }[answer]
    _report(answer, told, done=answer is Act.DONE, as_json=as_json)


@orders.command()
def resolve(
    order_id: OrderIdArgument,
    *,
    by: By,
    placed: Annotated[str | None, typer.Option(metavar="SID", help="It rang: this call.")] = None,
    not_placed: Annotated[bool, typer.Option("--not-placed", help="It did not ring.")] = False,
    why: Why = "no reason given",
    as_json: AsJson = False,
) -> None:
    """Say what you found out about an order in doubt. Not placed means: it will be sent."""
    if (placed is None) == (not not_placed):
        raise typer.BadParameter("say one of --placed SID and --not-placed")
    if placed is not None and not placed.strip():
        raise typer.BadParameter("--placed needs the call's sid")
    answer = _with_ledger(lambda led: led.resolve(order_id, call_sid=placed, by=by, why=why))
    told = {
        Act.DONE: "it will be sent" if placed is None else f"placed as {placed}",
        Act.MOVED_ON: "it is not in doubt (any more)",
        Act.UNKNOWN: f"there is no order {order_id}",
    }[answer]
    _report(answer, told, done=answer is Act.DONE, as_json=as_json)


async def _list(
    ledger: Ledger, state: OrderState | None, limit: int
) -> tuple[list[OrderProgress], dict[str, int]]:
    register = Register(ledger)
    counts = {state.value: count for state, count in (await register.counts()).items()}
    return await register.newest(state=state, limit=limit), counts


def _with_ledger(work: Callable[[Ledger], Awaitable[T]], settings: Settings | None = None) -> T:
    settings = settings or read_settings()

    async def with_client(url: str) -> T:
        redis = ledger_client(url, patience_s=settings.store_patience_s)
        try:
            return await work(Ledger(redis))
        except OrderNotAccepted as error:
            error_console().print(str(error), style="bold red")
            raise typer.Exit(3) from None
        finally:
            await redis.aclose()

    with store(settings) as url:
        return asyncio.run(with_client(url))


async def _each(
    bar: Progress,
    what: str,
    things: Iterable[Any],
    work: Callable[[Any], Awaitable[str]],
) -> list[str]:
    gate = asyncio.Semaphore(AT_ONCE)
    things = list(things)
    task = bar.add_task(what, total=len(things))

    async def one(thing: Any) -> str:
        async with gate:
            answer = await work(thing)
        bar.advance(task)
        return answer

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(thing)) for thing in things]
    return [task.result() for task in tasks]


async def _answers(bar: Progress, ledger: Ledger, order_ids: list[str]) -> Counter[str]:
    """Wait until every order has an answer; return how many came to which state."""
    task = bar.add_task("answered", total=len(order_ids))
    states: Counter[str] = Counter()
    pending = order_ids
    while pending:
        results = await ledger.results(pending[:LOOKED_AT_ONCE])
        answered = {result.order_id for result in results}
        states.update(result.state.value for result in results)
        bar.advance(task, len(results))
        pending = [order_id for order_id in pending if order_id not in answered]
        if not results:
            pending = pending[LOOKED_AT_ONCE:] + pending[:LOOKED_AT_ONCE]
            await asyncio.sleep(LOOK_AGAIN_S)
    return states


def _progress_bar() -> Progress:
    console = error_console()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def _read(file: Path) -> str:
    try:
        raw = sys.stdin.buffer.read(FILE_MAX) if str(file) == "-" else file.read_bytes()
        return raw.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file} cannot be read: {error}") from None


def _report(answer: str, told: str, *, done: bool, as_json: bool) -> None:
    if not done:
        _not_done(answer, told, as_json=as_json)
    print(json.dumps({"answer": answer, "detail": told}) if as_json else told)


def _not_done(answer: str, told: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"answer": answer, "detail": told}))
    else:
        error_console().print(told, style="yellow")
    raise typer.Exit(1)
