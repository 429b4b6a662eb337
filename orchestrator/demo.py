"""`ringonce demo`: one conversation from a wish to a call_sid, on parts as real as in production.

A store, a rehearsal call handler and a worker run as processes of their own while the demo lasts.
Nobody is called.
"""

import asyncio
import contextlib
import importlib
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.keyboard import Keyboard
from shared import keys
from shared.child import child
from shared.clock import SYSTEM_CLOCK
from shared.embedded_server import store
from shared.ledger import Ledger
from shared.lifecycle import ENDED, OrderState
from shared.redis_pool import ledger_client
from shared.settings import Settings, environment_with

if TYPE_CHECKING:
    from orchestrator.workflow_manager import Turn, WorkflowManager

TASK: Final = "Order a large pepperoni pizza from Luigi's at +1 202 555 0123"
YES: Final = "yes"
LAST_MOVE_S: Final = 0.2
INTERRUPTED: Final = 130


def play(settings: Settings, task: str | None) -> int:
    """Play the conversation and return the exit code: 0 if a call was placed.

    On a terminal the person answers; elsewhere the demo says yes.
    """
    console = Console(highlight=False)
    with contextlib.ExitStack() as stack:

        def stop(*_: object) -> None:
            # Not by an exception: one that comes up inside an import is swallowed there.
            stack.close()
            os._exit(INTERRUPTED)

        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, stop)
        ready = stack.enter_context(_stack(settings, console))
        return asyncio.run(_converse(ready, console, task))


@contextlib.contextmanager
def _stack(settings: Settings, console: Console) -> Iterator[Settings]:
    """Start a store, a rehearsal handler and a worker; stop them at the end."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ringonce-demo-")))
        apart = settings.model_copy(update={"data_dir": folder})
        console.print(
            "Ringonce: a store, a rehearsal call handler and a worker. Nobody is called.",
            style="dim",
        )
        url = stack.enter_context(store(apart))
        handler_url = f"http://127.0.0.1:{_free_port()}"
        env = environment_with(
            {
                "REDIS_URL": url,
                "RINGONCE_CALL_HANDLER_URL": handler_url,
                "RINGONCE_HANDLER_HONOURS_KEY": "true",
                "RINGONCE_HANDLER_ANSWERS_LOOKUP": "true",
                "RINGONCE_LOG_LEVEL": "WARNING",
            }
        )
        port = handler_url.rpartition(":")[2]
        verbs = (["rehearsal", "--host", "127.0.0.1", "--port", port], ["worker"])
        ready = [
            stack.enter_context(child(*verb, env=env, log=folder / f"{verb[0]}.log"))
            for verb in verbs
        ]
        # Both come up while this process is still importing LangGraph.
        importlib.import_module("orchestrator.workflow_manager")
        _, worker_name = (say() for say in ready)
        for what, where in (
            ("store", "embedded" if settings.redis_url is None else "REDIS_URL"),
            ("handler", f"{handler_url} (its carrier only counts)"),
            ("worker", worker_name.removeprefix("worker ")),
        ):
            console.print(Text.assemble((f"  {what:<9}", "dim"), where))
        yield apart.model_copy(update={"redis_url": url})


async def _converse(settings: Settings, console: Console, task: str | None) -> int:
    from orchestrator.workflow_manager import open_workflow_manager  # noqa: PLC0415  (see _stack)

    redis = ledger_client(str(settings.redis_url), patience_s=settings.store_patience_s)
    ledger = Ledger(redis, durability=settings.submit_durability)
    interactive = sys.stdin.isatty()
    try:
        await ledger.check_durability()
        async with open_workflow_manager(settings, ledger, redis) as manager:
            keyboard = Keyboard()
            first = task or (await _typed(keyboard, TASK) if interactive else TASK)
            _say(console, "you", first)
            turn = await manager.start(first, owner="demo")
            while turn.kind in {"question", "confirmation"}:
                _say(console, "ringonce", turn.text)
                if interactive:
                    default = YES if turn.kind == "confirmation" else ""
                    answer = await _typed(keyboard, default)
                elif turn.kind == "confirmation":
                    answer = YES
                else:
                    missing = ", ".join(turn.missing_details)
                    told = f'say it too, as in make demo TASK="… {turn.missing_details[0]}: …"'
                    console.print(f"Nobody is here to say {missing}: {told}", style="red")
                    return 2
                _say(console, "you", answer)
                turn, took_ms = await _watched(console, redis, manager, turn, answer)
                if turn.call_sid:
                    _say(console, "ringonce", turn.text)
                    console.print(
                        f"placed order {turn.order_id} call_sid {turn.call_sid} in "
                        f"{took_ms:.0f} ms (confirmation to call_sid)",
                        soft_wrap=True,
                    )
                    return 0
            _say(console, "ringonce", turn.text)
            return 1
    finally:
        await redis.aclose()


async def _watched(
    console: Console, redis: Redis, manager: "WorkflowManager", turn: "Turn", answer: str
) -> tuple["Turn", float]:
    """Answer, and show each move of the order as it happens."""
    async with redis.pubsub() as moves:
        await moves.subscribe(keys.MOVES)
        began = SYSTEM_CLOCK.monotonic()
        showing = asyncio.create_task(_show_moves(console, moves, began))
        answered = await manager.continue_(turn.thread_id, answer, reply_to=turn.reply_to)
        took_ms = (SYSTEM_CLOCK.monotonic() - began) * 1000
        # The last move may still be on its way to the screen.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(showing, LAST_MOVE_S if answered.order_id else 0)
        return answered, took_ms


async def _show_moves(console: Console, moves: PubSub, began: float) -> None:
    async for message in moves.listen():
        if message["type"] != "message":
            continue
        since_ms = (SYSTEM_CLOCK.monotonic() - began) * 1000
        for move in json.loads(message["data"]):
            state = OrderState(move["state"])
            console.print(Text.assemble((f"{since_ms:9.1f} ms  ", "dim"), (state.value, "cyan")))
            if state in ENDED or state is OrderState.IN_DOUBT:
                return


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _say(console: Console, who: str, text: str) -> None:
    page = Table.grid(padding=(0, 1))
    page.add_column(style="bold", width=10)
    page.add_column(overflow="fold")
    page.add_row(who, Text(text))
    console.print(page)


async def _typed(keyboard: Keyboard, default: str) -> str:
    hint = f" [Enter: {default}]" if default else ""
    return await keyboard.line(f"you{hint}> ") or default
