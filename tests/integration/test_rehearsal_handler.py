"""The rehearsal handler is the witness of the other tests: here the witness is examined."""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from dispatcher.rehearsal.behaviours import BEHAVIOURS, MAGIC_NUMBERS, Faults
from dispatcher.rehearsal.carrier import Carrier
from dispatcher.rehearsal.handler import Promises, RehearsalHandler
from dispatcher.rehearsal.server import BODY_MAX, rehearsal_server

NUMBER = "+14155550100"
NUMBER_OF = {magic.name: magic.number for magic in MAGIC_NUMBERS}
CALL_SID = r"^CA[0-9a-f]{32}$"
DEADLINE_S = 10.0


class LoudCarrier(Carrier):
    """A carrier one can wait for."""

    def __init__(self, journal: Path | None = None) -> None:
        super().__init__(journal)
        self.rung = asyncio.Event()

    def ring(self, order_id: str, number: str, **how: Any) -> str:
        sid = super().ring(order_id, number, **how)
        self.rung.set()
        return sid


class Gate:
    """A sleep that ends when the test says so; it is reached when so many are asleep."""

    def __init__(self, sleepers: int = 1) -> None:
        self._awaited = sleepers
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def sleep(self, _seconds: float) -> None:
        self._awaited -= 1
        if self._awaited == 0:
            self.reached.set()
        await self.opened.wait()


@asynccontextmanager
async def rehearsing(
    carrier: Carrier | None = None, **how: Any
) -> AsyncIterator[tuple[RehearsalHandler, httpx.AsyncClient]]:
    handler = RehearsalHandler(carrier or Carrier(), **how)
    async with (
        rehearsal_server(handler) as url,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=DEADLINE_S) as client,
    ):
        yield handler, client


def order(order_id: str = "ord_1", number: str = NUMBER, **more: Any) -> dict[str, Any]:
    return {
        "order_id": order_id,
        "target_phone_number": number,
        "final_instructions": "Order a large pepperoni.",
        "gathered_details": {"size": "large"},
    } | more


async def post(
    client: httpx.AsyncClient, body: dict[str, Any], *, key: str | None = None, attempt: int = 1
) -> httpx.Response:
    headers = {
        "Idempotency-Key": key or f'"{body["order_id"]}"',
        "X-Order-Attempt": str(attempt),
    }
    return await client.post("/order", json=body, headers=headers)


async def soon(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), DEADLINE_S)


async def whole_talk(client: httpx.AsyncClient, said: bytes, *, hang_up: bool = False) -> bytes:
    """Say raw bytes and return everything that is answered until the server closes."""
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    try:
        writer.write(said)
        await writer.drain()
        if hang_up:
            writer.write_eof()
        return await asyncio.wait_for(reader.read(), DEADLINE_S)
    finally:
        writer.close()
        await writer.wait_closed()


# One order, one ring


async def test_an_order_rings_once_and_its_sid_can_be_looked_up():
    async with rehearsing() as (handler, client):
        answered = await post(client, order())
        assert answered.status_code == 200
        assert answered.json() == {
            "status": "Call initiated",
            "call_sid": handler.carrier.call_sids("ord_1")[0],
        }
        looked_up = (await client.get("/order/ord_1")).json()
        assert (looked_up["status"], looked_up["call_sid"]) == (
            "placed",
            answered.json()["call_sid"],
        )
        assert (await client.get("/rings/ord_1")).json()["rings"] == 1


@pytest.mark.parametrize("key", ['"ord_1"', "ord_1"])
async def test_a_second_post_with_the_same_key_rings_once(key):
    async with rehearsing() as (handler, client):
        first = await post(client, order())
        again = await post(client, order(), key=key, attempt=2)
        assert again.content == first.content
        assert again.headers["Idempotency-Replayed"] == "true"
        assert "Idempotency-Replayed" not in first.headers
        assert handler.carrier.rings("ord_1") == 1


