"""Every error of the HTTP face as application/problem+json (RFC 9457): what, why, and which field.

The values that were sent are never repeated: they may be somebody's number, and errors get logged.
"""

from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException

from orchestrator.workflow_manager import StaleReply, ThreadBusy, UnknownThread
from shared.desk import OrderNotAccepted
from shared.redis_pool import AWAY

_AGAIN_S: Final = "5"
_FIELD_MAX: Final = 64

_log = structlog.get_logger(__name__)


class Fault(BaseModel):
    """One field and the rule it breaks."""

    field: str
    rule: str


class Problem(BaseModel):
    """Why something was not done."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[Fault] | None = None

    def response(self, headers: dict[str, str] | None = None) -> JSONResponse:
        """Return this as an HTTP answer."""
        return JSONResponse(
            self.model_dump(exclude_none=True),
            status_code=self.status,
            headers=headers,
            media_type="application/problem+json",
        )


def problem(status: int, slug: str, title: str, detail: str) -> Problem:
    """Return a problem; `slug` is the part of its type that a program may rely on."""
    return Problem(type=f"urn:ringonce:{slug}", title=title, status=status, detail=detail)


def answer_with_problems(app: FastAPI) -> None:
    """Make `app` answer every error in this form."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(UnknownThread, _refused)
    app.add_exception_handler(ThreadBusy, _refused)
    app.add_exception_handler(StaleReply, _refused)
    app.add_exception_handler(OrderNotAccepted, _not_accepted)
    for away in (RedisError, *AWAY):
        app.add_exception_handler(away, _store_away)
    app.add_exception_handler(Exception, _unforeseen)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101  (registered for it)
    faults = [Fault(field=_field(found["loc"]), rule=_rule(found)) for found in error.errors()]
    told = problem(422, "invalid", "Invalid request", f"{len(faults)} rules are broken.")
    if len(faults) == 1:
        told.detail = f"{faults[0].field}: {faults[0].rule}"
    told.errors = faults
    return told.response()


def _field(location: tuple[int | str, ...]) -> str:
    """Return a field's name; one the sender made up is shortened and made printable."""
    inside = location[1:] if location[0] in {"body", "query", "path"} else location
    names = [str(part) for part in inside if not isinstance(part, int)]
    name = ".".join(names) or str(location[0])
    return name[:_FIELD_MAX].encode("ascii", "backslashreplace").decode()


def _rule(found: dict[str, Any]) -> str:
    match found["type"]:
        case "json_invalid":
            return "must be JSON"
        case "model_attributes_type":
            return "must be a JSON object, sent as application/json"
        case _:
            return str(found["msg"])


async def _http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101  (registered for it)
    slug = {400: "unreadable", 404: "not-found", 405: "method-not-allowed"}
    told = problem(
        error.status_code, slug.get(error.status_code, "http"), error.detail, error.detail
    )
    return told.response(dict(error.headers or {}))


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    match error:
        case UnknownThread():
            told = problem(404, "unknown-thread", "Unknown conversation", str(error))
        case ThreadBusy():
            told = problem(409, "thread-busy", "Conversation busy", str(error))
        case _:
            told = problem(409, "stale-reply", "Stale answer", str(error))
    return told.response()


async def _not_accepted(_request: Request, error: Exception) -> JSONResponse:
    _log.error("order.not_accepted", why=str(error))
    detail = (
        f"{error}. What you confirmed is kept; send any message to this conversation to hand in "
        "the same order again, which cannot make a second call, or say cancel."
    )
    told = problem(503, "order-not-accepted", "Order not accepted", detail)
    return told.response({"Retry-After": _AGAIN_S})


async def _store_away(_request: Request, error: Exception) -> JSONResponse:
    _log.error("store.away", why=str(error))
    detail = (
        f"the store (Redis) does not answer: {error}. What was said before is kept; look the "
        "conversation up, and try again."
    )
    return problem(503, "store-away", "Store away", detail).response({"Retry-After": _AGAIN_S})


async def _unforeseen(_request: Request, error: Exception) -> JSONResponse:
    _log.error("request.failed", exception=type(error).__name__)
    detail = "Something failed here that was not foreseen; it is logged."
    return problem(500, "failed", "Failed", detail).response()
