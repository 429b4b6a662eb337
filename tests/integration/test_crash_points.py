"""Wherever a process dies between taking an order in and its last write: the end is told.

Each test stops one doer at one named point, as `kill -9` would, lets time pass, and lets others
finish. The rehearsal handler's count of rings is the only witness. That the points named here are
all there are is a test too: it fails when a step is added that nobody dies at.
"""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import pytest
from redis.asyncio import Redis

from dispatcher.attempt import Workshop
from dispatcher.call_handler import CallHandler
from dispatcher.recoverer import Recoverer
from dispatcher.rehearsal.behaviours import MAGIC_NUMBERS
from dispatcher.rehearsal.carrier import Carrier
from dispatcher.rehearsal.handler import Promises, RehearsalHandler
from dispatcher.rehearsal.server import rehearsal_server
from shared import keys
from shared.desk import Submission
from shared.ledger import Ledger
from shared.lifecycle import OrderState
from shared.order import CallOrder
from shared.progress import OrderProgress
from shared.register import Register
from shared.settings import Settings
from tests.conftest import NUMBER, MakeOrder, eventually
from tests.fakes.crash_points import (
    Fuse,
    FusedHandler,
    let_time_pass,
    mortal,
)

S = OrderState
NUMBER_OF: Final = {magic.name: magic.number for magic in MAGIC_NUMBERS} | {"answered": NUMBER}
KINDS: Final[dict[str, dict[str, object]]] = {
    "keyed": {"handler_honours_key": True},
    "lookup": {"handler_answers_lookup": True},
    "bare": {},
}
ASKABLE: Final = ("keyed", "lookup")

REQUEST: Final = (
    "connect_tcp.started",
    "connect_tcp.complete",
    "send_request_headers.started",
    "send_request_headers.complete",
    "send_request_body.started",
    "send_request_body.complete",
    "receive_response_headers.started",
    "receive_response_headers.complete",
    "receive_response_body.started",
    "receive_response_body.complete",
    "response_closed.started",
    "response_closed.complete",
)
ATTEMPT: Final = ("before claim", "after claim", *REQUEST, "before settle", "after settle")
SENT: Final = ATTEMPT.index("send_request_body.complete")
"""From here on the handler has the whole request, and rings."""
DOUBT: Final = {
    "keyed": (
        *("before look", "after look", "before progress", "after progress"),
        *("before resolve", "after resolve"),
    ),
    "lookup": (
        *("before look", "after look", "before progress", "after progress"),
        *("before hget", "after hget", *REQUEST, "before resolve", "after resolve"),
    ),
}
LEASE: Final = ("before look", "after look", "before recover", "after recover")
SUBMIT: Final = ("before submit", "after submit")


@dataclass
class Scene:
    """A store, a handler that counts, and those who live on."""

    kind: str
    url: str
    redis: Redis
    settings: Settings
    shop: Workshop
    carrier: Carrier

    @property
    def ledger(self) -> Ledger:
        return self.shop.ledger

    @property
    def recoverer(self) -> Recoverer:
        return Recoverer(self.shop, every_s=1.0)

    async def standing(self, order: CallOrder) -> OrderProgress:
        progress = await self.ledger.progress(order.order_id)
        assert progress is not None
        return progress

    async def taken(self, order: CallOrder) -> CallOrder:
        assert await self.ledger.submit(order) is Submission.ACCEPTED
        return order

    async def dies(
        self, at: str | None, work: Callable[[Workshop], Coroutine[Any, Any, object]]
    ) -> list[str]:
        """Let a worker of its own do `work` and die at a point; return the points it came by."""
        fuse = Fuse(at)
        handler = FusedHandler(self.settings.profile, connections=2)
        async with mortal(self.url, fuse, handler=handler) as doomed:
            shop = Workshop(
                "w-mortal",
                Ledger(doomed.redis),
                handler,
                self.settings.policy,
                self.shop.lease_s,
                Random(1),
            )
            if at is None:
                await work(shop)
            else:
                await fuse.kill(work(shop), socket_holder=doomed)
        return fuse.passed

    async def dies_attempting(self, order: CallOrder, at: str) -> None:
        """Let a worker die at a point of its attempt, when the handler has heard all it will."""
        rings = self.carrier.rings(order.order_id)
        await self.dies(at, lambda shop: shop.attempt(order.order_id))
        if ATTEMPT.index(at) >= SENT and rings == 0:

            async def rang() -> bool:
                return self.carrier.rings(order.order_id) == 1

            await eventually(rang)

    async def at_rest(self) -> None:
        """Let those who live on work until there is nothing left that anybody would do."""
        for _ in range(12):
            await let_time_pass(self.redis)
            await self.recoverer.look()
            for order_id in await self.ledger.redis.zrange(keys.QUEUE, 0, -1):
                await self.shop.attempt(order_id)
            if not any(
                [await self.redis.zcard(key) for key in (keys.QUEUE, keys.LEASES, keys.DOUBTS)]
            ):
                return
        pytest.fail("somebody is still at work")

    async def doubted(self, order: CallOrder) -> CallOrder:
        """Take an order in and leave it in doubt."""
        await self.taken(order)
        assert await self.shop.attempt(order.order_id) == "in_doubt"
        await let_time_pass(self.redis)
        return order

    def placed_truly(self, progress: OrderProgress) -> bool:
        sids = self.carrier.call_sids(progress.order_id)
        return progress.state is S.PLACED and [progress.call_sid] == sids