async def test_a_replay_may_write_the_same_body_in_another_order():
    async with rehearsing() as (handler, client):
        await post(client, order())
        again = await post(client, dict(reversed(order().items())))
        assert again.headers["Idempotency-Replayed"] == "true"
        assert handler.carrier.rings("ord_1") == 1


async def test_a_second_post_with_the_same_key_waits_for_the_first_and_gets_its_sid():
    gate = Gate()
    async with rehearsing(sleep=gate.sleep) as (handler, client):
        posts = [
            asyncio.create_task(post(client, order(number=NUMBER_OF["slow"]))) for _ in range(20)
        ]
        await soon(gate.reached)
        gate.opened.set()
        answers = await asyncio.gather(*posts)
        assert len({answer.json()["call_sid"] for answer in answers}) == 1
        assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 19
        assert handler.carrier.rings("ord_1") == 1


async def test_a_key_with_another_body_is_refused_and_tells_of_the_call_that_was_placed():
    async with rehearsing() as (handler, client):
        sid = (await post(client, order())).json()["call_sid"]
        other = await post(client, order(user_name="Ada"))
        assert other.status_code == 422
        assert (other.json()["call_placed"], other.json()["call_sid"]) == ("yes", sid)
        assert handler.carrier.rings("ord_1") == 1


async def test_a_key_with_another_body_is_refused_as_not_placed_when_the_first_never_rang():
    async with rehearsing() as (handler, client):
        await post(client, order(number=NUMBER_OF["500-before"]))
        other = await post(client, order())
        assert (other.status_code, other.json()["call_placed"]) == (422, "no")
        assert handler.carrier.rings("ord_1") == 0


async def test_without_keys_a_second_post_rings_again():
    async with rehearsing(promises=Promises(keyed=False)) as (_, client):
        first, again = await post(client, order()), await post(client, order())
        assert first.json()["call_sid"] != again.json()["call_sid"]
        assert (await client.get("/rings")).json() == {
            "total": 2,
            "orders": {"ord_1": 2},
            "rung_twice": ["ord_1"],
            "numbers_called": 1,
        }


# What may be asked afterwards


async def test_an_order_never_seen_is_told_apart_from_a_handler_without_lookup():
    async with rehearsing() as (_, client):
        never = await client.get("/order/ord_1")
        assert (never.status_code, never.json()["type"]) == (404, "urn:ringonce:never-seen")
    async with rehearsing(promises=Promises(lookup=False)) as (_, client):
        await post(client, order())
        nothing = await client.get("/order/ord_1")
        assert (nothing.status_code, nothing.text) == (404, "Not Found")
        assert nothing.headers["content-type"].startswith("text/plain")


async def test_an_order_the_carrier_still_works_on_is_in_progress():
    gate = Gate()
    async with rehearsing(accept_s=1, sleep=gate.sleep) as (_, client):
        posted = asyncio.create_task(post(client, order()))
        await soon(gate.reached)
        assert (await client.get("/order/ord_1")).json()["status"] == "in-progress"
        gate.opened.set()
        await posted
        assert (await client.get("/order/ord_1")).json()["status"] == "placed"


async def test_calls_are_listed_by_destination_and_time():
    async with rehearsing() as (handler, client):
        await post(client, order())
        await post(client, order("ord_2", NUMBER_OF["busy"]))
        listed = (await client.get("/orders", params={"to": NUMBER})).json()
        assert [(call["order_id"], call["to"]) for call in listed] == [("ord_1", NUMBER)]
        assert listed[0]["call_sid"] == handler.carrier.call_sids("ord_1")[0]
        later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        assert (await client.get(f"/orders?to={NUMBER}&since={later}")).json() == []
        assert (await client.get(f"/orders?to={NUMBER}&since=2020-01-01T00:00:00Z")).json()


@pytest.mark.parametrize("query", ["", "to=Luigi", f"to={NUMBER}&since=noon", f"since={NUMBER}"])
async def test_a_list_of_nothing_in_particular_is_refused(query):
    async with rehearsing() as (_, client):
        assert (await client.get(f"/orders?{query}")).status_code == 422


