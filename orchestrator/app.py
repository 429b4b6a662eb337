"""The HTTP face of the conversation. Words go in, turns come out; it never calls anyone."""

import asyncio
import contextlib
import sqlite3
import unicodedata
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, Final

import structlog
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from orchestrator.body_limit import BodyLimit
from orchestrator.problems import Problem, answer_with_problems, problem
from orchestrator.resumer import resuming
from orchestrator.workflow_manager import (
    Turn,
    UnknownThread,
    WorkflowManager,
    open_workflow_manager,
)
from shared.answers import Answers
from shared.ledger import Ledger
from shared.order import Word
from shared.progress import OrderProgress, did_it_ring, why_it_waits
from shared.redis_pool import ledger_client
from shared.settings import Settings

MESSAGE_MAX: Final = 10_000
OWNER: Final = "local"
_READY_WITHIN_S: Final = 2.0
_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": Problem, "content": {"application/problem+json": {}}}
    for status in (404, 409, 413, 422, 503)
}

_log = structlog.get_logger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """Return the app; what it needs is opened when it starts and closed when it stops.

    Raises:
        ValueError: the settings name no store.
    """
    url = settings.redis_url
    if url is None:
        raise ValueError("redis_url must be set before the app is made")

    @contextlib.asynccontextmanager
    async def open_rooms(app: FastAPI) -> AsyncIterator[None]:
        redis = ledger_client(url, patience_s=settings.store_patience_s)
        ledger = Ledger(redis, durability=settings.submit_durability)
        try:
            await ledger.check_durability()
            async with (
                Answers(redis) as answers,
                open_workflow_manager(settings, ledger, redis, answers=answers) as manager,
                resuming(manager, answers),
            ):
                app.state.desks = Desks(redis, ledger, manager)
                yield
        finally:
            await redis.aclose()

    # No documentation pages: they would load scripts from elsewhere. The schema is served.
    app = FastAPI(title="Ringonce", lifespan=open_rooms, docs_url=None, redoc_url=None)
    answer_with_problems(app)
    app.add_middleware(BodyLimit)
    app.add_api_route("/chat", chat, methods=["POST"], responses=_PROBLEMS)
    app.add_api_route("/threads/{thread_id}", thread, methods=["GET"], responses=_PROBLEMS)
    app.add_api_route("/orders/{order_id}", order, methods=["GET"], responses=_PROBLEMS)
    app.add_api_route("/healthz", healthz, methods=["GET"])
    app.add_api_route("/readyz", readyz, methods=["GET"], response_model=None)
    return app


@dataclass(frozen=True, slots=True)
class Desks:
    """What the requests are answered with."""

    redis: Redis
    ledger: Ledger
    manager: WorkflowManager


def _desks(request: Request) -> Desks:
    desks: Desks = request.app.state.desks
    return desks


def _readable(text: str) -> str:
    for position, character in enumerate(text):
        if unicodedata.category(character) in {"Cc", "Cs"} and character not in "\t\n\r":
            raise PydanticCustomError(
                "control_character",
                "must not contain control characters, has {code} at position {position}",
                {"code": f"U+{ord(character):04X}", "position": position},
            )
    return text


def _said(longest: int) -> Any:
    """Return what is asked of a field that a person fills with words."""
    return StringConstraints(strip_whitespace=True, min_length=1, max_length=longest)


class Message(BaseModel):
    """What a person says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    message: Annotated[str, _said(MESSAGE_MAX), AfterValidator(_readable)]
    thread_id: Annotated[Word | None, Field(description="Left out: a new conversation.")] = None
    reply_to: Annotated[Word | None, Field(description="The turn's `reply_to` it answers.")] = None
    user_name: Annotated[
        Annotated[str, _said(100), AfterValidator(_readable)] | None,
        Field(description="On whose behalf is called; taken when a conversation starts."),
    ] = None


class OrderView(OrderProgress):
    """How an order stands, and the two sentences a person wants first."""

    did_it_ring: str
    why_it_waits: str | None


async def chat(message: Message, desks: Annotated[Desks, Depends(_desks)]) -> Turn:
    """Start a conversation, or go on with one."""
    if message.thread_id is None:
        return await desks.manager.start(message.message, OWNER, message.user_name)
    return await desks.manager.continue_(message.thread_id, message.message, message.reply_to)


async def thread(thread_id: str, desks: Annotated[Desks, Depends(_desks)]) -> Turn:
    """Return where a conversation stands."""
    turn = await desks.manager.look_up(thread_id)
    if turn is None:
        raise UnknownThread
    return turn


async def order(order_id: str, desks: Annotated[Desks, Depends(_desks)]) -> OrderView:
    """Return how an order stands."""
    progress = await desks.ledger.progress(order_id)
    if progress is None:
        raise HTTPException(404, "there is no order of this id")
    return OrderView(
        **dict(progress),
        did_it_ring=did_it_ring(progress),
        why_it_waits=why_it_waits(progress),
    )


async def healthz() -> dict[str, str]:
    """Say that the process lives; nothing else is asked."""
    return {"state": "alive"}


async def readyz(desks: Annotated[Desks, Depends(_desks)]) -> Response | dict[str, str]:
    """Say whether a message could be answered now: the store and the checkpoints are there."""
    try:
        async with asyncio.timeout(_READY_WITHIN_S):
            await desks.redis.ping()
            await desks.manager.ping()
    except (RedisError, OSError, sqlite3.Error) as error:
        why = str(error) or f"no answer within {_READY_WITHIN_S:g} s"
        _log.warning("not_ready", why=why)
        return problem(503, "not-ready", "Not ready", why).response()
    return {"state": "ready"}
