"""Work on many orders at once, and a bar that says how far it is."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dispatcher.orders.screens import error_console
from shared.ledger import Ledger

AT_ONCE: Final = 32
LOOKED_AT_ONCE: Final = 500
LOOK_AGAIN_S: Final = 0.05


async def each(
    bar: Progress,
    what: str,
    things: Iterable[Any],
    work: Callable[[Any], Awaitable[str]],
) -> list[str]:
    """Do `work` for each of `things`, some at once; return what it said, in their order."""
    gate = asyncio.Semaphore(AT_ONCE)
    things = list(things)
    task = bar.add_task(what, total=len(things))

    async def one(thing: Any) -> str:
        async with gate:
            answer = await work(thing)
        bar.advance(task)
        return answer

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(thing)) for thing in things]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None  # the others failed for the same reason
    return [task.result() for task in tasks]


async def answers(bar: Progress, ledger: Ledger, order_ids: list[str]) -> Counter[str]:
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


def progress_bar() -> Progress:
    """Return a bar on a terminal, and nothing where there is none."""
    console = error_console()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
