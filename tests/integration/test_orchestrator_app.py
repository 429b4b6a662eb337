"""The HTTP face: what goes in, what is refused and how, what is said while the store is away."""

import json
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from orchestrator.app import MESSAGE_MAX, create_app
from orchestrator.body_limit import BODY_MAX
from orchestrator.thread_lock import alone
from orchestrator.workflow_manager import WorkflowManager
from shared import keys
from shared.desk import OrderNotAccepted
from shared.ledger import Ledger
from shared.settings import Settings

PIZZA = "Order a large pepperoni pizza from Luigi's at +1 202 555 0123"
JSON = {"Content-Type": "application/json"}


async def speaking_to(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://orchestrator") as client,
    ):
        yield client


@pytest.fixture
async def api(settings: Settings, redis: Redis) -> AsyncIterator[httpx.AsyncClient]:
    async for client in speaking_to(settings.model_copy(update={"await_call_s": 0.0})):
        yield client


@pytest.fixture
async def api_without_store(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    with socket.socket() as held:  # bound and not listening: whoever connects is refused
        held.bind(("127.0.0.1", 0))
        nowhere = f"redis://127.0.0.1:{held.getsockname()[1]}/0"
        away = settings.model_copy(update={"redis_url": nowhere, "store_patience_s": 0.05})
        async for client in speaking_to(away):
            yield client


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """Return the problem in `answer`, which must be one in full."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert told["status"] == status
    assert told["type"].startswith("urn:ringonce:")
    assert told["title"]
    assert told["detail"]
    assert "Traceback" not in answer.text
    assert "\n" not in told["detail"]
    return told


async def test_a_conversation_over_http(api: httpx.AsyncClient):
    asked = (await api.post("/chat", json={"message": PIZZA, "user_name": "Alice"})).json()
    assert asked["kind"] == "confirmation"
    assert "+12025550123" in asked["text"]
    assert (await api.get(f"/orders/{asked['order_id']}")).status_code == 404
    answer = {"message": "yes", "thread_id": asked["thread_id"], "reply_to": asked["reply_to"]}
    turn = (await api.post("/chat", json=answer)).json()
    assert (turn["kind"], turn["call_state"]) == ("waiting", "QUEUED")
    order = (await api.get(f"/orders/{turn['order_id']}")).json()
    assert order["state"] == "QUEUED"
    assert order["did_it_ring"] == "No: it waits to be sent."
    assert order["why_it_waits"] == "for a worker"
    assert (await api.get(f"/threads/{asked['thread_id']}")).json() == turn
    assert problem(await api.post("/chat", json=answer), 409)["type"].endswith("stale-reply")


BAD: dict[str, tuple[Any, str, str]] = {
    "a missing field": ({}, "message", "required"),
    "an unknown field": ({"message": "x", "phone": "911"}, "phone", "not permitted"),
    "an empty message": ({"message": "  "}, "message", "at least 1 character"),
    "a number for words": ({"message": 5}, "message", "string"),
    "an overlong message": ({"message": "x" * (MESSAGE_MAX + 1)}, "message", "at most 10000"),
    "a megabyte": ({"message": "x" * 1_000_000}, "message", "at most 10000"),
    "a control character": ({"message": "call\x00me"}, "message", "U+0000 at position 4"),
    "an escape": ({"message": "a\x1b[2J"}, "message", "U+001B"),
    "half a character": ({"message": "a\ud800"}, "message", "string"),
    "a control character in the name": (
        {"message": "x", "user_name": "A\x07"},
        "user_name",
        "control characters",
    ),
    "an overlong name": ({"message": "x", "user_name": "A" * 101}, "user_name", "at most 100"),
    "no word for a thread": ({"message": "x", "thread_id": "a b"}, "thread_id", "pattern"),
    "a list": ([1], "body", "JSON object"),
    "a bare string": ("x", "body", "JSON object"),
    "nothing": (None, "body", "JSON object"),
    "a field of half a character": ({"message": "x", "\ud800": 1}, "body", "unicode"),
    "a field of a thousand letters": ({"message": "x", "y" * 1000: 1}, "y" * 64, "not permitted"),
}


@pytest.mark.parametrize("what", BAD)
async def test_bad_input_is_answered_with_the_field_and_the_rule(
    api: httpx.AsyncClient, redis: Redis, what: str
):
    body, field, rule = BAD[what]
    answer = await api.post("/chat", content=json.dumps(body), headers=JSON)
    told = problem(answer, 422)
    [fault] = told["errors"]
    assert fault["field"] == field
    assert rule in fault["rule"]
    assert "911" not in answer.text
    assert len(answer.text) < 1_000
    assert await redis.dbsize() == 0
    assert (await api.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    ("content", "headers", "statuses"),
    [
        (b'{"message": "x"', JSON, {400, 422}),
        (b"", JSON, {422}),
        (b"\xff\xfe\x00", JSON, {400, 422}),
        (b"[" * 10_000, JSON, {400, 422}),
        (b"[" * 10_000 + b"]" * 10_000, JSON, {400, 422}),
        (b'{"message":' * 10_000 + b"1" + b"}" * 10_000, JSON, {400, 422}),
        (b'{"message": ' + b"9" * 10_000 + b"}", JSON, {400, 422}),
        (b'{"message": NaN}', JSON, {400, 422}),
        (b'{"message": "call 1"}', {"Content-Type": "text/plain"}, {415, 422}),
        (b'{"message": "call 1"}', {}, {415, 422}),
        (b"message=x", {"Content-Type": "application/x-www-form-urlencoded"}, {415, 422}),
        (b"x" * (BODY_MAX + 1), JSON, {413}),
    ],
)
async def test_a_body_that_is_none_is_answered_and_the_service_lives(
    api: httpx.AsyncClient, redis: Redis, content, headers, statuses
):
    answer = await api.post("/chat", content=content, headers=headers)
    problem(answer, answer.status_code)
    assert answer.status_code in statuses
    assert await redis.dbsize() == 0
    assert (await api.get("/healthz")).status_code == 200


async def test_a_body_without_a_length_is_not_read_beyond_the_limit(api: httpx.AsyncClient):
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while read < 10 * BODY_MAX:
            read += 65_536
            yield b"x" * 65_536

    problem(await api.post("/chat", content=endless(), headers=JSON), 413)
    assert read <= BODY_MAX + 65_536


@pytest.mark.parametrize("number", ["911", "12345", "+1 555 123 4567"])
async def test_a_number_that_may_not_be_called_is_asked_for_again(
    api: httpx.AsyncClient, redis: Redis, number: str
):
    turn = (await api.post("/chat", json={"message": f"Order soup, call {number}"})).json()
    assert turn["kind"] == "question"
    assert turn["missing_details"] == ["target_phone_number"]
    assert "target_phone_number: what you gave is" in turn["text"]
    assert await redis.dbsize() == 0


async def test_what_does_not_exist_is_said(api: httpx.AsyncClient):
    assert "conversation" in problem(await api.get("/threads/thr_nobody"), 404)["detail"]
    assert "order" in problem(await api.get("/orders/ord_nothing"), 404)["detail"]
    unknown = await api.post("/chat", json={"message": "yes", "thread_id": "thr_nobody"})
    assert problem(unknown, 404)["type"] == "urn:ringonce:unknown-thread"
    problem(await api.get("/nowhere"), 404)
    answer = await api.get("/chat")
    problem(answer, 405)
    assert answer.headers["allow"] == "POST"


async def test_a_busy_conversation_is_said(api: httpx.AsyncClient, redis: Redis):
    asked = (await api.post("/chat", json={"message": PIZZA})).json()
    async with alone(redis, asked["thread_id"]):
        answer = await api.post("/chat", json={"message": "yes", "thread_id": asked["thread_id"]})
        assert problem(answer, 409)["type"] == "urn:ringonce:thread-busy"
        assert (await api.get(f"/threads/{asked['thread_id']}")).json() == asked


async def test_no_store_is_one_line_that_says_what_was_tried(api_without_store: httpx.AsyncClient):
    for answer in (
        await api_without_store.post("/chat", json={"message": PIZZA}),
        await api_without_store.get("/orders/ord_12345678"),
    ):
        told = problem(answer, 503)
        assert "127.0.0.1" in told["detail"]
        assert answer.headers["retry-after"]
    problem(await api_without_store.get("/readyz"), 503)
    assert (await api_without_store.get("/healthz")).status_code == 200


async def test_ready_means_that_store_and_checkpoints_answer(api: httpx.AsyncClient):
    assert (await api.get("/readyz")).json() == {"state": "ready"}


async def test_an_order_that_may_not_have_been_taken_is_said_truthfully_and_handed_in_later(
    api: httpx.AsyncClient, redis: Redis, monkeypatch: pytest.MonkeyPatch
):
    asked = (await api.post("/chat", json={"message": PIZZA})).json()
    answer = {"message": "yes", "thread_id": asked["thread_id"], "reply_to": asked["reply_to"]}

    async def silent(*_: object) -> None:
        raise OrderNotAccepted("the store does not answer", certain=False)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "submit", silent)
        told = problem(await api.post("/chat", json=answer), 503)
        assert "may or may not have been accepted" in told["detail"]
    turn = (await api.post("/chat", json=answer)).json()
    assert (turn["kind"], turn["order_id"]) == ("waiting", asked["order_id"])
    assert await redis.zcard(keys.ORDERS) == 1


async def test_the_unforeseen_is_answered_without_its_story(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    async def broken(*_: object) -> None:
        raise RuntimeError("call +12025550123")

    monkeypatch.setattr(WorkflowManager, "start", broken)
    with caplog.at_level(logging.DEBUG):
        answer = await api.post("/chat", json={"message": PIZZA})
    problem(answer, 500)
    assert "2025550123" not in answer.text
    assert "2025550123" not in caplog.text


async def test_the_schema_names_the_problems(api: httpx.AsyncClient):
    schema = (await api.get("/openapi.json")).json()
    answers = schema["paths"]["/chat"]["post"]["responses"]
    assert {"200", "404", "409", "413", "422", "503"} <= set(answers)
    assert "Problem" in schema["components"]["schemas"]


def test_an_app_without_a_store_is_not_made(settings: Settings):
    with pytest.raises(ValueError, match="redis_url"):
        create_app(settings.model_copy(update={"redis_url": None}))