SetScene = Callable[..., Any]


@pytest.fixture
def scene(store_url: str, redis: Redis, settings: Settings) -> SetScene:
    @asynccontextmanager
    async def set_scene(kind: str) -> AsyncIterator[Scene]:
        carrier = Carrier()
        promises = Promises(keyed=kind == "keyed", lookup=kind == "lookup")
        async with rehearsal_server(RehearsalHandler(carrier, promises=promises)) as url:
            changed = {"call_handler_url": url, **KINDS[kind]}
            mine = Settings.model_validate({**settings.model_dump(), **changed})
            async with CallHandler(mine.profile, connections=4) as handler:
                shop = Workshop("w-living", Ledger(redis), handler, mine.policy, 120.0, Random(1))
                yield Scene(kind, store_url, redis, mine, shop, carrier)

    return set_scene


# An attempt


@pytest.mark.parametrize("kind", KINDS)
async def test_the_points_of_an_attempt_are_all_there_are(
    kind: str, scene: SetScene, make_order: MakeOrder
):
    async with scene(kind) as here:
        order = await here.taken(make_order())
        assert await here.dies(None, lambda shop: shop.attempt(order.order_id)) == [*ATTEMPT]


@pytest.mark.parametrize("at", ATTEMPT)
@pytest.mark.parametrize("kind", KINDS)
async def test_an_order_whose_worker_died_rings_once_or_is_a_doubt_that_only_a_person_can_clear(
    kind: str, at: str, scene: SetScene, make_order: MakeOrder
):
    async with scene(kind) as here:
        order = await here.taken(make_order())
        await here.dies_attempting(order, at)
        rung = int(ATTEMPT.index(at) >= SENT)
        assert here.carrier.rings(order.order_id) == rung
        await here.at_rest()
        progress = await here.standing(order)
        if kind == "bare" and at not in {"before claim", "after settle"}:
            assert progress.state is S.IN_DOUBT
            assert here.carrier.rings(order.order_id) == rung
            assert progress.unanswered == 1
        else:
            assert here.placed_truly(progress)
            assert progress.attempt == 1 + int(
                at not in {"before claim", "after settle"} and (kind == "keyed" or not rung)
            )
        assert here.carrier.count()["rung_twice"] == []


@pytest.mark.parametrize("at", ATTEMPT[1:-1])
@pytest.mark.parametrize("kind", ASKABLE)
async def test_an_order_whose_second_worker_died_too_is_placed_with_one_ring(
    kind: str, at: str, scene: SetScene, make_order: MakeOrder
):
    async with scene(kind) as here:
        order = await here.taken(make_order())
        await here.dies_attempting(order, "send_request_headers.complete")
        await let_time_pass(here.redis)
        await here.recoverer.look()
        await let_time_pass(here.redis)
        await here.recoverer.look()
        await here.dies_attempting(order, at)
        await here.at_rest()
        assert here.placed_truly(await here.standing(order))
        assert here.carrier.rings(order.order_id) == 1


