"""What leaves for the call handler, and what is made of whatever comes back, on real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from dispatcher.call_handler import ANSWER_MAX, LEASE_LEFT_S, CallHandler
from dispatcher.rehearsal.behaviours import MAGIC_NUMBERS
from dispatcher.rehearsal.carrier import Carrier
from dispatcher.rehearsal.handler import Promises, RehearsalHandler
from dispatcher.rehearsal.server import rehearsal_server
from shared.claim import Claimed
from shared.clock import SYSTEM_CLOCK, SystemClock
from shared.finding import CannotTell, Known, KnownRefused
from shared.handler_profile import HandlerProfile
from shared.lifecycle import Tries
from shared.order import CallOrder
from shared.outcome import Busy, NotSent, Outcome, Placed, Refused, Unanswered
from tests.conftest import MakeOrder, eventually
from tests.fakes.misbehaving_server import (
    PLACED,
    SID,
    Act,
    Seen,
    Talk,
    answer,
    answer_unread,
    close_after_reading,
    close_at_once,
    drip,
    hang,
    misbehaving_server,
    reset_after_reading,
    reset_unread,
    say_without_end,
    says,
)
from tests.fakes.transports import TRANSPORTS

NUMBER_OF = {magic.name: magic.number for magic in MAGIC_NUMBERS}
LEASE_S = 60.0
SHORT_S = 0.3
"""How long a test waits for an answer that never comes."""
LONG_S = 10.0
"""How long a test waits for an answer that does come."""


@pytest.fixture(params=TRANSPORTS, autouse=True)
def carried_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every promise here holds over every transport."""
    make = TRANSPORTS[request.param]
    monkeypatch.setattr("dispatcher.call_handler._transport", lambda _, limit: make(limit))
    return str(request.param)


def claim(order: CallOrder, *, attempt: int = 1, good_until: float | None = None) -> Claimed:
    return Claimed(
        order=order,
        token=attempt,
        attempt=attempt,
        tries=Tries(spent=attempt),
        expires_at=order.expires_at,
        worker="w-1",
        good_until=SYSTEM_CLOCK.monotonic() + LEASE_S if good_until is None else good_until,
    )


def profile(url: str, *, read_s: float = LONG_S, connect_s: float = 5.0) -> HandlerProfile:
    return HandlerProfile.model_validate(
        {"url": url, "read_timeout_s": read_s, "connect_timeout_s": connect_s, "lookup": {}}
    )


@asynccontextmanager
async def facing(
    *script: Act, read_s: float = LONG_S, connect_s: float = 5.0, path: str = ""
) -> AsyncIterator[tuple[CallHandler, Seen]]:
    async with misbehaving_server(*script) as seen:
        told = profile(seen.url + path, read_s=read_s, connect_s=connect_s)
        async with CallHandler(told, connections=5) as handler:
            yield handler, seen


@asynccontextmanager
async def rehearsing(**how: Any) -> AsyncIterator[tuple[CallHandler, Carrier]]:
    carrier = Carrier()
    async with (
        rehearsal_server(RehearsalHandler(carrier, **how)) as url,
        CallHandler(profile(url), connections=5) as handler,
    ):
        yield handler, carrier


def closed_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


# Misbehaviour

