"""One page lists every key: what the scripts touch is there, and what is there is true."""

import re
from datetime import timedelta
from importlib import resources

import pytest
from redis.asyncio import Redis

from shared import keys
from shared.claim import Claimed, Terms
from shared.clock import SYSTEM_CLOCK
from shared.ledger import Ledger
from shared.lifecycle import Decision, OrderState
from shared.scripts import source
from tests.conftest import MakeOrder

ID = "ord_0123456789"

TABLE = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (keys.__doc__ or "").splitlines()
    if line.startswith("| ") and not line.startswith(("| key", "|--"))
]
TYPE_OF = {row[0]: row[1] for row in TABLE}


def listed(key: str) -> str | None:
    """Return the row of the table that `key` belongs to."""
    for pattern in TYPE_OF:
        literal = re.sub(r"\\\{\w+\\\}", "[^:]+", re.escape(pattern))
        if re.fullmatch(literal, key):
            return pattern
    return None


def test_every_row_says_type_content_writer_reader_and_lifetime():
    assert len(TABLE) > 10
    for row in TABLE:
        assert len(row) == 6, row
        assert all(row), row


@pytest.mark.parametrize(
    ("built", "row"),
    [
        (keys.record(ID), "ringonce:order:{id}"),
        (keys.result(ID), "ringonce:result:{id}"),
        (keys.ORDERS, "ringonce:orders"),
        (keys.state("QUEUED"), "ringonce:state:{STATE}"),
        (keys.LEASES, "ringonce:leases"),
        (keys.DOUBTS, "ringonce:doubts"),
        (keys.fence("d"), "ringonce:fence:{destination}"),
        (keys.call("CA1"), "ringonce:call:{call_sid}"),
        (keys.WAKEUP, "ringonce:wakeup"),
        (keys.MOVES, "ringonce:moves"),
        (keys.thread("t"), "ringonce:thread:{thread_id}"),
        (keys.worker("w"), "ringonce:worker:{name}"),
        (keys.QUEUE, "arq:queue"),
        (keys.job(ID), "arq:job:{id}"),
    ],
)
def test_each_key_is_built_as_its_row_says(built: str, row: str):
    assert row in TYPE_OF
    assert listed(built) == row


def test_every_row_has_a_builder():
    builders = [keys.record, keys.result, keys.job, keys.state, keys.fence]
    builders += [keys.thread, keys.worker, keys.call]
    built = {listed(build("x")) for build in builders}
    built |= {
        listed(value)
        for name, value in vars(keys).items()
        if name.isupper() and isinstance(value, str) and not name.endswith("PREFIX")
    }
    assert built == TYPE_OF.keys()


def test_the_scripts_know_the_keys_by_the_names_given_here():
    script = source("claim")
    for table, names in {"KEY": keys.SHARED, "PREFIX": keys.PREFIXES}.items():
        handed = re.search(rf"^local {table} = {{(.*)}}$", script, re.MULTILINE)
        assert handed
        assert dict(re.findall(r"(\w+) = '([^']*)'", handed[1])) == names


def test_no_script_spells_a_key():
    for script in resources.files("shared.scripts").iterdir():
        if script.name.endswith(".lua"):
            spelt = re.findall(r"'((?:ringonce|arq):[^']*)'", script.read_text(encoding="utf-8"))
            assert not spelt, script.name


async def test_every_key_that_a_life_touches_is_in_the_table_with_its_type(
    redis: Redis, ledger: Ledger, make_order: MakeOrder
):
    touched: set[str] = set()
    async with redis.monitor() as monitor:
        await live_every_life(redis, ledger, make_order)
        types = {key: await redis.type(key) for key in await redis.keys("*")}
        await redis.echo("that was all")
        async for seen in monitor.listen():
            words = str(seen["command"]).split(" ")
            if words == ["ECHO", "that", "was", "all"]:
                break
            if seen["client_type"] == "lua":
                touched |= keys_in(words)

    unlisted = {key for key in touched | types.keys() if listed(key) is None}
    assert not unlisted
    for key, kind in types.items():
        assert kind == TYPE_OF[str(listed(key))], key
    by_others = {"ringonce:thread:{thread_id}", "ringonce:worker:{name}", "ringonce:parked"}
    assert {listed(key) for key in touched} == TYPE_OF.keys() - by_others


def keys_in(words: list[str]) -> set[str]:
    """Return every word of a command that has the shape of a key; values here have not."""
    return {word for word in words[1:] if re.fullmatch(r"[a-z]+:[a-zA-Z0-9:_-]+", word)}


async def live_every_life(redis: Redis, ledger: Ledger, make_order: MakeOrder) -> None:
    """Go through every script, and every state an order can be in."""
    seen: set[OrderState] = set()

    async def submit(**fields: object) -> str:
        order = make_order(**fields)
        await ledger.submit(order)
        seen.add(OrderState.QUEUED)
        return order.order_id

    async def claim(order_id: str, lease_s: float = 60) -> int:
        doubt = Decision(OrderState.IN_DOUBT, "lease_ran_out", "not heard of", wait_s=0)
        answer = await ledger.claim(order_id, Terms("w", lease_s, doubt, doubt))
        return answer.token if isinstance(answer, Claimed) else 0

    async def settle(order_id: str, to: OrderState, **how: object) -> None:
        seen.add(OrderState.SENDING)
        seen.add(to)
        decision = Decision(to, "rule", "reason", **how)  # type: ignore[arg-type]
        await ledger.settle(order_id, await claim(order_id), decision, evidence={}, by="w")

    await settle(await submit(), OrderState.PLACED, call_sid="CA1")
    await settle(await submit(), OrderState.REFUSED)
    retried = await submit()
    await settle(retried, OrderState.RETRYABLE, wait_s=3600)
    await redis.zrem(keys.QUEUE, retried)
    assert await ledger.restore_job(retried)
    dead = await submit()
    await settle(dead, OrderState.DEAD)
    await ledger.requeue(dead, by="me", why="again")
    doubtful = await submit()
    await settle(doubtful, OrderState.IN_DOUBT, wait_s=0)
    assert await claim(await submit()) == 0  # behind the fence
    await ledger.look(leases=1, doubts=1, put_off_s=1)
    await ledger.resolve(doubtful, call_sid="CA2", by="me", why="I asked")
    lost = await submit()
    await claim(lost, lease_s=0)
    assert await ledger.recover(lost, Decision(OrderState.IN_DOUBT, "r", "r", wait_s=0), by="w")
    await ledger.reconcile(lost, 1, Decision(OrderState.REFUSED, "r", "r"), evidence={}, by="w")
    await ledger.cancel(await submit(), by="me", why="no appetite")
    now = SYSTEM_CLOCK.now()
    past = {"created_at": now - timedelta(hours=2), "expires_at": now - timedelta(hours=1)}
    await claim(await submit(**past))
    await ledger.progress(lost)
    await ledger.announced(1, 0.01)
    seen |= {OrderState.CANCELLED, OrderState.EXPIRED}
    assert seen == set(OrderState)
