"""`ringonce orders …`: submit, list, show, cancel, requeue, resolve.

Exit codes: 0 done; 1 not done, and the answer says why; 2 bad input; 3 no store.
"""

import asyncio
import getpass
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from rich.console import Console

from dispatcher.orders.bulk import answers, each, progress_bar
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
        wishes = read_orders(
            _read(file),
            now=SYSTEM_CLOCK.now(),
            lifetime_s=settings.order_lifetime_s,
            region=settings.default_region,
        )
    except BadFile as error:
        if as_json:
            print(json.dumps({"errors": [asdict(fault) for fault in error.complaints]}))
        else:
            console = error_console()
            console.print(f"{file}: nothing was queued", style="bold red")
            console.print(complaint_table(error.complaints))
        raise typer.Exit(2) from None

    async def work(ledger: Ledger) -> tuple[list[str], Counter[str]]:
        await ledger.check_durability()
        with progress_bar() as bar:
            told = await each(bar, "submitted", wishes.values(), ledger.submit)
            ids = [wish.order_id for wish in wishes.values()]
            return told, await answers(bar, ledger, ids) if wait else Counter()

    told, states = _with_ledger(work, settings)
    conflicts = [
        f"line {line}: {wish.order_id} is another order already; give it an order_id of its own"
        for (line, wish), answer in zip(wishes.items(), told, strict=True)
        if answer == Submission.CONFLICT
    ]
    if as_json:
        listed = [
            {"line": line, "order_id": wish.order_id, "answer": answer}
            for (line, wish), answer in zip(wishes.items(), told, strict=True)
        ]
        print(json.dumps({"submitted": Counter(told), "states": states, "orders": listed}))
    else:
        print(", ".join(f"{count} {word}" for word, count in Counter(told).items()))
        if states:
            print(", ".join(f"{count} {state}" for state, count in states.items()))
        for conflict in conflicts:
            error_console().print(conflict, style="yellow")
    raise typer.Exit(1 if conflicts else 0)


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
        Cancellation.SENDING: "too late to be sure: it is with the call handler now; "
        "if no call is placed, it is not sent again",
        Cancellation.IN_DOUBT: "it may have rung; it will not be sent again",
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
    if placed is not None and not (placed.strip() and placed.isprintable() and len(placed) <= 128):
        raise typer.BadParameter("--placed needs the call's sid: 1 to 128 printable characters")
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
            return await work(Ledger(redis, durability=settings.submit_durability))
        except OrderNotAccepted as error:
            error_console().print(str(error), style="bold red")
            raise typer.Exit(3) from None
        finally:
            await redis.aclose()

    with store(settings) as url:
        return asyncio.run(with_client(url))


def _read(file: Path) -> str:
    try:
        raw = sys.stdin.buffer.read(FILE_MAX) if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise typer.BadParameter(f"{file} is not UTF-8: see line {line}") from None


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
