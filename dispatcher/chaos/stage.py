"""Sets the stage for one run: every process, every line, and the settings they get."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from dispatcher.chaos import tempo
from dispatcher.chaos.faults import handler_rates
from dispatcher.chaos.fleet import Fleet, free_ports
from dispatcher.chaos.line import Line
from dispatcher.chaos.plan import DESKS, TALK, Plan
from shared.settings import environment_with

STORE: Final = "store"
HANDLER: Final = "handler"


class HandlerKind(StrEnum):
    """What the call handler promises."""

    KEYED = "keyed"
    LOOKUP = "lookup"
    BARE = "bare"

    @property
    def can_find_out(self) -> bool:
        """Say whether it promises enough for every doubt to be cleared."""
        return self is not HandlerKind.BARE


@dataclass(frozen=True, slots=True)
class Promise:
    """How a kind of handler is started, and what the workers are told of it."""

    arguments: tuple[str, ...]
    settings: dict[str, str]


PROMISES: Final[dict[HandlerKind, Promise]] = {
    HandlerKind.KEYED: Promise(("--no-lookup",), {"RINGONCE_HANDLER_HONOURS_KEY": "true"}),
    HandlerKind.LOOKUP: Promise(("--unkeyed",), {"RINGONCE_HANDLER_ANSWERS_LOOKUP": "true"}),
    # As handlers are found in the wild: their errors say nothing about the call either.
    HandlerKind.BARE: Promise(("--unkeyed", "--no-lookup", "--plain-errors"), {}),
}


@dataclass(frozen=True)
class Stage:
    """Everything that is started, and where it keeps its files."""

    folder: Path
    fleet: Fleet
    lines: dict[str, Line]
    talk_port: int
    workers: tuple[str, ...]

    @property
    def journal(self) -> Path:
        """The carrier's own record of what it rang."""
        return self.folder / "rings.jsonl"

    @property
    def store_url(self) -> str:
        """The store without any line before it: for whoever looks on."""
        return f"unix://{_socket(self.folder)}"


def set_stage(plan: Plan, kind: HandlerKind, workers: tuple[str, ...], folder: Path) -> Stage:
    """Return the stage for `plan`; nothing is started yet."""
    names = (*workers, *DESKS, TALK)
    handler_port, talk_port, *ports = free_ports(2 + len(names))
    lines = {
        name: Line(name, port, _socket(folder)) for name, port in zip(names, ports, strict=True)
    }
    fleet = Fleet(folder)
    stage = Stage(folder, fleet, lines, talk_port, workers)
    promise = PROMISES[kind]
    plain = _environment(folder)
    fleet.add(STORE, fleet.store(_socket(folder)))
    fleet.add(
        HANDLER,
        fleet.ringonce(HANDLER, *_rehearsal(plan, promise, handler_port, stage.journal), env=plain),
    )
    told = {"RINGONCE_CALL_HANDLER_URL": f"http://127.0.0.1:{handler_port}", **promise.settings}
    for name in workers:
        env = plain | told | {"REDIS_URL": lines[name].url}
        fleet.add(name, fleet.ringonce(name, "worker", env=env))
    if "graph-rerun" in plan.faults:
        env = plain | {"REDIS_URL": lines[TALK].url, "RINGONCE_PORT": str(talk_port)}
        fleet.add(TALK, fleet.ringonce(TALK, "serve", env=env, port=talk_port))
    return stage


def _rehearsal(plan: Plan, promise: Promise, port: int, journal: Path) -> list[str]:
    rates = handler_rates(plan.faults)
    return [
        *("rehearsal", "--port", str(port), "--journal", str(journal), "--seed", str(plan.seed)),
        *("--accept-s", str(tempo.ACCEPT_S), "--slow-s", str(tempo.SLOW_S)),
        *("--hang-s", str(tempo.HANG_S), *promise.arguments),
        *(word for name, rate in rates.items() for word in ("--fault", f"{name}={rate}")),
    ]


def _environment(folder: Path) -> dict[str, str]:
    """Return the settings all processes share; none of the caller's own settings gets through."""
    ours = {
        "DATA_DIR": folder / TALK,
        "CONNECT_TIMEOUT_S": tempo.CONNECT_S,
        "READ_TIMEOUT_S": tempo.READ_S,
        "QUIET_PERIOD_S": tempo.QUIET_S,
        "LEASE_S": tempo.LEASE_S,
        "BACKOFF_BASE_S": tempo.BACKOFF_BASE_S,
        "BACKOFF_CAP_S": tempo.BACKOFF_CAP_S,
        "SWEEP_S": tempo.SWEEP_S,
        "RECOVER_S": tempo.RECOVER_S,
        "STORE_PATIENCE_S": tempo.STORE_PATIENCE_S,
        "AWAIT_CALL_S": tempo.AWAIT_CALL_S,
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "INFO",
    }
    inherited = {
        name: value
        for name, value in environment_with({}).items()
        if name != "REDIS_URL" and not name.startswith("RINGONCE_")
    }
    return inherited | {f"RINGONCE_{name}": str(value) for name, value in ours.items()}


def _socket(folder: Path) -> Path:
    return folder / "store.sock"