NEVER_ENDS = {
    *("hang", "half a status line", "half a header", "half a body", "half a trailer"),
    *("continues for ever", "drips"),
}
UNHEARD = {"close at once", "reset unread"}
CHUNKED = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13\r\n{"call_sid": "CA1"}\r\n'
UNANSWERED: dict[str, Act] = {
    "close at once": close_at_once,
    "reset unread": reset_unread,
    "close after reading": close_after_reading,
    "reset after reading": reset_after_reading,
    "hang": hang,
    "half a status line": says(b"HTTP/1.1 20"),
    "half a status line, then close": says(b"HTTP/1.1 20", then=close_at_once),
    "half a status line, then reset": says(b"HTTP/1.1 20", then=reset_unread),
    "half a header": says(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "half a header, then close": says(b"HTTP/1.1 200 OK\r\nContent-Le", then=close_at_once),
    "half a header, then reset": says(b"HTTP/1.1 200 OK\r\nContent-Le", then=reset_unread),
    "half a body": says(answer(b'{"call_sid": "CA1"}', promised=100)),
    "a whole sid in half a body, then close": says(
        answer(b'{"call_sid": "CA1"}', promised=100), then=close_at_once
    ),
    "a whole sid in half a body, then reset": says(
        answer(b'{"call_sid": "CA1"}', promised=100), then=reset_unread
    ),
    "half a trailer": says(CHUNKED + b"0\r\nX-Tra"),
    "half a trailer, then close": says(CHUNKED + b"0\r\nX-Tra", then=close_at_once),
    "no last chunk, then close": says(CHUNKED, then=close_at_once),
    "a head without end": says(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000, then=close_at_once),
    "half a chunk, then close": says(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{", then=close_at_once
    ),
    "garbage": says(b"\x16\x03\x01 what?\r\n\r\n", then=close_at_once),
    "another protocol": says(b"SSH-2.0-OpenSSH_9.6\r\n", then=close_at_once),
    "a broken status": says(b"HTTP/1.1 OK\r\n\r\n", then=close_at_once),
    "a broken encoding": says(
        answer(b'{"call_sid": "CA1"}', "200 OK", "Content-Encoding: gzip"), then=close_at_once
    ),
    "two lengths": says(
        answer(b'{"call_sid": "CA1"}', "200 OK", "Content-Length: 3"), then=close_at_once
    ),
    "redirects to itself": says(
        answer(b"", "307 Temporary Redirect", "Location: /order"), then=says(PLACED)
    ),
    "redirects with a GET": says(
        answer(b"", "303 See Other", "Location: /order"), then=says(PLACED)
    ),
    "a body without end": say_without_end,
    "drips": drip,
    "continues for ever": says(b"HTTP/1.1 100 Continue\r\n\r\n" * 3),
    "switches protocols": says(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        then=close_at_once,
    ),
    "done, without a sid": says(answer(b"done")),
    "no content": says(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "bad gateway": says(answer(b"", "502 Bad Gateway")),
    "a page that is too long": says(answer(b" " * (4 * ANSWER_MAX) + b'{"call_sid": "CA1"}')),
}


@pytest.mark.parametrize("what", UNANSWERED)
async def test_a_handler_that_may_have_rung_is_unanswered_and_is_asked_once(
    what: str, make_order: MakeOrder
):
    read_s = SHORT_S if what in NEVER_ENDS else LONG_S
    connect_s = SHORT_S if what in NEVER_ENDS else 5.0
    async with facing(UNANSWERED[what], read_s=read_s, connect_s=connect_s) as (handler, seen):
        outcome = await handler.send(claim(make_order()))
    assert isinstance(outcome, Unanswered)
    assert outcome.evidence.request_left
    assert (seen.connections, len(seen.requests)) == (1, 0 if what in UNHEARD else 1)


ANSWERED: dict[str, tuple[Act, type[Outcome]]] = {
    "the call": (says(PLACED), Placed),
    "the call, then closes": (says(PLACED, then=close_at_once), Placed),
    "the call, then resets": (says(PLACED, then=hang), Placed),
    "100 Continue, then the call": (says(b"HTTP/1.1 100 Continue\r\n\r\n" + PLACED), Placed),
    "early hints, then the call": (
        says(b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n" * 3 + PLACED),
        Placed,
    ),
    "the call in chunks": (says(CHUNKED + b"0\r\n\r\n"), Placed),
    "the call, before the order was read": (answer_unread, Placed),
    "a long head, then the call": (
        says(answer(b'{"call_sid": "CA1"}', "200 OK", "X: " + "x" * 16_000)),
        Placed,
    ),
    "the call, then words nobody asked for": (says(PLACED + PLACED), Placed),
    "the call, closed by the end": (
        says(b'HTTP/1.0 200 OK\r\n\r\n{"call_sid": "CA1"}', then=close_at_once),
        Placed,
    ),
    "429": (says(answer(b"", "429 Too Many Requests", "Retry-After: 3")), Busy),
    "503 with a time": (says(answer(b"", "503 Unavailable", "Retry-After: 3")), Busy),
    "a Retry-After of foreign digits": (
        says(answer(b"", "429 Too Many Requests", "Retry-After: ²")),
        Busy,
    ),
    "425": (says(answer(b"", "425 Too Early")), NotSent),
    "422": (says(answer(b'{"detail": "No."}', "422 Unprocessable Content")), Refused),
    "422 with a lone surrogate": (
        says(answer(b'{"detail": "\\ud800"}', "422 Unprocessable Content")),
        Refused,
    ),
}


@pytest.mark.parametrize("what", ANSWERED)
async def test_a_whole_answer_is_judged_by_what_it_says_and_asked_for_once(
    what: str, make_order: MakeOrder
):
    act, kind = ANSWERED[what]
    async with facing(act) as (handler, seen):
        outcome = await handler.send(claim(make_order()))
    assert isinstance(outcome, kind)
    assert outcome.evidence.answer_began
    assert outcome.evidence.request_left
    assert (seen.connections, len(seen.requests)) == (1, 1)


async def test_a_closed_port_is_not_sent(make_order: MakeOrder):
    async with CallHandler(profile(f"http://127.0.0.1:{closed_port()}"), connections=1) as handler:
        outcome = await handler.send(claim(make_order()))
    assert isinstance(outcome, NotSent)
    assert outcome.cause == "ConnectError"
    assert not outcome.evidence.connected


async def test_a_name_that_leads_nowhere_is_not_sent(
    make_order: MakeOrder, monkeypatch: pytest.MonkeyPatch
):
    async def nowhere(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", nowhere)
    async with CallHandler(profile("http://handler.invalid"), connections=1) as handler:
        outcome = await handler.send(claim(make_order()))
    assert isinstance(outcome, NotSent)


async def test_a_handler_that_does_not_accept_in_time_is_not_sent(
    make_order: MakeOrder, monkeypatch: pytest.MonkeyPatch
):
    async def never(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    told = profile("http://handler.invalid", connect_s=0.05)
    async with CallHandler(told, connections=1) as handler:
        outcome = await handler.send(claim(make_order()))
    assert isinstance(outcome, NotSent)
    assert outcome.cause == "ConnectTimeout"


async def test_an_order_that_finds_no_free_connection_is_not_sent(make_order: MakeOrder):
    async with misbehaving_server(hang, hang) as seen:
        told = profile(seen.url, connect_s=1)  # a busy machine takes its time to connect
        async with CallHandler(told, connections=1) as handler:
            holding = asyncio.create_task(handler.send(claim(make_order())))

            async def arrived() -> bool:
                return bool(seen.requests)

            await eventually(arrived)
            outcome = await handler.send(claim(make_order()))
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)
    assert isinstance(outcome, NotSent)
    assert outcome.cause == "PoolTimeout"
    assert len(seen.requests) == 1


# Connections that are kept alive


async def test_a_kept_connection_carries_the_next_order(make_order: MakeOrder):
    async with facing(says(PLACED, requests=2)) as (handler, seen):
        outcomes = [await handler.send(claim(make_order())) for _ in range(2)]
    assert all(isinstance(outcome, Placed) for outcome in outcomes)
    assert (seen.connections, len(seen.requests)) == (1, 2)


@pytest.mark.parametrize("end", [close_at_once, reset_unread])
async def test_a_kept_connection_that_was_closed_meanwhile_is_not_used(
    end: Act, make_order: MakeOrder
):
    ended = asyncio.Event()

    async def end_it(talk: Any) -> None:
        await end(talk)
        talk.writer.close()
        ended.set()

    async with facing(says(PLACED, then=end_it), says(PLACED)) as (handler, seen):
        await handler.send(claim(make_order()))
        await ended.wait()
        outcome = await handler.send(claim(make_order()))
        if isinstance(outcome, Unanswered):  # the closing crossed with the request
            assert seen.connections == 1
        else:
            assert isinstance(outcome, Placed)
            assert (seen.connections, len(seen.requests)) == (2, 2)


@pytest.mark.parametrize("end", [close_at_once, reset_unread, close_after_reading, hang])
async def test_a_kept_connection_that_dies_under_an_order_does_not_send_it_again(
    end: Act, make_order: MakeOrder
):
    async def first_byte_then(talk: Any) -> None:
        if end in {close_at_once, reset_unread}:
            await talk.reader.readexactly(1)
        await end(talk)

    script = says(PLACED, then=first_byte_then)
    read_s = SHORT_S if end is hang else LONG_S
    async with facing(script, says(PLACED), read_s=read_s) as (handler, seen):
        await handler.send(claim(make_order()))
        outcome = await handler.send(claim(make_order()))
    assert isinstance(outcome, Unanswered)
    assert seen.connections == 1
    assert len(seen.requests) <= 2


@pytest.mark.parametrize("turns", [0, 10])
async def test_what_a_server_says_between_two_orders_is_no_answer_to_the_next(
    turns: int, make_order: MakeOrder
):
    answered, said = asyncio.Event(), asyncio.Event()

    async def speak_up(talk: Talk) -> None:
        await answered.wait()
        await talk.say(answer(b'{"call_sid": "CAstray"}'))
        said.set()
        await talk.until_gone()

    async with facing(says(PLACED, then=speak_up), says(PLACED)) as (handler, seen):
        await handler.send(claim(make_order()))
        answered.set()
        await said.wait()
        for _ in range(turns):  # of the loop, which may or may not have read it by then
            await asyncio.sleep(0)
        outcome = await handler.send(claim(make_order()))
    assert isinstance(outcome, Placed)
    assert outcome.call_sid == SID
    assert (seen.connections, len(seen.requests)) == (2, 2)


async def test_a_handler_that_went_away_between_two_orders_is_not_sent_the_next(
    make_order: MakeOrder,
):
    async with facing(says(PLACED)) as (handler, seen):
        await handler.send(claim(make_order()))
        await seen.leave()
        outcome = await handler.send(claim(make_order()))
    assert isinstance(outcome, NotSent)
    assert outcome.cause == "ConnectError"
    assert len(seen.requests) == 1


@pytest.mark.parametrize("half", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n{"])
async def test_an_order_cut_off_in_the_middle_leaves_nothing_for_the_next(
    half: bytes, make_order: MakeOrder
):
    waiting = asyncio.Event()

    async def wait(talk: Talk) -> None:
        waiting.set()
        await talk.until_gone()

    async with facing(says(half, then=wait), says(PLACED)) as (handler, seen):
        sending = asyncio.create_task(handler.send(claim(make_order())))
        await waiting.wait()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        assert isinstance(await handler.send(claim(make_order())), Placed)
    assert (seen.connections, len(seen.requests)) == (2, 2)


# The lease


class HandClock(SystemClock):
    """The machine's clock, moved forward by hand."""

    ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


@pytest.mark.parametrize("left_s", [-1.0, 0.0, LEASE_LEFT_S])
async def test_an_order_whose_lease_is_about_to_run_out_is_held_back(
    left_s: float, make_order: MakeOrder
):
    async with facing(says(PLACED), says(PLACED)) as (handler, seen):
        ends = SYSTEM_CLOCK.monotonic() + left_s
        outcome = await handler.send(claim(make_order(), good_until=ends))
        assert isinstance(outcome, NotSent)
        assert not outcome.evidence.request_left
        # The pool is none the worse for it; and the server has read what there was to read.
        assert isinstance(await handler.send(claim(make_order())), Placed)
    assert len(seen.requests) == 1
    assert seen.octets == len(seen.requests[0])


async def test_an_order_whose_lease_just_lasts_is_sent(make_order: MakeOrder):
    async with facing(says(PLACED)) as (handler, _):
        ends = SYSTEM_CLOCK.monotonic() + LEASE_LEFT_S + 5
        assert isinstance(await handler.send(claim(make_order(), good_until=ends)), Placed)


async def test_an_order_whose_lease_ran_out_while_connecting_is_held_back(
    make_order: MakeOrder, monkeypatch: pytest.MonkeyPatch
):
    clock, loop = HandClock(), asyncio.get_running_loop()
    find = loop.getaddrinfo

    async def find_late(*where: Any, **how: Any) -> Any:
        found = await find(*where, **how)
        clock.ahead_s += LEASE_S
        return found

    async with misbehaving_server(says(PLACED), says(PLACED)) as seen:
        told = profile(seen.url.replace("127.0.0.1", "localhost"))
        async with CallHandler(told, connections=1, clock=clock) as handler:
            claimed = claim(make_order())
            monkeypatch.setattr(loop, "getaddrinfo", find_late)
            outcome = await handler.send(claimed)
            monkeypatch.undo()
            assert isinstance(outcome, NotSent)
            assert outcome.cause == "the lease was about to run out"
            again = claim(make_order(), good_until=clock.monotonic() + LEASE_S)
            assert isinstance(await handler.send(again), Placed)
    assert len(seen.requests) == 1
    assert seen.octets == len(seen.requests[0])


async def test_an_order_whose_lease_ran_out_on_a_kept_connection_is_held_back(
    make_order: MakeOrder,
):
    async with facing(says(PLACED, requests=2), says(PLACED)) as (handler, seen):
        await handler.send(claim(make_order()))
        outcome = await handler.send(
            claim(make_order(), good_until=SYSTEM_CLOCK.monotonic() + LEASE_LEFT_S)
        )
        assert isinstance(outcome, NotSent)
    assert len(seen.requests) == 1
    assert seen.octets == len(seen.requests[0])


# What is said to the handler


async def test_the_headers_of_the_contract_go_with_every_order(make_order: MakeOrder):
    made = datetime(2040, 2, 1, tzinfo=UTC)
    order = make_order(created_at=made, expires_at=datetime(2040, 2, 3, 4, 5, 6, tzinfo=UTC))
    async with facing(says(PLACED)) as (handler, seen):
        await handler.send(claim(order, attempt=3))
    head = seen.head()
    assert seen.line() == "POST /order HTTP/1.1"
    assert head["content-type"] == "application/json"
    assert head["idempotency-key"] == f'"{order.order_id}"'
    assert head["x-order-attempt"] == "3"
    assert head["x-order-deadline"] == "2040-02-03T04:05:06Z"
    version, trace, span, flags = head["traceparent"].split("-")
    assert (version, flags) == ("00", "01")
    assert (len(trace), len(span)) == (32, 16)
    assert int(trace, 16)
    assert int(span, 16)


async def test_attempts_of_one_order_share_a_key_and_a_trace_but_not_a_span(make_order: MakeOrder):
    order = make_order()
    async with facing(says(PLACED, requests=2)) as (handler, seen):
        await handler.send(claim(order, attempt=1))
        await handler.send(claim(order, attempt=2))
    first, second = seen.head(0), seen.head(1)
    assert first["idempotency-key"] == second["idempotency-key"]
    assert first["traceparent"].split("-")[1] == second["traceparent"].split("-")[1]
    assert first["traceparent"].split("-")[2] != second["traceparent"].split("-")[2]
    assert seen.body(0) == seen.body(1)


async def test_the_body_says_what_the_contract_says_and_nothing_of_ours(make_order: MakeOrder):
    order = make_order(
        final_instructions="Order a pizza ünd say „hallo“.",
        gathered_details={"size": "large", "count": 2, "vegan": False},
        user_name="Ada",
        owner="acct-7",
        thread_id="t-9",
        metadata={"shop": "1"},
    )
    async with facing(says(PLACED)) as (handler, seen):
        await handler.send(claim(order))
    assert seen.body() == {
        "order_id": order.order_id,
        "target_phone_number": order.target_phone_number,
        "final_instructions": order.final_instructions,
        "gathered_details": order.gathered_details,
        "user_name": "Ada",
        "metadata": {"shop": "1"},
    }


async def test_a_handler_under_a_path_is_found_there(make_order: MakeOrder):
    lookup = answer(b'{"call_sid": "CA1"}')
    script = says(PLACED), says(lookup)
    async with facing(*script, path="/api/v1") as (handler, seen):
        assert isinstance(await handler.send(claim(make_order())), Placed)
    assert seen.line() == "POST /api/v1/order HTTP/1.1"


async def test_proxies_of_the_environment_are_ignored(
    make_order: MakeOrder, monkeypatch: pytest.MonkeyPatch
):
    async with misbehaving_server(says(PLACED)) as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv(name.lower(), proxy.url)
        async with facing(says(PLACED)) as (handler, seen):
            assert isinstance(await handler.send(claim(make_order())), Placed)
    assert proxy.connections == 0
    assert len(seen.requests) == 1


async def test_a_cookie_of_one_order_is_not_shown_with_the_next(make_order: MakeOrder):
    cookie = PLACED.replace(b"\r\n\r\n", b"\r\nSet-Cookie: who=ada; Path=/\r\n\r\n", 1)
    async with facing(says(cookie, requests=2)) as (handler, seen):
        await handler.send(claim(make_order()))
        await handler.send(claim(make_order()))
    assert "cookie" not in seen.head(1)


async def test_evidence_keeps_the_answer_for_a_person_to_read(make_order: MakeOrder):
    async with facing(says(answer(b"done\x00\xff", "500 Oh"))) as (handler, _):
        outcome = await handler.send(claim(make_order()))
    seen = outcome.evidence
    assert (seen.connected, seen.request_left, seen.answer_began) == (True, True, True)
    assert seen.status == 500
    assert seen.excerpt == "done \ufffd"


# The rehearsal handler

REHEARSED: dict[str, tuple[type[Outcome], int]] = {
    "busy": (Placed, 1),
    "no-answer": (Placed, 1),
    "refused": (Refused, 0),
    "too-many": (Busy, 0),
    "unavailable": (Busy, 0),
    "500-before": (NotSent, 0),
    "500-after": (Unanswered, 1),
    "hang-after": (Unanswered, 1),
    "reset-after": (Unanswered, 1),
    "half-body": (Unanswered, 1),
    "no-sid": (Unanswered, 1),
    "slow": (Placed, 1),
    "reset-before": (Unanswered, 0),
    "done-unrung": (Unanswered, 0),
}


def test_every_magic_number_is_rehearsed():
    assert set(REHEARSED) == set(NUMBER_OF)


@pytest.mark.parametrize("name", REHEARSED)
async def test_a_magic_number_brings_the_outcome_that_is_true(name: str, make_order: MakeOrder):
    kind, rings = REHEARSED[name]
    order = make_order(target_phone_number=NUMBER_OF[name])
    async with rehearsing(slow_s=0.01, hang_s=0.01) as (handler, carrier):
        outcome = await handler.send(claim(order))
    assert isinstance(outcome, kind)
    assert carrier.rings(order.order_id) == rings
    if isinstance(outcome, Placed):
        assert carrier.call_sids(order.order_id) == [outcome.call_sid]


async def test_a_handler_that_says_nothing_about_the_call_is_not_believed_to_have_failed_early(
    make_order: MakeOrder,
):
    order = make_order(target_phone_number=NUMBER_OF["500-before"])
    async with rehearsing(promises=Promises(problem_members=False)) as (handler, _):
        assert isinstance(await handler.send(claim(order)), Unanswered)


async def test_a_replay_names_the_call_of_the_first_ring(make_order: MakeOrder):
    order = make_order(target_phone_number=NUMBER_OF["reset-after"])
    async with rehearsing() as (handler, carrier):
        assert isinstance(await handler.send(claim(order)), Unanswered)
        outcome = await handler.send(claim(order, attempt=2))
        assert isinstance(outcome, Placed)
        assert carrier.call_sids(order.order_id) == [outcome.call_sid]


# Asking


async def test_a_lookup_tells_what_became_of_an_order(make_order: MakeOrder):
    rung = make_order(target_phone_number=NUMBER_OF["reset-after"])
    refused = make_order(target_phone_number=NUMBER_OF["refused"])
    async with rehearsing() as (handler, carrier):
        await handler.send(claim(rung))
        await handler.send(claim(refused))
        sids = tuple(carrier.call_sids(rung.order_id))
        assert (await handler.look_up(rung))[0] == Known(sids)
        assert isinstance((await handler.look_up(refused))[0], KnownRefused)
        finding, evidence = await handler.look_up(make_order())
    assert finding == Known(())
    assert evidence.status == 404


async def test_a_lookup_while_the_handler_is_at_work_cannot_tell(make_order: MakeOrder):
    order, working, go_on = make_order(), asyncio.Event(), asyncio.Event()

    async def sleep(_: float) -> None:
        working.set()
        await go_on.wait()

    async with rehearsing(accept_s=1, sleep=sleep) as (handler, _):
        sending = asyncio.create_task(handler.send(claim(order)))
        await working.wait()
        finding, _evidence = await handler.look_up(order)
        assert isinstance(finding, CannotTell)
        go_on.set()
        assert isinstance(await sending, Placed)


@pytest.mark.parametrize("what", UNANSWERED)
async def test_a_lookup_that_goes_wrong_cannot_tell(what: str, make_order: MakeOrder):
    read_s = SHORT_S if what in NEVER_ENDS else LONG_S
    connect_s = SHORT_S if what in NEVER_ENDS else 5.0
    async with facing(UNANSWERED[what], read_s=read_s, connect_s=connect_s) as (handler, seen):
        finding, _ = await handler.look_up(make_order())
    assert isinstance(finding, CannotTell)
    assert seen.connections == 1


async def test_a_lookup_at_a_closed_port_cannot_tell(make_order: MakeOrder):
    async with CallHandler(profile(f"http://127.0.0.1:{closed_port()}"), connections=1) as handler:
        finding, evidence = await handler.look_up(make_order())
    assert isinstance(finding, CannotTell)
    assert not evidence.connected
