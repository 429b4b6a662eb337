"""Logging: events with names, bound to an order, and never a word of what a person said.

`order.placed order_id=… call_sid=…` is a line; numbers, names and instructions are not logged at
all, and what looks like a number is struck out should anything carry it in regardless.
"""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, Literal

import structlog
from pydantic import BaseModel

PRIVATE_FIELDS: Final = frozenset(
    {
        "target_phone_number",
        "final_instructions",
        "gathered_details",
        "user_name",
        "task_description",
        "messages",
        "body",
    }
)
_NUMBER: Final = re.compile(r"(?:\+|%2[Bb])[1-9][0-9][0-9 ().-]{5,18}[0-9]")
_STRUCK: Final = "[number]"


def configure_logging(level: str, style: Literal["auto", "console", "json"]) -> None:
    """Send every log line of this process to stderr, in one style, through one sieve."""
    people = style == "console" or (style == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        strike_out_private,
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if people
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in ("arq", "httpx", "httpcore", "uvicorn.access", "aiosqlite", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def strike_out_private(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Remove private fields, and strike out numbers in what is left. A structlog processor."""
    return _without_private(event)


def _without_private(fields: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        _NUMBER.sub(_STRUCK, str(name)): _struck(value)
        for name, value in fields.items()
        if name not in PRIVATE_FIELDS
    }


def _struck(value: Any) -> Any:
    match value:
        case None | bool() | int() | float() | logging.LogRecord():
            return value
        case Mapping():
            return _without_private(value)
        case BaseModel():
            return _without_private(dict(value))
        case list() | tuple() | set() | frozenset():
            return [_struck(inner) for inner in value]
        case _:
            # A renderer would print it later, behind the sieve.
            return _NUMBER.sub(_STRUCK, str(value))