async def test_the_list_can_be_switched_off():
    async with rehearsing(promises=Promises(listing=False)) as (_, client):
        assert (await client.get("/orders", params={"to": NUMBER})).text == "Not Found"


async def test_the_other_pages_answer_get_and_nothing_else():
    async with rehearsing() as (_, client):
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        head = await client.head("/healthz")
        assert (head.status_code, head.content) == (200, b"")
        assert (await client.get("/rings/ord_x")).json() == {
            "order_id": "ord_x",
            "rings": 0,
            "call_sids": [],
        }
        assert (await client.post("/healthz")).headers["allow"] == "GET, HEAD"
        assert (await client.get("/order")).headers["allow"] == "POST"
        assert (await client.get("/nowhere")).status_code == 404


# The magic numbers


def test_every_magic_number_names_a_behaviour_and_is_listed_once():
    assert {magic.name for magic in MAGIC_NUMBERS} == BEHAVIOURS.keys() - {"answered"}
    assert len({magic.number for magic in MAGIC_NUMBERS}) == len(MAGIC_NUMBERS)


@pytest.mark.parametrize("name", ["busy", "no-answer"])
async def test_a_call_that_nobody_takes_was_still_placed(name):
    async with rehearsing() as (handler, client):
        assert (await post(client, order(number=NUMBER_OF[name]))).status_code == 200
        assert (await client.get("/order/ord_1")).json()["call_status"] == name
        assert handler.carrier.rings("ord_1") == 1


async def test_a_refused_order_never_rings_and_the_lookup_says_refused():
    async with rehearsing() as (handler, client):
        for attempt in (1, 2):
            refused = await post(client, order(number=NUMBER_OF["refused"]), attempt=attempt)
            assert refused.status_code == 422
            assert refused.headers["content-type"] == "application/problem+json"
            assert (refused.json()["call_placed"], refused.json()["retryable"]) == ("no", False)
        assert (await client.get("/order/ord_1")).json()["status"] == "refused"
        assert handler.carrier.rings("ord_1") == 0


@pytest.mark.parametrize(
    ("name", "statuses"),
    [
        ("too-many", [429, 429, 200]),
        ("unavailable", [503, 200]),
        ("500-before", [500, 200]),
    ],
)
@pytest.mark.parametrize("keyed", [True, False])
async def test_what_fails_before_ringing_is_answered_later_and_rings_once(name, statuses, keyed):
    async with rehearsing(promises=Promises(keyed=keyed)) as (handler, client):
        answers = [await post(client, order(number=NUMBER_OF[name])) for _ in statuses]
        assert [answer.status_code for answer in answers] == statuses
        for failed in answers[:-1]:
            assert (failed.json()["call_placed"], failed.json()["retryable"]) == ("no", True)
            if name != "500-before":
                assert failed.headers["retry-after"] == "1"
        assert handler.carrier.rings("ord_1") == 1


async def test_a_reset_before_ringing_leaves_no_trace_and_is_answered_later():
    async with rehearsing() as (handler, client):
        with pytest.raises(httpx.ReadError):
            await post(client, order(number=NUMBER_OF["reset-before"]))
        assert handler.carrier.rings("ord_1") == 0
        assert (await client.get("/order/ord_1")).status_code == 404
        assert (await post(client, order(number=NUMBER_OF["reset-before"]))).status_code == 200


async def test_done_is_said_though_nothing_rang():
    async with rehearsing() as (handler, client):
        done = await post(client, order(number=NUMBER_OF["done-unrung"]))
        assert (done.status_code, done.text) == (200, "done")
        assert handler.carrier.rings("ord_1") == 0
        assert (await client.get("/order/ord_1")).json()["status"] == "refused"


