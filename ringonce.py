"""The command line: the verbs, a screenful. What they do lives in the rooms.

A verb imports its room when it is called, so that `--help` and the worker need not wait for
LangGraph. Exit codes: 0 done; 1 not done, and the answer says why; 2 bad input; 3 no store.
"""

import asyncio
import sys
from importlib.metadata import version
from typing import Annotated

import typer
from redis.exceptions import RedisError

from dispatcher.chaos.command import chaos
from dispatcher.handler_check import handler
from dispatcher.orders.command import orders
from dispatcher.rehearsal.command import EPILOG, rehearsal
from shared.child import ChildFailed
from shared.embedded_server import NoStore, store
from shared.handler_profile import BadProfile, UnknownPlaceholder
from shared.listening import CannotListen, listen
from shared.log import configure_logging
from shared.settings import BadSettings, Settings, read_settings

cli = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
cli.add_typer(orders, name="orders")
cli.add_typer(handler, name="handler")
cli.command(epilog=EPILOG)(rehearsal)
cli.command()(chaos)


def _say_version(wanted: bool) -> None:
    if wanted:
        print(f"ringonce {version('ringonce')}")
        raise typer.Exit


@cli.callback()
def _ringonce(
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Say it and exit."),
    ] = False,
) -> None:
    """One confirmed order, at most one ring, and you can always find out which."""


@cli.command()
def demo(
    task: Annotated[str | None, typer.Option(help="What is to be done by phone.")] = None,
) -> None:
    """Play one conversation, from a wish to a call_sid, on a stack that is gone afterwards."""
    from orchestrator.demo import play

    settings = read_settings()
    configure_logging("WARNING", settings.log_format)
    raise typer.Exit(play(settings, task))


@cli.command()
def chat() -> None:
    """Talk to the agent in the terminal."""
    from orchestrator.chat import talk

    settings = read_settings()
    configure_logging("WARNING", settings.log_format)  # the conversation is on this screen
    with store(settings) as url:
        raise typer.Exit(asyncio.run(talk(settings.model_copy(update={"redis_url": url}))))


@cli.command()
def serve() -> None:
    """Serve the conversation over HTTP: POST /chat, GET /threads/{id}, GET /orders/{id}."""
    import uvicorn

    from orchestrator.app import create_app

    settings = _settings()
    with store(settings) as url:
        app = create_app(settings.model_copy(update={"redis_url": url}))
        listening = listen(settings.host, settings.port, remedy="RINGONCE_PORT")
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        print(f"orchestrator http://{settings.host}:{settings.port}", flush=True)
        server.run(sockets=[listening])


@cli.command()
def worker(
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether one lives on this machine.")
    ] = False,
) -> None:
    """Dispatch orders to the call handler until told to stop."""
    from dispatcher.worker import lives_here, run_worker

    settings = _settings()
    with store(settings) as url:
        if check:
            raise typer.Exit(0 if asyncio.run(lives_here(url)) else 1)
        asyncio.run(
            run_worker(
                settings.model_copy(update={"redis_url": url}),
                announce=lambda name: print(f"worker {name}", flush=True),
            )
        )


def _settings() -> Settings:
    settings = read_settings()
    configure_logging(settings.log_level, settings.log_format, in_background=True)
    return settings


def main() -> None:
    """Run the command line; every foreseeable failure is one line and an exit code."""
    try:
        cli()
    except (BadSettings, BadProfile, UnknownPlaceholder, CannotListen) as error:
        sys.exit(_told(str(error), 2))
    except (NoStore, ChildFailed) as error:
        sys.exit(_told(str(error), 3))
    except RedisError as error:
        sys.exit(_told(f"the store went away and did not come back: {error}", 3))
    except OSError as error:
        sys.exit(_told(f"{error.filename or 'ringonce'}: {error.strerror or error}", 1))
    except KeyboardInterrupt:
        sys.exit(130)


def _told(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
