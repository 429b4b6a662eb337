"""No number, name or instruction in a log line, whoever writes it and however it got there."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog
from pydantic import BaseModel, ValidationError

from shared.claim import Claimed
from shared.lifecycle import Tries
from shared.log import PRIVATE_FIELDS, BackgroundWriter, configure_logging
from shared.order import CallOrder

NUMBER = "+12025550123"
PRIVATE = ("2025550123", "Lovelace", "pepperoni", "allergic")
NOW = datetime(2030, 1, 1, tzinfo=UTC)
ORDER = CallOrder(
    order_id="ord_0123456789",
    target_phone_number=NUMBER,
    final_instructions="Order a large pepperoni pizza.",
    gathered_details={"note": "allergic to nuts"},
    user_name="Ada Lovelace",
    created_at=NOW,
    expires_at=NOW + timedelta(hours=1),
)
CLAIMED = Claimed(ORDER, 1, 1, Tries(1), NOW, "worker-1", 0.0)


@pytest.fixture(params=["json", "console"])
def stderr(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[io.StringIO]:
    """Log in one style, and put back afterwards what was there before."""
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    root, before = logging.getLogger(), structlog.get_config()
    level = root.level
    configure_logging("DEBUG", request.param)
    (ours,) = root.handlers
    yield stderr
    root.removeHandler(ours)
    root.setLevel(level)
    structlog.configure(**before)


@dataclass
class Envelope:
    order: CallOrder
    note: str


class Asked(BaseModel):
    user_name: str


class Failed(Exception):
    pass


def fail(words: object) -> None:
    raise Failed(words)


LEAKS: dict[str, dict[str, Any]] = {
    "a number": {"number": NUMBER},
    "a number in a sentence": {"error": f"could not dial {NUMBER}, nor +1 (415) 555-0100"},
    "a number in an address": {"url": "http://carrier/calls?to=%2B12025550123"},
    "a number as a name": {NUMBER: "busy"},
    "every private field": dict.fromkeys(PRIVATE_FIELDS, "Lovelace, pepperoni, allergic"),
    "an order": {"order": ORDER},
    "an order's fields": {"order": ORDER.model_dump()},
    "an order's fields as JSON types": {"order": ORDER.model_dump(mode="json")},
    "a claimed order": {"claimed": CLAIMED},
    "an order in an object": {"envelope": Envelope(ORDER, NUMBER)},
    "deep in lists": {"batch": [({"a": [{"user_name": "Lovelace"}, ORDER]},), {NUMBER}]},
    "deep in names": {"by_number": {"held": {NUMBER: ORDER}}},
    "an exception as a value": {"error": Failed(f"no route to {NUMBER}")},
    "somebody's model": {"asked": Asked(user_name="Lovelace")},
    "bytes": {"raw": NUMBER.encode()},
}


@pytest.mark.parametrize("leak", LEAKS)
def test_nothing_private_reaches_a_line_by(leak: str, stderr: io.StringIO):
    structlog.get_logger("room").info("order.seen", order_id="ord_1", **LEAKS[leak])
    written = stderr.getvalue()
    assert "order.seen" in written
    assert "ord_1" in written
    assert not [word for word in PRIVATE if word in written], written


@pytest.mark.parametrize("leak", LEAKS)
def test_nothing_private_reaches_a_line_of_somebody_elses_by(leak: str, stderr: io.StringIO):
    foreign = logging.getLogger("somebody.else")
    foreign.info("seen", extra=LEAKS[leak])
    value = next(iter(LEAKS[leak].values()))
    if not isinstance(value, dict | list | str | Asked):
        foreign.info("seen %s and %r", value, value)
    written = stderr.getvalue()
    assert "seen" in written
    assert not [word for word in PRIVATE if word in written], written


def test_a_number_in_a_traceback_is_struck_out(stderr: io.StringIO):
    for log in (structlog.get_logger("room"), logging.getLogger("somebody.else")):
        try:
            fail(f"no route to {NUMBER}")
        except Failed:
            log.exception("attempt.broke")
    written = stderr.getvalue()
    assert written.count("Failed: no route to [number]") == 2
    assert "2025550123" not in written


def test_a_traceback_about_a_bad_order_does_not_repeat_it(stderr: io.StringIO):
    bad = ORDER.model_dump() | {"user_name": "Lovelace\x00", "gathered_details": "allergic"}
    for log in (structlog.get_logger("room"), logging.getLogger("somebody.else")):
        try:
            CallOrder.model_validate(bad)
        except ValidationError:
            log.exception("order.unreadable")
    written = stderr.getvalue()
    assert written.count("control characters") == 2
    assert not [word for word in PRIVATE if word in written], written


def test_what_is_bound_to_a_task_is_sifted_too(stderr: io.StringIO):
    with structlog.contextvars.bound_contextvars(target_phone_number=NUMBER, about=NUMBER):
        structlog.get_logger("room").info("order.seen")
        logging.getLogger("somebody.else").warning("seen")
    written = stderr.getvalue()
    assert written.count("[number]") == 2
    assert "2025550123" not in written


@pytest.mark.parametrize("stderr", ["json"], indirect=True)
def test_every_json_line_can_be_read_by_a_program(stderr: io.StringIO):
    log = structlog.get_logger("room")
    for fields in LEAKS.values():
        log.info("order.seen", **fields)
    log.info("order.placed", order_id="ord_1", call_sid="CA1", token=3, wait_s=None, ok=True)
    logging.getLogger("somebody.else").error("two\nlines")
    try:
        fail("over\ntwo lines")
    except Failed:
        log.exception("attempt.broke")

    lines = [json.loads(line) for line in stderr.getvalue().splitlines()]
    assert len(lines) == len(LEAKS) + 3
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
    placed = next(line for line in lines if line["event"] == "order.placed")
    told = {name: placed[name] for name in ("order_id", "call_sid", "token", "wait_s", "ok")}
    assert told == {
        "order_id": "ord_1",
        "call_sid": "CA1",
        "token": 3,
        "wait_s": None,
        "ok": True,
    }


@pytest.mark.parametrize("innocent", ["CA0123456789abcdef0123456789abcdef", "2030-01-01T00:00:00Z"])
def test_what_is_no_number_is_left_alone(innocent: str, stderr: io.StringIO):
    structlog.get_logger("room").info("order.seen", about=innocent)
    assert innocent in stderr.getvalue()


def test_talkative_libraries_are_heard_only_when_something_is_wrong(
    stderr: io.StringIO,
):
    logging.getLogger("arq.worker").info("order %s", NUMBER)
    logging.getLogger("httpx").info("POST http://handler")
    assert stderr.getvalue() == ""
    logging.getLogger("arq.worker").warning("lost its way")
    assert "lost its way" in stderr.getvalue()


def test_the_fields_of_an_order_that_tell_of_a_person_are_private():
    told = {"target_phone_number", "final_instructions", "gathered_details", "user_name"}
    assert told <= PRIVATE_FIELDS
    assert told <= CallOrder.model_fields.keys()


@pytest.mark.parametrize("in_background", [True, False])
def test_a_log_that_cannot_be_written_stops_nobody(stderr: io.StringIO, *, in_background: bool):
    gone = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", gone)
        configure_logging("DEBUG", "json", in_background=in_background)
        log = structlog.get_logger("room")
        gone.close()
        for _ in range(3):
            log.info("order.seen")
            logging.getLogger("somebody.else").warning("seen")


def test_what_is_written_in_the_background_arrives_in_order(
    stderr: io.StringIO, monkeypatch: pytest.MonkeyPatch
):
    read = io.StringIO()
    writer = BackgroundWriter(read)
    for number in range(1000):
        writer.write(f"{number}\n")
    writer.finish()
    assert read.getvalue() == "".join(f"{number}\n" for number in range(1000))