async def misbehaves(client: httpx.AsyncClient, name: str) -> httpx.Response | None:
    """Post once and make sure that this is the misbehaviour of that name."""
    broken = {
        "reset-after": httpx.ReadError,
        "half-body": httpx.RemoteProtocolError,
        "hang-after": httpx.RemoteProtocolError,  # it hangs up without a word in the end
    }
    if error := broken.get(name):
        with pytest.raises(error):
            await post(client, order(number=NUMBER_OF[name]))
        return None
    answer = await post(client, order(number=NUMBER_OF[name]))
    if name == "no-sid":
        assert (answer.status_code, answer.text) == (200, "done")
    else:
        assert (answer.status_code, answer.json()["call_placed"]) == (500, "unknown")
    return answer


AFTER_RINGING = ["500-after", "hang-after", "reset-after", "half-body", "no-sid"]


@pytest.mark.parametrize("name", AFTER_RINGING)
async def test_what_fails_after_ringing_is_replayed_under_its_key(name):
    async with rehearsing(hang_s=0.01) as (handler, client):
        await misbehaves(client, name)
        assert handler.carrier.rings("ord_1") == 1
        again = await post(client, order(number=NUMBER_OF[name]), attempt=2)
        assert again.json()["call_sid"] == handler.carrier.call_sids("ord_1")[0]
        assert again.headers["Idempotency-Replayed"] == "true"
        assert handler.carrier.rings("ord_1") == 1


@pytest.mark.parametrize("name", AFTER_RINGING)
async def test_what_fails_after_ringing_rings_and_fails_again_without_keys(name):
    async with rehearsing(promises=Promises(keyed=False), hang_s=0.01) as (handler, client):
        await misbehaves(client, name)
        await misbehaves(client, name)
        assert handler.carrier.rings("ord_1") == 2


async def test_half_a_body_announces_more_than_it_sends():
    async with rehearsing() as (_, client):
        body = json.dumps(order(number=NUMBER_OF["half-body"])).encode()
        said = await whole_talk(
            client,
            b"POST /order HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body),
        )
        head, _, sent = said.partition(b"\r\n\r\n")
        announced = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        assert 0 < len(sent) < announced


async def test_a_hanging_call_is_held_after_its_ring_and_others_are_served():
    carrier = LoudCarrier()
    async with rehearsing(carrier) as (_, client):
        held = asyncio.create_task(post(client, order(number=NUMBER_OF["hang-after"])))
        await soon(carrier.rung)
        assert (await client.get("/order/ord_1")).json()["status"] == "placed"
        assert not held.done()
        held.cancel()


async def test_a_slow_handler_knows_nothing_of_an_order_and_then_rings_for_nobody():
    gate, carrier = Gate(), LoudCarrier()
    async with rehearsing(carrier, sleep=gate.sleep) as (_, client):
        impatient = asyncio.create_task(post(client, order(number=NUMBER_OF["slow"])))
        await soon(gate.reached)
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        assert (await client.get("/order/ord_1")).status_code == 404
        assert carrier.rings("ord_1") == 0
        gate.opened.set()
        await soon(carrier.rung)
        assert (await client.get("/order/ord_1")).json()["status"] == "placed"


async def test_a_handler_in_the_wild_does_not_say_whether_the_call_was_placed():
    async with rehearsing(promises=Promises(problem_members=False)) as (_, client):
        for name in ("refused", "500-after"):
            answer = (await post(client, order(name, NUMBER_OF[name]))).json()
            assert answer.keys() == {"type", "title", "status", "detail"}


# Faults drawn by seed


async def drawn(seed: int, rates: dict[str, float]) -> list[int | str]:
    async with rehearsing(faults=Faults(rates), seed=seed) as (_, client):
        seen: list[int | str] = []
        for n in range(30):
            try:
                seen.append((await post(client, order(f"ord_{n}"))).status_code)
            except httpx.TransportError as broken:
                seen.append(type(broken).__name__)
        return seen