@pytest.mark.parametrize("at", ["before settle", "after settle"])
@pytest.mark.parametrize(
    "behaviour",
    ["500-before", "500-after", "reset-before", "reset-after", "half-body", "no-sid", "refused"],
)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_bad_answer_that_a_dead_worker_kept_to_itself_makes_no_second_ring(
    *, kind: str, behaviour: str, at: str, scene: SetScene, make_order: MakeOrder
):
    async with scene(kind) as here:
        order = await here.taken(make_order(target_phone_number=NUMBER_OF[behaviour]))
        await here.dies(at, lambda shop: shop.attempt(order.order_id))
        if at == "before settle":
            await let_time_pass(here.redis)
            # A late wake-up: whoever finds the lease run out sends nothing.
            assert await here.shop.attempt(order.order_id) == "in_doubt"
        await here.at_rest()
        progress, rings = await here.standing(order), here.carrier.rings(order.order_id)
        if behaviour == "refused":
            assert rings == 0
            doubtful = kind == "bare" and at == "before settle"
            assert progress.state is (S.IN_DOUBT if doubtful else S.REFUSED)
        elif kind == "bare" and (behaviour != "500-before" or at == "before settle"):
            assert progress.state is S.IN_DOUBT
            assert rings == int(behaviour not in {"500-before", "reset-before"})
        else:
            assert here.placed_truly(progress)


# Those who put right what a death left behind


@pytest.mark.parametrize("kind", ASKABLE)
async def test_the_points_of_clearing_a_doubt_are_all_there_are(
    kind: str, scene: SetScene, make_order: MakeOrder
):
    async with scene(kind) as here:
        await here.doubted(make_order(target_phone_number=NUMBER_OF["reset-after"]))
        passed = await here.dies(None, lambda shop: Recoverer(shop, 1.0).look())
        assert passed == [*DOUBT[kind]]


@pytest.mark.parametrize("behaviour", ["reset-after", "reset-before"])
@pytest.mark.parametrize(("kind", "at"), [(kind, at) for kind in ASKABLE for at in DOUBT[kind]])
async def test_a_doubt_outlives_whoever_died_clearing_it_and_is_cleared_with_one_ring(
    *, kind: str, at: str, behaviour: str, scene: SetScene, make_order: MakeOrder
):
    async with scene(kind) as here:
        order = await here.doubted(make_order(target_phone_number=NUMBER_OF[behaviour]))
        await here.dies(at, lambda shop: Recoverer(shop, 1.0).look())
        await here.at_rest()
        assert here.placed_truly(await here.standing(order))
        assert here.carrier.rings(order.order_id) == 1


@pytest.mark.parametrize("at", LEASE)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_lost_lease_is_found_though_the_first_to_find_it_died(
    kind: str, at: str, scene: SetScene, make_order: MakeOrder
):
    async with scene(kind) as here:
        order = await here.taken(make_order())
        await here.dies_attempting(order, "before settle")
        await let_time_pass(here.redis)
        passed = await here.dies(at, lambda shop: Recoverer(shop, 1.0).look())
        assert passed == [*LEASE[: LEASE.index(at) + 1]]
        await here.at_rest()
        progress = await here.standing(order)
        assert progress.deaths == 1
        assert here.carrier.rings(order.order_id) == 1
        assert progress.state is S.IN_DOUBT if kind == "bare" else here.placed_truly(progress)


@pytest.mark.parametrize("at", ["before restore_job", "after restore_job"])
async def test_a_lost_job_is_put_back_though_the_first_to_do_it_died(
    at: str, scene: SetScene, make_order: MakeOrder
):
    async with scene("bare") as here:
        order = await here.taken(make_order())
        await here.redis.delete(keys.QUEUE, keys.WAKEUP, keys.job(order.order_id))
        await here.dies(at, lambda shop: Recoverer(shop, 1.0).restore_jobs())
        await here.at_rest()
        assert here.placed_truly(await here.standing(order))


# Handing in


@pytest.mark.parametrize("at", SUBMIT)
async def test_an_order_handed_in_again_after_a_death_is_one_order_and_one_ring(
    at: str, scene: SetScene, make_order: MakeOrder
):
    async with scene("bare") as here:
        order = make_order()
        passed = await here.dies(at, lambda shop: shop.ledger.submit(order))
        assert passed == [*SUBMIT[: SUBMIT.index(at) + 1]]
        again = await here.ledger.submit(order)
        executed = at == "after submit"
        assert again is (Submission.ALREADY_QUEUED if executed else Submission.ACCEPTED)
        await here.at_rest()
        assert [found.order_id for found in await Register(here.ledger).newest()] == [
            order.order_id
        ]
        assert here.placed_truly(await here.standing(order))
