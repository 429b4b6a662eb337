"""The recoverer puts right what somebody's death, or a silent handler, left behind."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import repeat
from random import Random
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as StoreAway

from dispatcher.attempt import Workshop
from dispatcher.call_handler import CallHandler
from dispatcher.recoverer import Recoverer
from dispatcher.rehearsal.behaviours import MAGIC_NUMBERS
from dispatcher.rehearsal.carrier import Carrier
from dispatcher.rehearsal.handler import Promises, RehearsalHandler
from dispatcher.rehearsal.server import rehearsal_server
from shared import keys
from shared.claim import Claimed
from shared.handler_profile import HandlerProfile
from shared.ledger import Act, Ledger
from shared.lifecycle import OrderState, Policy
from shared.order import CallOrder
from shared.outcome import Placed
from shared.progress import OrderProgress, did_it_ring
from shared.register import Register
from shared.settings import Settings
from tests.conftest import MakeOrder, eventually

NUMBER_OF = {magic.name: magic.number for magic in MAGIC_NUMBERS}
SOON_S = 0.05
PROMISED: dict[str, dict[str, bool]] = {
    "keyed": {"handler_honours_key": True},
    "lookup": {"handler_answers_lookup": True},
    "bare": {},
}


@dataclass
class Scene:
    """A workshop, its recoverer, and the carrier that knows the truth."""

    shop: Workshop
    recoverer: Recoverer
    carrier: Carrier

    @property
    def ledger(self) -> Ledger:
        return self.shop.ledger

    async def taken(self, order: CallOrder) -> CallOrder:
        await self.ledger.submit(order)
        return order

    async def die_holding(self, order: CallOrder) -> Claimed:
        """Claim the order and be never heard of again."""
        mortal = replace(self.shop, name="w-dead", lease_s=SOON_S)

        async def claimed() -> Claimed | None:
            answer = await mortal.claim(order.order_id)
            return answer if isinstance(answer, Claimed) else None

        found = await eventually(claimed)
        assert isinstance(found, Claimed)
        return found

    async def progress(self, order: CallOrder) -> OrderProgress:
        progress = await self.ledger.progress(order.order_id)
        assert progress is not None
        return progress

    async def until(self, order: CallOrder, *states: OrderState) -> OrderProgress:
        """Let the recoverer look until the order stands in one of these states."""

        async def looked() -> OrderProgress | None:
            await self.recoverer.look()
            progress = await self.progress(order)
            return progress if progress.state in states else None

        found = await eventually(looked)
        assert isinstance(found, OrderProgress)
        return found

    def is_true(self, progress: OrderProgress) -> bool:
        return [progress.call_sid] == self.carrier.call_sids(progress.order_id)


SetScene = Callable[..., Any]


@pytest.fixture
def scene(ledger: Ledger, settings: Settings) -> SetScene:
    @asynccontextmanager
    async def set_scene(
        promised: str = "lookup", *, url: str | None = None, **how: Any
    ) -> AsyncIterator[Scene]:
        carrier = Carrier()
        promises = Promises(keyed=promised == "keyed", lookup=promised == "lookup")
        told = RehearsalHandler(carrier, promises=promises, hang_s=0.01, **how)
        async with rehearsal_server(told) as its_url:
            changed = {
                "call_handler_url": url or its_url,
                "connect_timeout_s": 1,
                "quiet_period_s": SOON_S,
                "backoff_base_s": SOON_S,
                "backoff_cap_s": SOON_S,
                **PROMISED[promised],
            }
            mine = Settings.model_validate({**settings.model_dump(), **changed})
            async with CallHandler(mine.profile, connections=10) as handler:
                shop = Workshop("w-1", ledger, handler, mine.policy, 120.0, Random(1))
                yield Scene(shop, Recoverer(shop, every_s=0.01), carrier)

    return set_scene


# Leases that ran out


@pytest.mark.parametrize("promised", PROMISED)
async def test_an_order_whose_worker_died_is_in_doubt_and_not_sent_by_the_one_who_finds_out(
    promised: str, scene: SetScene, make_order: MakeOrder, redis: Redis
):
    async with scene(promised) as here:
        order = await here.taken(make_order())
        await here.die_holding(order)

        async def recovered() -> bool:
            seen = await here.ledger.look(leases=10, doubts=0)
            await here.recoverer.recover_leases(seen.lost)
            return (await here.progress(order)).state is OrderState.IN_DOUBT

        await eventually(recovered)
        progress = await here.progress(order)
        assert (progress.rule, progress.unanswered, progress.deaths) == ("lease_ran_out", 1, 1)
        assert "may have rung" in did_it_ring(progress)
        asked_about = await redis.zscore(keys.DOUBTS, order.order_id)
        assert (asked_about is None) is (promised == "bare")
        assert here.carrier.count()["total"] == 0


async def test_an_order_whose_lease_still_lasts_is_left_alone(
    scene: SetScene, make_order: MakeOrder
):
    async with scene() as here:
        order = await here.taken(make_order())
        claimed = await here.shop.claim(order.order_id)
        assert isinstance(claimed, Claimed)
        await here.recoverer.look()
        assert await here.shop.attempt(order.order_id) == "held"
        assert (await here.progress(order)).state is OrderState.SENDING


@pytest.mark.parametrize("promised", PROMISED)
async def test_a_job_that_finds_its_order_under_a_lease_that_ran_out_sends_nothing(
    promised: str, scene: SetScene, make_order: MakeOrder
):
    async with scene(promised) as here:
        order = await here.taken(make_order())
        await here.die_holding(order)

        async def looked_at() -> str | None:
            word: str = await here.shop.attempt(order.order_id)
            return None if word == "held" else word

        assert await eventually(looked_at) == "in_doubt"
        assert (await here.progress(order)).state is OrderState.IN_DOUBT
        assert here.carrier.count()["total"] == 0


async def test_a_worker_that_comes_back_from_the_dead_with_the_answer_is_believed(
    scene: SetScene, make_order: MakeOrder
):
    async with scene("bare") as here:
        order = await here.taken(make_order())
        claimed = await here.die_holding(order)
        outcome = await here.shop.send(_unaware(claimed))
        assert isinstance(outcome, Placed)
        await here.until(order, OrderState.IN_DOUBT)
        decision = here.shop.decide(outcome, claimed.tries)
        await here.shop.settle(order.order_id, claimed.token, decision, outcome)
        progress = await here.progress(order)
        assert progress.state is OrderState.PLACED
        assert (progress.unanswered, progress.deaths) == (0, 0)
        assert here.is_true(progress)


async def test_a_worker_that_comes_back_after_another_attempt_is_not_believed(
    scene: SetScene, make_order: MakeOrder
):
    async with scene() as here:
        order = await here.taken(make_order())
        late = await here.die_holding(order)
        await here.until(order, OrderState.RETRYABLE)
        assert await here.shop.attempt(order.order_id) == "placed"
        decision = here.shop.decide(Placed("CAlate"), late.tries)
        word = await here.shop.settle(order.order_id, late.token, decision, Placed("CAlate"))
        assert word == Act.LOST
        assert here.is_true(await here.progress(order))


# Doubts about a handler that answers lookups


async def test_a_call_that_is_found_is_placed(scene: SetScene, make_order: MakeOrder):
    async with scene("lookup") as here:
        order = await here.taken(make_order(target_phone_number=NUMBER_OF["reset-after"]))
        assert await here.shop.attempt(order.order_id) == "in_doubt"
        progress = await here.until(order, OrderState.PLACED)
        assert progress.rule == "found_placed"
        assert here.is_true(progress)


async def test_an_order_that_was_never_seen_is_sent_again_and_rings_once(
    scene: SetScene, make_order: MakeOrder
):
    async with scene("lookup") as here:
        order = await here.taken(make_order())
        await here.die_holding(order)
        progress = await here.until(order, OrderState.RETRYABLE)
        assert (progress.rule, progress.unanswered) == ("found_unplaced", 0)
        assert await here.shop.attempt(order.order_id) == "placed"
        assert here.is_true(await here.progress(order))


async def test_never_seen_is_not_asked_before_the_quiet_period_is_over(
    scene: SetScene, make_order: MakeOrder, redis: Redis
):
    async with scene("lookup") as here:
        order = await here.taken(make_order())
        await here.die_holding(order)
        await here.until(order, OrderState.RETRYABLE)
        moves = await Register(here.ledger).history(order.order_id)
        doubted, cleared = (
            next(move.at for move in moves if move.rule == rule)
            for rule in ("lease_ran_out", "found_unplaced")
        )
        assert (cleared - doubted).total_seconds() >= SOON_S


async def test_an_order_the_handler_refused_is_refused(scene: SetScene, make_order: MakeOrder):
    async with scene("lookup") as here:
        order = await here.taken(make_order(target_phone_number=NUMBER_OF["done-unrung"]))
        assert await here.shop.attempt(order.order_id) == "in_doubt"
        assert (await here.until(order, OrderState.REFUSED)).rule == "found_refused"
        assert here.carrier.count()["total"] == 0


async def test_an_order_the_handler_is_still_at_work_on_is_asked_about_again(
    scene: SetScene, make_order: MakeOrder, redis: Redis
):
    at_work, go_on = asyncio.Event(), asyncio.Event()

    async def sleep(_: float) -> None:
        at_work.set()
        await go_on.wait()

    async with scene("lookup", accept_s=1, sleep=sleep) as here:
        order = await here.taken(make_order())
        sending = asyncio.create_task(here.shop.send(_unaware(await here.die_holding(order))))
        await at_work.wait()
        await here.until(order, OrderState.IN_DOUBT)

        async def told_to_wait() -> bool:
            await here.recoverer.look()
            return "in-progress" in str((await here.progress(order)).reason)

        await eventually(told_to_wait)
        assert (await here.progress(order)).state is OrderState.IN_DOUBT
        assert await redis.zscore(keys.DOUBTS, order.order_id) is not None
        go_on.set()
        assert isinstance(await sending, Placed)
        assert here.is_true(await here.until(order, OrderState.PLACED))


async def test_a_handler_that_cannot_be_reached_is_asked_again(
    scene: SetScene, make_order: MakeOrder, redis: Redis
):
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{door.getsockname()[1]}"
    async with scene("lookup", url=nobody) as here:
        order = await here.taken(make_order())
        await here.die_holding(order)

        async def asked() -> bool:
            await here.recoverer.look()
            return "could not be asked" in str((await here.progress(order)).reason)

        await eventually(asked)
        assert (await here.progress(order)).state is OrderState.IN_DOUBT
        assert await redis.zscore(keys.DOUBTS, order.order_id) is not None


# Doubts about a handler that honours the key


@pytest.mark.parametrize(
    ("number", "rings_before"), [("reset-after", 1), ("reset-before", 0), ("500-after", 1)]
)
async def test_the_same_key_is_sent_again_and_rings_once(
    number: str, rings_before: int, scene: SetScene, make_order: MakeOrder
):
    async with scene("keyed") as here:
        order = await here.taken(make_order(target_phone_number=NUMBER_OF[number]))
        assert await here.shop.attempt(order.order_id) == "in_doubt"
        assert here.carrier.rings(order.order_id) == rings_before
        assert (await here.until(order, OrderState.RETRYABLE)).rule == "same_key_again"

        async def placed() -> bool:
            word: str = await here.shop.attempt(order.order_id)
            return word == "placed"

        await eventually(placed)
        assert here.is_true(await here.progress(order))


# Doubts about a handler that promises nothing


@pytest.mark.parametrize("number", ["reset-after", "reset-before", "no-sid", "half-body"])
async def test_an_order_in_doubt_about_a_bare_handler_waits_for_a_person(
    number: str, scene: SetScene, make_order: MakeOrder, redis: Redis
):
    async with scene("bare") as here:
        order = await here.taken(make_order(target_phone_number=NUMBER_OF[number]))
        assert await here.shop.attempt(order.order_id) == "in_doubt"
        rings = here.carrier.rings(order.order_id)
        await here.recoverer.look()
        assert await redis.zscore(keys.DOUBTS, order.order_id) is None
        assert await redis.zscore(keys.QUEUE, order.order_id) is None
        assert await here.shop.attempt(order.order_id) == "ended"
        assert (await here.progress(order)).state is OrderState.IN_DOUBT
        assert here.carrier.rings(order.order_id) == rings


async def test_a_doubt_from_when_the_handler_promised_more_is_not_sent_again(
    scene: SetScene, make_order: MakeOrder, redis: Redis
):
    async with scene("bare") as here:
        order = await here.taken(make_order(target_phone_number=NUMBER_OF["reset-after"]))
        assert await here.shop.attempt(order.order_id) == "in_doubt"
        await redis.zadd(keys.DOUBTS, {order.order_id: 0})
        await here.recoverer.look()
        await here.shop.attempt(order.order_id)
        assert (await here.progress(order)).state is OrderState.IN_DOUBT
        assert here.carrier.rings(order.order_id) == 1


async def test_another_order_to_the_same_number_waits_until_a_person_has_cleared_the_doubt(
    scene: SetScene, make_order: MakeOrder
):
    async with scene("bare") as here:
        doubted = await here.taken(make_order())
        await here.die_holding(doubted)
        await here.until(doubted, OrderState.IN_DOUBT)
        other = await here.taken(make_order())
        assert await here.shop.attempt(other.order_id) == "fenced"
        assert (await here.progress(other)).waits_for == doubted.order_id
        await here.ledger.resolve(doubted.order_id, call_sid="CAheard", by="ada", why="It rang.")

        async def placed() -> bool:
            word: str = await here.shop.attempt(other.order_id)
            return word == "placed"

        await eventually(placed)
        assert here.carrier.count()["orders"] == {other.order_id: 1}


# Poison


@pytest.mark.parametrize(("promised", "rang"), [("lookup", "No:"), ("keyed", "may have rung")])
async def test_an_order_that_three_workers_died_of_is_dead(
    promised: str, rang: str, scene: SetScene, make_order: MakeOrder
):
    async with scene(promised) as here:
        order = await here.taken(make_order())
        for _ in range(here.shop.policy.max_deaths - 1):
            await here.die_holding(order)
            await here.until(order, OrderState.RETRYABLE)
        await here.die_holding(order)
        progress = await here.until(order, OrderState.DEAD)
        assert (progress.rule, progress.deaths) == ("poison", 3)
        assert rang in did_it_ring(progress)
        assert here.carrier.count()["total"] == 0


# Lost jobs


async def test_an_order_that_fell_out_of_arqs_queue_is_put_back(
    scene: SetScene, make_order: MakeOrder, redis: Redis
):
    async with scene() as here:
        order = await here.taken(make_order())
        await redis.delete(keys.QUEUE, keys.WAKEUP, keys.job(order.order_id))
        await here.recoverer.look()
        assert await redis.zscore(keys.QUEUE, order.order_id) is not None
        assert await redis.get(keys.job(order.order_id)) is not None
        assert await redis.lrange(keys.WAKEUP, 0, -1) == [order.order_id]  # type: ignore[misc]
        assert await here.shop.attempt(order.order_id) == "placed"


async def test_what_is_in_order_is_not_touched(
    scene: SetScene, make_order: MakeOrder, redis: Redis
):
    async with scene() as here:
        order = await here.taken(make_order())
        due = await redis.zscore(keys.QUEUE, order.order_id)
        await redis.delete(keys.WAKEUP)
        await here.recoverer.look()
        assert await redis.zscore(keys.QUEUE, order.order_id) == due
        assert await redis.llen(keys.WAKEUP) == 0  # type: ignore[misc]


async def test_a_stranger_in_the_queue_hides_a_lost_order_only_until_it_is_looked_at(
    scene: SetScene, make_order: MakeOrder, redis: Redis
):
    async with scene() as here:
        order = await here.taken(make_order())
        await redis.delete(keys.QUEUE)
        await redis.zadd(keys.QUEUE, {"ord_stranger": 0})
        assert await here.shop.attempt("ord_stranger") == "unknown"
        await here.recoverer.look()
        assert await redis.zrange(keys.QUEUE, 0, -1) == [order.order_id]


# The loop


@dataclass(frozen=True)
class Stumbling(Recoverer):
    """Stumbles over each of these before it gets up."""

    over: Iterator[Exception] = field(kw_only=True)

    async def recover_leases(self, lost_ids: Sequence[str]) -> None:
        for trouble in self.over:
            raise trouble
        await super().recover_leases(lost_ids)


@asynccontextmanager
async def running(recoverer: Recoverer) -> AsyncIterator[asyncio.Task[None]]:
    loop = asyncio.create_task(recoverer.run())
    try:
        yield loop
    finally:
        while not loop.done():  # asyncio.wait_for, in redis-py, may lose one (cpython 86296)
            loop.cancel()
            await asyncio.wait({loop}, timeout=0.1)


async def test_nothing_that_fails_stops_the_loop(scene: SetScene, make_order: MakeOrder):
    async with scene("bare") as here:
        order = await here.taken(make_order())
        await here.die_holding(order)
        trouble = [StoreAway("away"), OSError("away"), ValueError("?"), RuntimeError("?")]
        async with running(Stumbling(here.shop, 0.01, over=iter(trouble))) as loop:

            async def in_doubt() -> bool:
                return (await here.progress(order)).state is OrderState.IN_DOUBT

            await eventually(in_doubt)
            assert not loop.done()


async def test_a_step_that_breaks_every_time_does_not_stop_the_others(
    scene: SetScene, make_order: MakeOrder, redis: Redis
):
    async with scene("bare") as here:
        order = await here.taken(make_order())
        await redis.delete(keys.QUEUE)
        async with running(Stumbling(here.shop, 0.01, over=repeat(ValueError("?")))):

            async def restored() -> bool:
                return await redis.zscore(keys.QUEUE, order.order_id) is not None

            await eventually(restored)


async def test_several_recoverers_at_once_come_to_one_answer(
    scene: SetScene, make_order: MakeOrder
):
    async with scene("lookup") as here:
        orders = [
            await here.taken(make_order(target_phone_number=NUMBER_OF["reset-after"], owner=owner))
            for owner in ("ada", "bob", "cleo", "dan", "eve")  # no fence stands between owners
        ]
        for order in orders:
            await here.shop.attempt(order.order_id)
        crew = [Recoverer(here.shop, 0.01) for _ in range(4)]

        async def all_known() -> bool:
            await asyncio.gather(*(recoverer.look() for recoverer in crew))
            found = [await here.progress(order) for order in orders]
            return all(progress.state is OrderState.PLACED for progress in found)

        await eventually(all_known, within_s=60)
        assert here.carrier.count()["orders"] == {order.order_id: 1 for order in orders}


def _unaware(claimed: Claimed) -> Claimed:
    """Return the claim of a worker that does not notice how late it is."""
    return replace(claimed, good_until=claimed.good_until + 3600)


async def test_an_order_in_doubt_that_was_cancelled_is_taken_back_at_a_handler_that_can(
    ledger: Ledger, make_order: MakeOrder
):
    """Known only by its key, it would otherwise wait for a person: sending is asking."""
    asked = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b" ")[0])
        body = b'{"status": "cancelled"}' if asked[-1] == b"DELETE" else b"done"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(body))
        writer.write(b"Connection: close\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        profile = HandlerProfile.model_validate(
            {"url": f"http://127.0.0.1:{port}", "honours_idempotency_key": True, "cancel": {}}
        )
        async with CallHandler(profile, connections=2) as handler:
            shop = Workshop("w", ledger, handler, Policy(backoff_base_s=0.01), 120)
            order = make_order()
            await ledger.submit(order)
            assert await shop.attempt(order.order_id) == "in_doubt"
            await ledger.cancel(order.order_id, by="ada", why="no appetite")

            async def taken_back() -> bool:
                await Recoverer(shop, 1).look()
                progress = await ledger.progress(order.order_id)
                return progress is not None and progress.state is OrderState.CANCELLED

            assert await eventually(taken_back)
    assert asked == [b"POST", b"DELETE"]