async def test_the_same_seed_draws_the_same_faults_and_another_seed_draws_others():
    rates = {"500-before": 0.2, "reset-after": 0.2, "half-body": 0.2}
    first = await drawn(7, rates)
    assert first == await drawn(7, dict(reversed(rates.items())))
    assert first != await drawn(8, rates)
    assert set(first) == {200, 500, "ReadError", "RemoteProtocolError"}


def test_faults_come_about_as_often_as_their_rates_and_anew_for_each_attempt():
    faults = Faults({"500-before": 0.1, "slow": 0.3})
    names = Counter(
        faults.draw(seed=1, order_id=f"ord_{n}", attempt=attempt)
        for n in range(2_000)
        for attempt in (1, 2)
    )
    assert names["500-before"] == pytest.approx(400, rel=0.2)
    assert names["slow"] == pytest.approx(1_200, rel=0.2)
    assert any(
        faults.draw(seed=1, order_id=f"ord_{n}", attempt=1)
        != faults.draw(seed=1, order_id=f"ord_{n}", attempt=2)
        for n in range(50)
    )


async def test_magic_numbers_are_not_subject_to_drawn_faults():
    async with rehearsing(faults=Faults({"500-before": 1.0})) as (_, client):
        assert (await post(client, order(number=NUMBER_OF["busy"]))).status_code == 200
        assert (await post(client, order("ord_2"))).status_code == 500


@pytest.mark.parametrize("rates", [{"typo": 0.1}, {"slow": 1.1}, {"slow": -0.1}])
def test_faults_that_make_no_sense_are_refused(rates):
    with pytest.raises(ValueError, match=r"behaviour|probabilities"):
        Faults(rates)


def test_fault_rates_together_are_at_most_one():
    Faults(dict.fromkeys(BEHAVIOURS, 1 / len(BEHAVIOURS)))
    with pytest.raises(ValueError, match="together"):
        Faults({"slow": 0.6, "half-body": 0.5})


# The journal


@pytest.mark.parametrize("torn", [b"", b'{"at":"2026-01-01T00:00:00+00:00","order_id":"ord_1"'])
async def test_rings_and_keys_survive_a_restart_and_a_torn_last_line(tmp_path, torn):
    journal = tmp_path / "rings.jsonl"
    with Carrier(journal) as carrier:
        async with rehearsing(carrier) as (_, client):
            first = await post(client, order())
    with journal.open("ab") as end:
        end.write(torn)
    with Carrier(journal) as carrier:
        async with rehearsing(carrier) as (_, client):
            again = await post(client, order())
            assert again.content == first.content
            assert again.headers["Idempotency-Replayed"] == "true"
            other = await post(client, order(user_name="Ada"))
            assert (other.status_code, other.json()["call_placed"]) == (422, "yes")
            assert (await client.get("/order/ord_1")).json()["status"] == "placed"
            assert len((await client.get("/orders", params={"to": NUMBER})).json()) == 1
            await post(client, order("ord_2"))
    with Carrier(journal) as carrier:  # what was written after the torn line is whole
        assert carrier.count()["orders"] == {"ord_1": 1, "ord_2": 1}


async def test_no_number_stands_in_the_journal(tmp_path):
    journal = tmp_path / "rings.jsonl"
    with Carrier(journal) as carrier:
        carrier.ring("ord_1", NUMBER)
    assert NUMBER.removeprefix("+") not in journal.read_text()


def test_a_ring_the_journal_does_not_take_does_not_count(tmp_path, monkeypatch):
    journal = tmp_path / "rings.jsonl"
    with Carrier(journal) as carrier:
        write = os.write
        monkeypatch.setattr("os.write", lambda fd, line: write(fd, line[:20]))
        with pytest.raises(OSError, match="only part"):
            carrier.ring("ord_1", NUMBER)
        monkeypatch.undo()
        carrier.ring("ord_2", NUMBER)
        assert carrier.rings("ord_1") == 0
    with Carrier(journal) as carrier:
        assert carrier.count()["orders"] == {"ord_2": 1}


