"""`ringonce chaos`: it keeps its promises on small runs, and would notice if they were broken."""

import asyncio
import json
import runpy
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from dispatcher.chaos import wrong_clock
from dispatcher.chaos.faults import FAULTS, named
from dispatcher.chaos.fleet import free_ports
from dispatcher.chaos.invariants import Ending, judge
from dispatcher.chaos.line import Line
from dispatcher.chaos.plan import Plan, draw_plan
from dispatcher.chaos.wishes import make_order, most_orders, number_of
from dispatcher.rehearsal.behaviours import MAGIC_NUMBERS
from shared.clock import SystemClock
from shared.lifecycle import OrderState
from shared.progress import Move, OrderProgress

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
WORKERS = ("worker-1", "worker-2", "worker-3")


class TestARun:
    @pytest.mark.parametrize("handler", ["keyed", "lookup", "bare"])
    def test_nobody_is_called_twice_and_no_order_is_lost(self, handler):
        ran = subprocess.run(
            [
                *(sys.executable, "-m", "ringonce", "chaos", "--json"),
                *("--orders", "60", "--seed", "7", "--handler", handler),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        told = json.loads(ran.stdout)
        breaches = {"rung_twice", "lost", "false_failed", "false_placed", "unfounded_doubt"}
        assert {told[name] for name in breaches} == {0}
        assert told["surprises"] == []
        assert sum(told["states"].values()) == 60
        assert handler == "bare" or told["in_doubt"] == 0

    @pytest.mark.parametrize("wrong", [["--faults", "earthquake"], ["--orders", "10000000"]])
    def test_what_cannot_be_run_is_said_before_anything_is_started(self, wrong):
        ran = subprocess.run(
            [sys.executable, "-m", "ringonce", "chaos", *wrong],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 2
        assert wrong[0] in ran.stderr


def plan(seed: int = 1, *, orders: int = 300, faults: str = "all") -> Plan:
    return draw_plan(seed, orders=orders, workers=WORKERS, faults=named(faults))


class TestThePlan:
    def test_the_same_seed_draws_the_same_plan(self):
        assert plan(5) == plan(5)
        assert plan(5).digest() == plan(5).digest()
        assert plan(5).digest() != plan(6).digest()

    def test_a_fault_left_out_leaves_the_others_as_they_were(self):
        some = plan(faults=",".join(FAULTS.keys() - {"kill", "same-order"}))
        assert some.blows == tuple(blow for blow in plan().blows if blow.fault != "kill")
        assert [w.again_after for w in some.wishes] == [w.again_after for w in plan().wishes]

    def test_every_fault_is_injected(self):
        assert plan().count().keys() == FAULTS.keys()
        assert all(times > 0 for times in plan().count().values())

    def test_none_is_an_undisturbed_run(self):
        calm = plan(faults="none")
        assert calm.count() == {}
        assert not calm.blows
        assert {(w.copies, w.again_after, w.talked, w.shift_s) for w in calm.wishes} == {
            (1, None, False, 0.0)
        }

    def test_every_order_is_handed_in_and_no_fault_waits_for_more(self):
        for seed in range(20):
            drawn = plan(seed, orders=60)
            assert sum(drawn.bursts) == 60
            assert all(1 <= blow.after <= 60 for blow in drawn.blows)
            assert all((w.again_after or 0) <= 60 for w in drawn.wishes)

    def test_an_unknown_fault_is_refused_by_name(self):
        with pytest.raises(ValueError, match="earthquake"):
            named("kill,earthquake")

    def test_each_order_has_a_number_of_its_own_that_is_not_rehearsed(self):
        numbers = {number_of(index) for index in range(10_000)}
        assert len(numbers) == 10_000 <= most_orders()
        assert numbers.isdisjoint(magic.number for magic in MAGIC_NUMBERS)

    def test_an_order_made_again_later_is_the_same_order(self):
        drawn = plan()
        wish = drawn.wishes[3]
        first, again = (make_order(drawn, wish, NOW + timedelta(minutes=m)) for m in (0, 9))
        assert (first.order_id, first.digest()) == (again.order_id, again.digest())
        assert first.created_at != again.created_at


_serial = count()


def ending(
    state: OrderState | None = OrderState.PLACED,
    *,
    sids: tuple[str, ...] = ("CA1",),
    call_sid: str | None = None,
    unanswered: int = 0,
    reason: str | None = "because",
    at_number: int | None = None,
    history: tuple[Move, ...] = (),
) -> Ending:
    order_id = f"order-{next(_serial):04d}"
    progress = None
    if state is not None:
        progress = OrderProgress(
            order_id=order_id,
            state=state,
            call_sid="CA1" if call_sid is None and state is OrderState.PLACED else call_sid,
            reason=reason,
            unanswered=unanswered,
            owner="o",
            created_at=NOW,
            moved_at=NOW,
            expires_at=NOW,
        )
    at_number = len(sids) if at_number is None else at_number
    return Ending(order_id, progress, sids, at_number, history)


def into_doubt(rule: str, **wire: object) -> tuple[Move, ...]:
    evidence = {"wire": wire} if wire else None
    move = Move(
        at=NOW, from_state="SENDING", to_state="IN_DOUBT", by="w", rule=rule, reason="r",
        evidence=evidence,
    )  # fmt: skip
    return (move,)


def broken(one: Ending, *, can_find_out: bool = True) -> set[str]:
    verdict = judge([ending(), one, ending(OrderState.REFUSED, sids=())], can_find_out=can_find_out)
    assert all(ids == (one.order_id,) for ids in verdict.broken.values())
    return set(verdict.broken)


_S = OrderState


class TestTheVerdict:
    def test_what_is_right_is_not_blamed(self):
        fine = [
            ending(),
            ending(_S.REFUSED, sids=()),
            ending(_S.DEAD, sids=()),
            ending(_S.EXPIRED, sids=()),
            ending(_S.CANCELLED, sids=()),
            ending(_S.DEAD, unanswered=1),  # it says that it may have rung
        ]
        verdict = judge(fine, can_find_out=True)
        assert verdict.broken == {}
        assert verdict.states == {
            "PLACED": 1, "REFUSED": 1, "DEAD": 2, "EXPIRED": 1, "CANCELLED": 1,
        }  # fmt: skip

    def test_two_rings_for_one_order_are_seen(self):
        assert broken(ending(sids=("CA1", "CA2"))) == {"rung_twice"}

    def test_two_orders_for_one_wish_are_seen(self):
        assert broken(ending(at_number=2)) == {"rung_twice"}

    def test_an_order_that_the_ledger_does_not_know_is_lost(self):
        assert broken(ending(None, sids=())) == {"lost"}
        assert broken(ending(None)) == {"lost"}

    @pytest.mark.parametrize("state", [_S.QUEUED, _S.RETRYABLE, _S.SENDING])
    def test_an_order_that_waits_for_ever_is_lost(self, state):
        assert broken(ending(state, sids=())) == {"lost"}

    def test_an_end_without_a_reason_is_lost(self):
        assert broken(ending(_S.DEAD, sids=(), reason=None)) == {"lost"}

    @pytest.mark.parametrize(
        "state", [_S.REFUSED, _S.CANCELLED, _S.EXPIRED, _S.DEAD, _S.RETRYABLE, _S.QUEUED]
    )
    def test_a_call_that_is_recorded_as_surely_not_placed_is_seen(self, state):
        assert broken(ending(state)) == {"false_failed"}

    @pytest.mark.parametrize("state", [_S.REFUSED, _S.CANCELLED, _S.EXPIRED])
    def test_a_final_no_is_false_even_if_an_attempt_is_unanswered(self, state):
        assert broken(ending(state, unanswered=1)) == {"false_failed"}

    def test_a_placed_call_that_nobody_heard_is_seen(self):
        assert broken(ending(sids=())) == {"false_placed"}

    def test_a_sid_that_the_carrier_does_not_know_is_seen(self):
        assert broken(ending(call_sid="CA9")) == {"false_placed"}

    def test_a_doubt_is_a_breach_where_the_handler_can_be_asked(self):
        one = ending(_S.IN_DOUBT, history=into_doubt("lease_ran_out"))
        assert broken(one, can_find_out=True) == {"unfounded_doubt"}
        assert broken(one, can_find_out=False) == set()
        assert judge([one], can_find_out=False).in_doubt == (one.order_id,)

    @pytest.mark.parametrize(
        ("history", "blamed"),
        [
            (into_doubt("lease_ran_out"), set()),
            (into_doubt("unanswered", request_left=True), set()),
            (into_doubt("unanswered", request_left=False), {"unfounded_doubt"}),
            ((), {"unfounded_doubt"}),
        ],
    )
    def test_a_doubt_needs_a_request_that_may_have_left(self, history, blamed):
        one = ending(_S.IN_DOUBT, sids=(), history=history)
        assert broken(one, can_find_out=False) == blamed


class Echo:
    """A store that notes what it carried out, and says so."""

    def __init__(self) -> None:
        self.carried_out: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while said := await reader.read(100):
            self.carried_out.append(said)
            writer.write(b"done " + said)
        writer.close()


class TestALine:
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Echo]:
        echo = Echo()
        async with await asyncio.start_unix_server(echo, tmp_path / "s"):
            yield echo

    @pytest.fixture
    async def line(self, store: Echo, tmp_path: Path) -> AsyncIterator[Line]:  # noqa: ARG002
        line = Line("one", free_ports(1)[0], tmp_path / "s")
        await line.open()
        yield line
        await line.refuse()

    async def ask(self, line: Line) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
        try:
            writer.write(b"ring")
            async with asyncio.timeout(0.5):
                return await reader.read(100)
        except ConnectionError:
            return b""
        finally:
            writer.transport.abort()

    async def test_undisturbed_it_passes_everything_on(self, line, store):
        assert await self.ask(line) == b"done ring"
        assert store.carried_out == [b"ring"]

    async def test_cut_before_nothing_is_carried_out(self, line, store):
        line.fault = "cut-before"
        assert await self.ask(line) == b""
        assert store.carried_out == []

    async def test_cut_after_it_is_carried_out_and_nobody_hears_of_it(self, line, store):
        line.fault = "cut-after"
        assert await self.ask(line) == b""
        assert store.carried_out == [b"ring"]

    async def test_half_open_it_swallows_everything_and_stays_open(self, line, store):
        line.fault = "half-open"
        with pytest.raises(TimeoutError):
            await self.ask(line)
        assert store.carried_out == []
        line.fault = None
        assert await self.ask(line) == b"done ring"

    async def test_late_is_late_and_no_more(self, line):
        line.fault, line.delay_s = "delay", 0.1
        began = asyncio.get_running_loop().time()
        assert await self.ask(line) == b"done ring"
        assert asyncio.get_running_loop().time() - began >= 0.1

    async def test_refused_nobody_gets_in_until_it_is_open_again(self, line):
        await line.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", line.port)
        await line.open()
        assert await self.ask(line) == b"done ring"


def test_a_wrong_clock_is_wrong_about_the_time_of_day_only(monkeypatch):
    seen: list[tuple[datetime, float]] = []

    def run_module(name: str, **_: object) -> None:
        assert (name, sys.argv) == ("ringonce", ["ringonce", "worker"])
        seen.append((SystemClock().now(), SystemClock().monotonic()))

    monkeypatch.setattr(SystemClock, "now", SystemClock.now)  # put back afterwards
    monkeypatch.setattr(runpy, "run_module", run_module)
    monkeypatch.setattr(sys, "argv", ["wrong_clock", "-300", "worker"])
    right, monotonic = SystemClock().now(), SystemClock().monotonic()
    wrong_clock.main()
    [(wrong, still_monotonic)] = seen
    assert abs(right - timedelta(seconds=300) - wrong) < timedelta(seconds=5)
    assert 0 <= still_monotonic - monotonic < 5
