"""A handler that knows no order ids can still be asked: which calls went to that number since?"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from dispatcher.attempt import Workshop
from dispatcher.call_handler import CallHandler
from dispatcher.recoverer import Recoverer
from dispatcher.rehearsal.behaviours import MAGIC_NUMBERS
from dispatcher.rehearsal.carrier import Carrier
from dispatcher.rehearsal.handler import Promises, RehearsalHandler
from dispatcher.rehearsal.server import rehearsal_server
from shared.clock import SYSTEM_CLOCK, Clock, SystemClock
from shared.handler_profile import HandlerProfile
from shared.ledger import Ledger
from shared.lifecycle import OrderState, Policy
from shared.progress import OrderProgress
from tests.conftest import MakeOrder, eventually

NUMBER_OF = {magic.name: magic.number for magic in MAGIC_NUMBERS}
ANOTHER_OWNER = "somebody-else"


@asynccontextmanager
async def scene(
    ledger: Ledger, clock: Clock | None = None
) -> AsyncIterator[tuple[Workshop, Carrier]]:
    """A handler that promises only its list of calls, in which no call names its order."""
    carrier = Carrier(clock=clock or SYSTEM_CLOCK)
    promises = Promises(keyed=False, lookup=False, listing=True, problem_members=False)
    rehearsal = RehearsalHandler(carrier, promises=promises, hang_s=0.01)
    async with rehearsal_server(rehearsal) as url:
        profile = HandlerProfile.model_validate(
            {
                "url": url,
                "listing": {"order_id": None},
                "connect_timeout_s": 1,
                "read_timeout_s": 1,
                "quiet_period_s": 0.05,
            }
        )
        async with CallHandler(profile, connections=5) as handler:
            yield Workshop("w", ledger, handler, Policy(backoff_base_s=0.01), 20), carrier


async def until(shop: Workshop, order_id: str, *rules: str) -> OrderProgress:
    """Let the recoverer look, and the order be tried when it is due, until a rule has fired."""
    fired: set[str] = set()

    async def looked() -> OrderProgress | None:
        await Recoverer(shop, 1).look()
        progress = await shop.ledger.progress(order_id)
        assert progress is not None
        fired.add(str(progress.rule))
        if progress.state is OrderState.RETRYABLE and "found_unplaced" not in rules:
            await shop.attempt(order_id)
        return progress if fired & set(rules) else None

    found = await eventually(looked)
    assert isinstance(found, OrderProgress)
    return found


async def test_one_call_to_that_number_is_this_orders(ledger: Ledger, make_order: MakeOrder):
    async with scene(ledger) as (shop, carrier):
        order = make_order(target_phone_number=NUMBER_OF["no-sid"])
        await ledger.submit(order)
        assert await shop.attempt(order.order_id) == "in_doubt"
        progress = await until(shop, order.order_id, "found_placed")
        assert progress.state is OrderState.PLACED
        assert [progress.call_sid] == carrier.call_sids(order.order_id)


async def test_no_call_to_that_number_means_that_it_may_be_sent(
    ledger: Ledger, make_order: MakeOrder
):
    async with scene(ledger) as (shop, carrier):
        order = make_order(target_phone_number=NUMBER_OF["reset-before"])
        await ledger.submit(order)
        assert await shop.attempt(order.order_id) == "in_doubt"
        await until(shop, order.order_id, "found_unplaced")
        await shop.attempt(order.order_id)
        assert carrier.rings(order.order_id) == 1
        progress = await ledger.progress(order.order_id)
        assert progress is not None
        assert progress.state is OrderState.PLACED


async def test_two_calls_to_that_number_are_for_a_person(ledger: Ledger, make_order: MakeOrder):
    async with scene(ledger) as (shop, carrier):
        order = make_order(target_phone_number=NUMBER_OF["no-sid"])
        await ledger.submit(order)
        assert await shop.attempt(order.order_id) == "in_doubt"
        carrier.ring("ord_of_a_stranger", order.target_phone_number)
        progress = await until(shop, order.order_id, "unanswered")

        async def given_up() -> bool:
            await Recoverer(shop, 1).look()
            looked = await ledger.progress(order.order_id)
            return looked is not None and looked.reason == "2 calls would fit"

        await eventually(given_up)
        assert progress.state is OrderState.IN_DOUBT
        assert carrier.rings(order.order_id) == 1


async def test_a_call_that_is_another_orders_is_not_taken_for_this_ones(
    ledger: Ledger, make_order: MakeOrder
):
    """Else an order that never rang would be recorded as placed, and nobody would call."""
    number = NUMBER_OF["reset-before"]
    async with scene(ledger) as (shop, carrier):
        lost = make_order(target_phone_number=number)
        await ledger.submit(lost)
        assert await shop.attempt(lost.order_id) == "in_doubt"
        told = make_order(target_phone_number=number, owner=ANOTHER_OWNER)
        await ledger.submit(told)
        assert await shop.attempt(told.order_id) == "in_doubt"
        assert await shop.attempt(told.order_id) == "ended"
        await until(shop, told.order_id, "found_unplaced")
        await shop.attempt(told.order_id)
        assert carrier.rings(told.order_id) == 1

        await until(shop, lost.order_id, "found_unplaced", "placed")
        await shop.attempt(lost.order_id)
        assert carrier.rings(lost.order_id) == 1
        sids = [*carrier.call_sids(lost.order_id), *carrier.call_sids(told.order_id)]
        recorded = [await ledger.result(order.order_id) for order in (lost, told)]
        assert [result and result.call_sid for result in recorded] == sids


class HandlersClock(SystemClock):
    """A clock that is off by so much."""

    off_by = timedelta()

    def now(self) -> datetime:
        return super().now() + self.off_by


async def test_calls_from_long_before_the_order_was_made_are_not_its_own(
    ledger: Ledger, make_order: MakeOrder
):
    clock = HandlersClock()
    async with scene(ledger, clock) as (shop, carrier):
        number = NUMBER_OF["reset-before"]
        clock.off_by = -timedelta(days=1)
        carrier.ring("ord_of_yesterday", number)
        clock.off_by = timedelta()
        order = make_order(target_phone_number=number)
        await ledger.submit(order)
        assert await shop.attempt(order.order_id) == "in_doubt"
        await until(shop, order.order_id, "found_unplaced")
        assert carrier.rings(order.order_id) == 0


async def test_a_call_that_seems_older_than_its_order_is_still_its_own(
    ledger: Ledger, make_order: MakeOrder
):
    """The handler's clock is behind ours: asked since our time it would not name the call."""
    clock = HandlersClock()
    clock.off_by = -timedelta(minutes=5)
    async with scene(ledger, clock) as (shop, carrier):
        order = make_order(target_phone_number=NUMBER_OF["no-sid"])
        await ledger.submit(order)
        assert await shop.attempt(order.order_id) == "in_doubt"
        await until(shop, order.order_id, "found_placed")
        assert carrier.rings(order.order_id) == 1


async def test_a_call_is_nobodys_while_two_owners_orders_to_that_number_are_open(
    ledger: Ledger, make_order: MakeOrder
):
    """Either may be that call, and the wrong guess would ring somebody twice."""
    number = NUMBER_OF["no-sid"]
    async with scene(ledger) as (shop, carrier):
        orders = [make_order(target_phone_number=number, owner=owner) for owner in ("ann", "bob")]
        for order in orders:
            await ledger.submit(order)
            assert await shop.attempt(order.order_id) == "in_doubt"

        async def told() -> bool:
            await Recoverer(shop, 1).look()
            progress = [await ledger.progress(order.order_id) for order in orders]
            return all(one is not None and "open too" in str(one.reason) for one in progress)

        await eventually(told)
        assert [carrier.rings(order.order_id) for order in orders] == [1, 1]