SERVED = """
import asyncio, pathlib, sys
from dispatcher.rehearsal.carrier import Carrier
from dispatcher.rehearsal.handler import RehearsalHandler
from dispatcher.rehearsal.server import serve

handler = RehearsalHandler(Carrier(pathlib.Path(sys.argv[1])))
asyncio.run(serve(handler, announce=lambda url: print(url, flush=True)))
"""


@asynccontextmanager
async def served_elsewhere(
    journal: Path,
) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx.AsyncClient]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVED, str(journal), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        url = (await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)).decode().strip()
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=DEADLINE_S) as client:
            yield process, client
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_handler_that_is_killed_knows_after_its_restart_what_it_rang(tmp_path):
    journal, body = tmp_path / "rings.jsonl", order(number=NUMBER_OF["hang-after"])
    async with served_elsewhere(journal) as (process, client):
        held = asyncio.create_task(post(client, body))
        async with asyncio.timeout(DEADLINE_S):
            while not (await client.get("/rings")).json()["total"]:
                pass
        process.kill()
        with pytest.raises(httpx.TransportError):
            await held
    async with served_elsewhere(journal) as (_, client):
        again = await post(client, body, attempt=2)
        assert again.headers["Idempotency-Replayed"] == "true"
        assert (await client.get("/rings")).json()["orders"] == {"ord_1": 1}


# Bodies that are no orders


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"", "application/json", 400),
        (b"\xff\xfe\xfa", "application/json", 400),
        (b'{"order_id": NaN}', "application/json", 400),
        (b"[" * 10_000, "application/json", 400),
        (b"[" * 10_000 + b"]" * 10_000, "application/json", 400),
        (b'{"metadata":' * 10_000 + b"1" + b"}" * 10_000, "application/json", 400),
        (b"9" * 10_000, "application/json", 400),
        (b"[]", "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"{}", "", 415),
        (b"{}", "application/json; charset=utf-8", 422),
    ],
)
async def test_a_body_that_is_no_json_object_is_refused_and_the_server_lives(
    content, content_type, status
):
    async with rehearsing() as (handler, client):
        headers = {"Content-Type": content_type} if content_type else {}
        refused = await client.post("/order", content=content, headers=headers)
        # 3.12 and later read 10,000 brackets; then the fields are what is wrong.
        assert refused.status_code == status or (content[:1] == b"{" and len(content) > 10_000)
        assert refused.json()["call_placed"] == "no"
        assert (await post(client, order())).status_code == 200
        assert handler.carrier.count()["total"] == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("order_id", 7),
        ("order_id", ""),
        ("order_id", "\ud800"),
        ("target_phone_number", "2025550101"),
        ("target_phone_number", "+1 202 555 0101"),
        ("target_phone_number", None),
        ("final_instructions", " "),
        ("gathered_details", "large"),
        ("user_name", 1),
        ("callback_url", []),
        ("metadata", "x"),
    ],
)
async def test_an_ill_typed_field_is_named(field, value):
    async with rehearsing() as (handler, client):
        refused = await client.post(
            "/order",
            content=json.dumps(order() | {field: value}),
            headers={"Content-Type": "application/json"},
        )
        assert refused.status_code == 422
        assert field in refused.json()["detail"]
        assert handler.carrier.count()["total"] == 0


@pytest.mark.parametrize(
    "field", ["order_id", "target_phone_number", "final_instructions", "gathered_details"]
)
async def test_a_missing_field_is_named(field):
    async with rehearsing() as (_, client):
        body = order()
        del body[field]
        refused = await client.post("/order", json=body)
        assert (refused.status_code, refused.json()["detail"]) == (422, f"{field} is missing.")


async def test_unknown_fields_and_absent_headers_are_nobodys_business():
    async with rehearsing() as (handler, client):
        assert (await client.post("/order", json=order(mood="hungry"))).status_code == 200
        odd = {"X-Order-Attempt": "9" * 5_000, "Idempotency-Key": '""'}
        assert (await client.post("/order", json=order(), headers=odd)).status_code == 200
        assert handler.carrier.rings("ord_1") == 2  # no key, no promise


