"""What becomes of orders when their store dies, falls silent, is full, fails over, or forgets.

Whatever it does: nothing rings twice, nothing that was accepted is lost, no worker ends, and who
hands an order in is told the truth about it.
"""

import asyncio
import json
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
from redis import exceptions as redis_errors
from redis.asyncio import Redis

from dispatcher.rehearsal.carrier import Carrier
from dispatcher.rehearsal.handler import Promises, RehearsalHandler
from dispatcher.rehearsal.server import rehearsal_server
from orchestrator.app import create_app
from shared.desk import OrderNotAccepted, Submission
from shared.embedded_server import die_with_parent, server_program
from shared.ledger import Ledger
from shared.lifecycle import OrderState
from shared.order import CallOrder
from shared.redis_pool import ledger_client
from shared.register import Register
from shared.settings import BadSettings, Settings
from tests.conftest import MakeOrder, eventually
from tests.fakes.fault_proxy import fault_proxy
from tests.fakes.processes import Running, worker

QUICK: Final[dict[str, object]] = {
    "sweep_s": 0.1,
    "recover_s": 0.1,
    "backoff_cap_s": 0.2,
    "max_attempts": 1_000,
    "store_patience_s": 0.5,
}


class Server:
    """A server of the test's own, which it may kill and start again on the same files."""

    def __init__(self, folder: Path, *options: str) -> None:
        folder.mkdir()
        with socket.socket() as door:
            door.bind(("127.0.0.1", 0))
            self.port = int(door.getsockname()[1])
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220  (starting one does not block)
                [
                    server_program(),
                    *("--bind", "127.0.0.1", "--port", str(self.port)),
                    *("--dir", str(self._folder), "--save", ""),
                    *("--appendonly", "yes", "--appendfsync", "always"),
                    *("--maxmemory-policy", "noeviction", "--repl-diskless-sync-delay", "0"),
                    *self._options,
                ],
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent(),  # noqa: PLW1509  (calls nothing that takes a lock)
            )

        async def answers() -> bool:
            async with Redis.from_url(self.url) as probe:
                with suppress(redis_errors.RedisError):
                    return bool(await probe.ping())
            return False

        await eventually(answers)

    def pause(self) -> None:
        """Let it hear, and say nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


@asynccontextmanager
async def server(folder: Path, *options: str) -> AsyncIterator[tuple[Server, Redis, Ledger]]:
    """Run a server while the block lasts; the values are it, a patient client and a ledger."""
    running = Server(folder, *options)
    await running.start()
    redis = ledger_client(running.url, patience_s=12)
    try:
        yield running, redis, Ledger(redis)
    finally:
        await redis.aclose()
        running.kill()


@asynccontextmanager
async def client(url: str, *, patience_s: float = 0.3) -> AsyncIterator[Ledger]:
    """Give somebody a ledger at `url` who does not wait long."""
    redis = ledger_client(url, patience_s=patience_s)
    try:
        yield Ledger(redis)
    finally:
        await redis.aclose()


class Handler:
    """A call handler that promises nothing, and holds what it is sent until it is let go on."""

    def __init__(self) -> None:
        self.carrier = Carrier()
        self.reached = asyncio.Event()
        self.may_ring = asyncio.Event()
        self.url = ""

    async def sleep(self, _seconds: float) -> None:
        self.reached.set()
        await self.may_ring.wait()

    async def rang(self, rings: int) -> None:
        async def so_often() -> bool:
            return int(self.carrier.count()["total"]) >= rings

        await eventually(so_often, within_s=60)


@asynccontextmanager
async def handler() -> AsyncIterator[Handler]:
    here = Handler()
    promises = Promises(keyed=False, lookup=False, listing=False)
    told = RehearsalHandler(here.carrier, promises=promises, accept_s=1, sleep=here.sleep)
    async with rehearsal_server(told) as here.url:
        yield here


def placed(ledger: Ledger, orders: list[CallOrder]) -> Callable[[], Awaitable[bool]]:
    async def all_placed() -> bool:
        found = [await ledger.progress(order.order_id) for order in orders]
        return all(order is not None and order.state is OrderState.PLACED for order in found)

    return all_placed


async def each_rang_once(ledger: Ledger, here: Handler, orders: list[CallOrder]) -> None:
    """Wait until every order is placed, and see that each is the one call that was made for it."""
    await eventually(placed(ledger, orders), within_s=60)
    assert here.carrier.count()["orders"] == {order.order_id: 1 for order in orders}
    for order in orders:
        progress = await ledger.progress(order.order_id)
        assert progress is not None
        assert [progress.call_sid] == here.carrier.call_sids(order.order_id)


async def complains(alive: Running, words: str, times: int) -> None:
    """Wait until a worker has logged that the store is away, in these words, so many times."""

    async def complained() -> bool:
        lines = alive.log.splitlines()
        return sum("store.away" in line and words in line for line in lines) >= times

    await eventually(complained, within_s=60)


# Faults


async def test_a_store_killed_and_started_again_loses_no_order_and_none_rings_twice(
    tmp_path: Path, make_order: MakeOrder
):
    orders = [make_order() for _ in range(24)]
    unsure: list[CallOrder] = []
    async with (
        server(tmp_path / "store") as (store, _, ledger),
        handler() as here,
        worker(store.url, here.url, tmp_path, **QUICK, max_jobs=3) as alive,
        client(store.url, patience_s=0.05) as hasty,
    ):
        here.may_ring.set()

        async def hand_in() -> None:
            for nth, order in enumerate(orders):
                await here.rang(nth - len(unsure) - 4)
                try:
                    await hasty.submit(order)
                except OrderNotAccepted:
                    unsure.append(order)

        handing_in = asyncio.create_task(hand_in())
        for rings in (3, 8, 13):
            await here.rang(rings)
            store.kill()
            await store.start()
        await handing_in
        for order in unsure:
            assert await ledger.submit(order) in {Submission.ACCEPTED, Submission.ALREADY_QUEUED}
        await each_rang_once(ledger, here, orders)
        assert alive.alive


async def test_an_outage_longer_than_all_patience_loses_no_order_and_none_rings_twice(
    tmp_path: Path, store_url: str, ledger: Ledger, make_order: MakeOrder
):
    sending, waiting, late = make_order(), make_order(), make_order()
    async with (
        handler() as here,
        fault_proxy(store_url) as proxy,
        worker(proxy.url, here.url, tmp_path, **QUICK, max_jobs=1) as alive,
        client(proxy.url) as hasty,
    ):
        await ledger.submit(sending)
        await here.reached.wait()
        await ledger.submit(waiting)
        await proxy.refuse()
        with pytest.raises(OrderNotAccepted, match="may or may not have been accepted") as told:
            await hasty.submit(late)
        assert not told.value.certain
        here.may_ring.set()
        await complains(alive, "", 3)
        assert here.carrier.count()["orders"] == {sending.order_id: 1}
        await proxy.accept()
        assert await hasty.submit(late) is Submission.ACCEPTED
        await each_rang_once(ledger, here, [sending, waiting, late])
        assert alive.alive


async def test_a_full_store_takes_nothing_new_and_finishes_what_it_has(
    tmp_path: Path, make_order: MakeOrder
):
    sending, waiting, late = make_order(), make_order(), make_order()
    async with (
        server(tmp_path / "store") as (store, redis, ledger),
        handler() as here,
        worker(store.url, here.url, tmp_path, **QUICK, max_jobs=1) as alive,
    ):
        await ledger.submit(sending)
        await here.reached.wait()
        await ledger.submit(waiting)
        await redis.config_set("maxmemory", 1)
        with pytest.raises(OrderNotAccepted, match="was not accepted: the store is full") as told:
            await ledger.submit(late)
        assert told.value.certain
        assert await ledger.progress(late.order_id) is None
        await complains(alive, "used memory", 1)  # its sign of life does not fit in any more
        here.may_ring.set()
        await each_rang_once(ledger, here, [sending, waiting])
        await redis.config_set("maxmemory", 0)
        assert await ledger.submit(late) is Submission.ACCEPTED
        await each_rang_once(ledger, here, [sending, waiting, late])
        assert alive.alive


async def test_a_store_that_refuses_to_write_is_waited_for_with_the_answer_in_hand(
    tmp_path: Path, make_order: MakeOrder
):
    sending, late = make_order(), make_order()
    async with (
        server(tmp_path / "store") as (store, redis, ledger),
        handler() as here,
        worker(store.url, here.url, tmp_path, **QUICK, max_jobs=1) as alive,
    ):
        await ledger.submit(sending)
        await here.reached.wait()
        await redis.config_set("min-replicas-to-write", 1)
        with pytest.raises(OrderNotAccepted, match="was not accepted") as told:
            await ledger.submit(late)
        assert told.value.certain
        here.may_ring.set()
        await complains(alive, "NOREPLICAS", 2)
        await redis.config_set("min-replicas-to-write", 0)
        assert await ledger.submit(late) is Submission.ACCEPTED
        await each_rang_once(ledger, here, [sending, late])
        assert alive.alive


async def test_a_failover_loses_no_order_and_none_rings_twice(
    tmp_path: Path, make_order: MakeOrder
):
    sending, waiting, late = make_order(), make_order(), make_order()
    async with (
        server(tmp_path / "old") as (old, old_redis, old_ledger),
        server(tmp_path / "new") as (new, new_redis, new_ledger),
        handler() as here,
        fault_proxy(old.url) as proxy,
        worker(proxy.url, here.url, tmp_path, **QUICK, max_jobs=2) as alive,
        client(proxy.url) as hasty,
    ):
        await new_redis.replicaof("127.0.0.1", str(old.port))
        await old_ledger.submit(sending)
        await here.reached.wait()
        await old_ledger.submit(waiting)

        async def knows_both_are_sent() -> bool:
            await old_redis.wait(1, 1000)
            found = [
                await new_redis.hget(f"ringonce:order:{one.order_id}", "state")  # type: ignore[misc]
                for one in (sending, waiting)
            ]
            return found == ["SENDING", "SENDING"]

        await eventually(knows_both_are_sent)
        await new_redis.replicaof("NO", "ONE")
        await old_redis.replicaof("127.0.0.1", str(new.port))
        with pytest.raises(OrderNotAccepted, match="was not accepted: the store is read-") as told:
            await hasty.submit(late)
        assert told.value.certain
        here.may_ring.set()
        await here.rang(2)
        await complains(alive, "", 3)
        proxy._to = urlsplit(new.url)
        proxy.cut()
        assert await hasty.submit(late) is Submission.ACCEPTED
        await each_rang_once(new_ledger, here, [sending, waiting, late])
        assert alive.alive


async def test_a_worker_that_waits_when_its_store_becomes_a_replica_does_not_end(
    tmp_path: Path, make_order: MakeOrder
):
    order = make_order()
    async with (
        server(tmp_path / "store") as (store, redis, ledger),
        handler() as here,
        worker(store.url, here.url, tmp_path, **QUICK | {"sweep_s": 3}) as alive,
    ):
        here.may_ring.set()

        async def it_waits() -> bool:
            return int((await redis.info("clients"))["blocked_clients"]) == 1

        await eventually(it_waits)
        await redis.replicaof("127.0.0.1", "1")  # nobody is there
        await complains(alive, "UNBLOCKED", 1)
        await redis.replicaof("NO", "ONE")
        await ledger.submit(order)
        await each_rang_once(ledger, here, [order])
        assert alive.alive


async def test_scripts_that_are_flushed_again_and_again_cost_nothing(
    tmp_path: Path, store_url: str, redis: Redis, ledger: Ledger, make_order: MakeOrder
):
    orders = [make_order() for _ in range(30)]

    async def flush() -> None:
        while True:
            await redis.script_flush("SYNC")
            await asyncio.sleep(0)

    async with handler() as here, worker(store_url, here.url, tmp_path, **QUICK) as alive:
        here.may_ring.set()
        flushing = asyncio.create_task(flush())
        try:
            for order in orders:
                assert await ledger.submit(order) is Submission.ACCEPTED
            await each_rang_once(ledger, here, orders)
        finally:
            flushing.cancel()
        assert alive.alive


async def test_a_file_handed_in_to_a_full_store_is_refused_in_one_line(tmp_path: Path):
    async with server(tmp_path / "store") as (store, redis, ledger):
        await redis.config_set("maxmemory", 1)
        ended, said = await handed_in(tmp_path, store.url)
        assert ended == 3
        assert said == ["the order was not accepted: the store is full"]
        assert await Register(ledger).newest() == []


# Durability


@asynccontextmanager
async def durable(folder: Path, *options: str) -> AsyncIterator[tuple[Server, Redis, Ledger]]:
    async with server(folder, *options) as (store, redis, _):
        yield store, redis, Ledger(redis, durability="fsync")


@pytest.mark.parametrize("fsync", ["always", "everysec"])
async def test_an_order_counts_as_taken_in_when_it_is_on_disk(
    fsync: str, tmp_path: Path, make_order: MakeOrder
):
    async with durable(tmp_path / "store", "--appendfsync", fsync) as (_, redis, ledger):
        order = make_order()
        await ledger.check_durability()
        assert await ledger.submit(order) is Submission.ACCEPTED
        assert await ledger.submit(order) is Submission.ALREADY_QUEUED
        conflict = order.model_copy(update={"final_instructions": "Another wish."})
        assert await ledger.submit(conflict) is Submission.CONFLICT
        asked = (await redis.info("commandstats"))["cmdstat_waitaof"]
        assert asked["calls"] == 1 + 3


async def test_what_is_not_known_to_be_on_disk_is_not_said_to_be_however_often_it_is_asked(
    tmp_path: Path, make_order: MakeOrder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("shared.durability.FSYNC_WITHIN_S", 0.05)
    order = make_order()
    async with durable(tmp_path / "store", "--appendfsync", "no") as (store, redis, ledger):
        for _ in range(3):
            async with client(store.url) as another:  # which has written nothing before
                fresh = Ledger(another.redis, durability="fsync")
                with pytest.raises(OrderNotAccepted, match="in memory, but has not conf") as told:
                    await fresh.submit(order)
                assert not told.value.certain
        await redis.config_set("appendfsync", "always")
        assert await ledger.submit(order) is Submission.ALREADY_QUEUED
        assert len(await Register(ledger).newest()) == 1


async def test_a_connection_lost_while_the_disk_is_waited_for_confirms_nothing(
    tmp_path: Path, make_order: MakeOrder
):
    async with durable(tmp_path / "store", "--appendfsync", "no") as (_, redis, ledger):
        order = make_order()
        submitting = asyncio.create_task(ledger.submit(order))

        async def waiting_client() -> str | None:
            found = [one for one in await redis.client_list() if "b" in one["flags"]]
            return found[0]["id"] if found else None

        first = await eventually(waiting_client)
        await redis.client_kill_filter(_id=first)

        async def waits_on_another() -> bool:
            return await waiting_client() not in {None, first} or submitting.done()

        await eventually(waits_on_another)
        assert not submitting.done()
        await redis.config_set("appendfsync", "always")
        await redis.set("any", "write")
        assert await submitting is Submission.ALREADY_QUEUED


@pytest.mark.parametrize(
    "options",
    [("--appendonly", "no"), ("--rename-command", "WAITAOF", "")],
    ids=["without an append-only file", "older than Redis 7.2"],
)
async def test_a_store_that_cannot_confirm_is_found_out_before_anything_is_handed_in(
    options: tuple[str, ...], tmp_path: Path, make_order: MakeOrder, settings: Settings
):
    async with durable(tmp_path / "store", *options) as (store, _, ledger):
        with pytest.raises(BadSettings, match="RINGONCE_SUBMIT_DURABILITY"):
            await ledger.check_durability()
        with pytest.raises(OrderNotAccepted, match="in memory") as told:
            await ledger.submit(make_order())
        assert not told.value.certain

        changed = {"redis_url": store.url, "submit_durability": "fsync"}
        app = create_app(settings.model_copy(update=changed))
        with pytest.raises(BadSettings, match="or set it to memory"):
            async with app.router.lifespan_context(app):
                pytest.fail("the app was opened")

        ended, said = await handed_in(tmp_path, store.url, submit_durability="fsync")
        assert ended == 2
        assert "RINGONCE_SUBMIT_DURABILITY" in said[0]
        assert len(await Register(ledger).newest()) == 1


async def handed_in(folder: Path, store_url: str, **settings: str) -> tuple[int, list[str]]:
    """Hand one order in by the command line; return the exit code and what it complained."""
    wish = {"target_phone_number": "+12025550123", "final_instructions": "Order a soup."}
    file = folder / "orders.jsonl"
    file.write_text(json.dumps(wish) + "\n")
    where = folder / "command"
    where.mkdir()
    env = {"REDIS_URL": store_url, "COLUMNS": "200"}
    env |= {f"RINGONCE_{name.upper()}": value for name, value in settings.items()}
    command = Running(("orders", "submit", str(file)), env, where)
    try:
        return await command.ended(), command.log.splitlines()
    finally:
        command.end()


async def test_a_store_that_is_silent_is_waited_for_no_longer_than_one_that_refuses(
    tmp_path: Path, make_order: MakeOrder
):
    server = Server(tmp_path / "store")
    await server.start()
    redis = ledger_client(server.url, patience_s=1)
    try:
        ledger, order = Ledger(redis), make_order()
        await ledger.submit(make_order())
        server.pause()
        async with asyncio.timeout(60):  # two tries of 5 s; counted in tries it would be minutes
            with pytest.raises(OrderNotAccepted) as silent:
                await ledger.submit(order)
        assert not silent.value.certain
        server.resume()
        assert await ledger.submit(order) in {Submission.ACCEPTED, Submission.ALREADY_QUEUED}
    finally:
        server.resume()
        await redis.aclose()
        server.kill()
