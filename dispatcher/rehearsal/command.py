"""`ringonce rehearsal`: the stand-in call handler as a process."""

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Annotated

import typer

from dispatcher.rehearsal.behaviours import BEHAVIOURS, MAGIC_NUMBERS, Faults
from dispatcher.rehearsal.carrier import Carrier
from dispatcher.rehearsal.handler import Promises, RehearsalHandler
from dispatcher.rehearsal.server import serve
from shared.settings import read_settings

EPILOG = "Magic numbers, any other is answered:\n\n" + "\n\n".join(
    f"{magic.number} {magic.name}: {magic.sentence}" for magic in MAGIC_NUMBERS
)


def rehearsal(
    *,
    host: Annotated[str | None, typer.Option(help="Where to listen.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one.")] = None,
    unkeyed: Annotated[bool, typer.Option("--unkeyed", help="Ignore Idempotency-Key.")] = False,
    no_lookup: Annotated[bool, typer.Option("--no-lookup", help="No GET /order/{id}.")] = False,
    no_listing: Annotated[bool, typer.Option("--no-listing", help="No GET /orders.")] = False,
    plain_errors: Annotated[
        bool, typer.Option("--plain-errors", help="Errors without call_placed and retryable.")
    ] = False,
    journal: Annotated[
        Path | None, typer.Option(help="Keep rings here, so that they outlive this process.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the faults.")] = 0,
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=RATE", help=f"Misbehave now and then: {', '.join(BEHAVIOURS)}."),
    ] = None,
    accept_s: Annotated[float, typer.Option(min=0, help="How long each acceptance takes.")] = 0.0,
    slow_s: Annotated[float, typer.Option(min=0, help="How long a slow one takes.")] = 3.0,
    hang_s: Annotated[float, typer.Option(min=0, help="How long a hanging one is held.")] = 300.0,
) -> None:
    """Run a call handler that rings nobody, and counts every ring: GET /rings."""
    settings = read_settings()
    with Carrier(journal) as carrier:
        handler = RehearsalHandler(
            carrier,
            promises=Promises(
                keyed=not unkeyed,
                lookup=not no_lookup,
                listing=not no_listing,
                problem_members=not plain_errors,
            ),
            faults=_faults(fault or []),
            seed=seed,
            accept_s=accept_s,
            slow_s=slow_s,
            hang_s=hang_s,
        )
        asyncio.run(
            _until_told(
                handler, host or settings.host, settings.rehearsal_port if port is None else port
            )
        )


async def _until_told(handler: RehearsalHandler, host: str, port: int) -> None:
    serving = asyncio.create_task(
        serve(handler, host, port, announce=lambda url: print(f"rehearsal {url}", flush=True))
    )
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def _faults(told: list[str]) -> Faults:
    rates: dict[str, float] = {}
    for pair in told:
        name, _, rate = pair.partition("=")
        try:
            rates[name] = float(rate)
        except ValueError:
            raise typer.BadParameter(f"--fault {pair}: say NAME=RATE, such as slow=0.1") from None
    try:
        return Faults(rates)
    except ValueError as error:
        raise typer.BadParameter(f"--fault: {error}") from None