# HTTP


async def test_a_connection_is_kept_for_the_next_order():
    async with rehearsing() as (_, client):
        ports = set()
        for n in range(5):
            answer = await post(client, order(f"ord_{n}"))
            ports.add(answer.extensions["network_stream"].get_extra_info("client_addr"))
        assert len(ports) == 1


async def test_hundreds_of_connections_are_served_at_once():
    gate = Gate(sleepers=400)
    async with rehearsing(accept_s=1, sleep=gate.sleep) as (handler, client):
        bodies = [json.dumps(order(f"ord_{n}")).encode() for n in range(400)]
        talks = [
            asyncio.create_task(
                whole_talk(
                    client,
                    b"POST /order HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
                    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body),
                )
            )
            for body in bodies
        ]
        await soon(gate.reached)
        gate.opened.set()
        assert all(said.startswith(b"HTTP/1.1 200 ") for said in await asyncio.gather(*talks))
        assert handler.carrier.count()["total"] == 400


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"400"),
        (b"GET /healthz\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\n\r\n", b"400"),  # no Host
        (b"POST /order HTTP/1.1\r\nHost: h\r\nContent-Length: ten\r\n\r\n", b"400"),
        (b"POST /order HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 200_000, b"431"),
    ],
)
async def test_what_is_no_http_costs_its_own_connection_only(said, status):
    async with rehearsing() as (_, client):
        answer = await whole_talk(client, said)
        assert answer.split(b" ")[1] == status
        assert b"connection: close" in answer.lower()
        assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    "said", [b"", b"GET /heal", b"POST /order HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n{"]
)
async def test_a_client_that_hangs_up_in_the_middle_does_no_harm(said):
    async with rehearsing() as (handler, client):
        await whole_talk(client, said, hang_up=True)
        assert (await client.get("/healthz")).status_code == 200
        assert handler.carrier.count()["total"] == 0


async def test_a_chunked_body_of_a_mebibyte_is_taken():
    async with rehearsing() as (handler, client):
        bare = len(json.dumps(order(user_name="")).encode())
        body = json.dumps(order(user_name="x" * (BODY_MAX - bare))).encode()
        assert len(body) == BODY_MAX

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 100_000):
                yield body[start : start + 100_000]

        headers = {"Content-Type": "application/json"}
        taken = await client.post("/order", content=chunks(), headers=headers)
        assert taken.status_code == 200
        assert handler.carrier.rings("ord_1") == 1


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_larger_body_is_refused_and_the_server_lives(chunked):
    async with rehearsing() as (handler, client):
        body = b" " * (BODY_MAX + 1)

        async def chunks() -> AsyncIterator[bytes]:
            yield body

        refused = await client.post("/order", content=chunks() if chunked else body)
        assert (refused.status_code, refused.json()["call_placed"]) == (413, "no")
        assert (await post(client, order())).status_code == 200
        assert handler.carrier.count()["total"] == 1


async def test_a_client_that_asks_first_is_told_to_continue():
    async with rehearsing() as (_, client):
        body = json.dumps(order()).encode()
        head = (
            b"POST /order HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(head)
        go_on = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S)
        assert go_on.startswith(b"HTTP/1.1 100")
        writer.write(body)
        assert b"Call initiated" in await asyncio.wait_for(reader.read(), DEADLINE_S)
        writer.close()
        await writer.wait_closed()


async def test_a_handler_that_breaks_says_that_it_does_not_know(monkeypatch, caplog):
    async with rehearsing() as (handler, client):

        def broken(*_: object, **__: object) -> str:
            raise OSError("no space left")

        monkeypatch.setattr(handler.carrier, "ring", broken)
        answer = await post(client, order())
        assert (answer.status_code, answer.json()["call_placed"]) == (500, "unknown")
        assert "rehearsal.broken" in caplog.text
        assert NUMBER not in caplog.text
