"""Logging: events with names, bound to an order, and never a word of what a person said.

`order.placed order_id=… call_sid=…` is a line; numbers, names and instructions are not logged at
all, and what looks like a number is struck out should anything carry it in regardless.

A server that works through thousands of orders does not wait for its log to be read: there a line
is made where it is said, and written by a thread that does nothing else.
"""

import atexit
import contextlib
import logging
import re
import sys
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, Literal, TextIO

import structlog
from pydantic import BaseModel
from pydantic_core import to_json
from structlog.typing import EventDict, Processor, WrappedLogger

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


WRITTEN_EVERY_S: Final = 0.05
KEPT_MAX: Final = 50_000
"""Where nobody reads, so many lines are kept; then the oldest go."""


def configure_logging(
    level: str, style: Literal["auto", "console", "json"], *, in_background: bool = False
) -> None:
    """Send every log line of this process to stderr, in one style, through one sieve.

    `in_background` writes a moment later, so that nothing waits for whoever reads the log.
    """
    people = style == "console" or (style == "auto" and sys.stderr.isatty())
    _lines.to = BackgroundWriter(sys.stderr) if in_background else sys.stderr
    lines: Any = _lines
    begin: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        without_private,
    ]
    end: list[Processor] = [
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if people else as_json,
        strike_out_numbers,
    ]
    structlog.configure(
        processors=[*begin, *end],
        logger_factory=structlog.WriteLoggerFactory(lines),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(lines)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *begin],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *end],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in ("arq", "httpx", "httpcore", "uvicorn.access", "aiosqlite", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class Lines:
    """Where all lines of this process go. A logger keeps what it was made with: this.

    Nobody stops working because nobody reads: what cannot be written is not.
    """

    def __init__(self) -> None:
        self.to: TextIO | BackgroundWriter = sys.stderr

    def write(self, piece: str) -> None:
        """Write a piece."""
        with contextlib.suppress(OSError, ValueError):
            self.to.write(piece)

    def flush(self) -> None:
        """Have it written."""
        with contextlib.suppress(OSError, ValueError):
            self.to.flush()


class BackgroundWriter:
    """Takes text, and has a thread write it, many pieces at once; what is left goes at the end."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._pieces = deque[str](maxlen=KEPT_MAX)
        self._some, self._writing = threading.Event(), threading.Lock()
        threading.Thread(target=self._run, name="log", daemon=True).start()
        atexit.register(self.finish)

    def write(self, piece: str) -> None:
        """Take a piece; never waits."""
        self._pieces.append(piece)
        self._some.set()

    def flush(self) -> None:
        """Do nothing: it will be written."""

    def _run(self) -> None:
        rest = threading.Event()
        while True:
            self._some.wait()
            self._some.clear()
            self.finish()
            rest.wait(WRITTEN_EVERY_S)

    def finish(self) -> None:
        """Write what was taken so far."""
        with self._writing:
            # As many as there are now: who writes without end is not waited for.
            text = "".join(self._pieces.popleft() for _ in range(len(self._pieces)))
            with contextlib.suppress(OSError, ValueError):
                self._file.write(text)
                self._file.flush()


def as_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """Return the event as one line of JSON. A structlog processor."""
    return to_json(event, fallback=str).decode()


def without_private(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Remove private fields, however deep. A structlog processor."""
    return _without_private(event)


def strike_out_numbers(_logger: WrappedLogger, _method: str, line: Any) -> str:
    """Strike out what looks like a phone number in a finished line. A structlog processor."""
    return _NUMBER.sub(_STRUCK, line)


def _without_private(fields: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        str(name): _opened(value) for name, value in fields.items() if name not in PRIVATE_FIELDS
    }


def _opened(value: Any) -> Any:
    match value:
        case None | str() | bool() | int() | float() | logging.LogRecord():
            return value
        case Mapping():
            return _without_private(value)
        case BaseModel():
            return _without_private(dict(value))
        case list() | tuple() | set() | frozenset():
            return [_opened(inner) for inner in value]
        case _:
            # A renderer would open it later, behind the sieve.
            return str(value)


_lines: Final = Lines()
