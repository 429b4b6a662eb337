"""The report comes to a waiting conversation by itself, whoever is there when the answer comes."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from orchestrator.parked import Parked
from orchestrator.resumer import AT_ONCE, resuming
from orchestrator.thread_lock import alone
from orchestrator.workflow_manager import Turn, WorkflowManager, open_workflow_manager
from shared import answers as answers_module
from shared import keys
from shared.answers import Answers
from shared.ledger import Ledger
from shared.settings import Settings
from tests.conftest import eventually
from tests.fakes.processes import Running
from tests.integration.test_conversation import place, waiting

HOUR = 3600.0
SOON = 0.05
SOUP = "Order a soup from Chez Nous at +1 415 555 0100"

Orchestrator = Callable[..., Any]


@pytest.fixture
def orchestrator(settings: Settings, ledger: Ledger, redis: Redis) -> Orchestrator:
    """Run an orchestrator as `ringonce serve` does; its turns do not wait."""

    @asynccontextmanager
    async def run(
        *, sweep_s: float = HOUR, folder: Path = settings.data_dir
    ) -> AsyncIterator[WorkflowManager]:
        quick = settings.model_copy(update={"await_call_s": 0.0, "data_dir": folder})
        async with (
            Answers(redis) as answers,
            open_workflow_manager(quick, ledger, redis, answers=answers) as manager,
            resuming(manager, answers, sweep_s=sweep_s),
        ):
            yield manager

    return run


async def parked(redis: Redis) -> dict[str, str]:
    found: dict[str, str] = await redis.hgetall(keys.PARKED)  # type: ignore[misc]
    return found


def none_is_parked(redis: Redis) -> Callable[[], Awaitable[bool]]:
    async def none_is() -> bool:
        at_work = [key async for key in redis.scan_iter(match=keys.thread("*"))]
        return not at_work and not await redis.exists(keys.PARKED)

    return none_is


async def said(manager: WorkflowManager, turn: Turn) -> list[str]:
    """Return all that is saved of a conversation, without moving it on; nothing must be open."""
    snapshot, cut_off = await manager._standing(turn.thread_id)
    assert not cut_off
    assert not snapshot.interrupts
    return [str(message.content) for message in snapshot.values["messages"]]


async def test_the_report_is_in_the_conversation_without_anybody_asking(
    orchestrator: Orchestrator, ledger: Ledger, redis: Redis
):
    async with orchestrator() as manager:
        turn = await waiting(manager)
        assert await parked(redis) == {turn.order_id: turn.thread_id}
        await place(ledger, turn.order_id)
        await eventually(none_is_parked(redis))
        assert "call CA1" in (await said(manager, turn))[-1]
        seen = await manager.look_up(turn.thread_id)
        assert seen is not None
        assert (seen.kind, seen.call_state, seen.call_sid) == ("report", "PLACED", "CA1")


async def test_who_asks_how_it_is_after_the_report_came_by_itself_is_told_and_not_refused(
    orchestrator: Orchestrator, ledger: Ledger, redis: Redis
):
    async with orchestrator() as manager:
        turn = await waiting(manager)
        await place(ledger, turn.order_id)
        await eventually(none_is_parked(redis))
        told = await manager.continue_(turn.thread_id, "how is it?", turn.reply_to)
        assert (told.kind, told.call_sid) == ("report", "CA1")


@pytest.mark.parametrize("when", ["before the answer", "after the answer"])
async def test_a_conversation_whose_process_is_gone_is_found_at_the_next_start(
    orchestrator: Orchestrator, ledger: Ledger, redis: Redis, settings: Settings, when: str
):
    quick = settings.model_copy(update={"await_call_s": 0.0})
    async with open_workflow_manager(quick, ledger, redis) as manager:
        turn = await waiting(manager)
        if when == "after the answer":
            await place(ledger, turn.order_id)
    async with orchestrator() as manager:
        if when == "before the answer":
            await place(ledger, turn.order_id)
        await eventually(none_is_parked(redis))
        assert "call CA1" in (await said(manager, turn))[-1]


async def test_what_another_process_parked_and_left_is_found_by_a_later_sweep(
    orchestrator: Orchestrator, ledger: Ledger, redis: Redis, settings: Settings
):
    quick = settings.model_copy(update={"await_call_s": 0.0})
    async with orchestrator(sweep_s=SOON) as manager:
        async with open_workflow_manager(quick, ledger, redis) as other:
            turn = await waiting(other)
        await place(ledger, turn.order_id)
        await eventually(none_is_parked(redis))
        assert "call CA1" in (await said(manager, turn))[-1]


async def test_several_orchestrators_side_by_side_report_once(
    orchestrator: Orchestrator, ledger: Ledger, redis: Redis
):
    async with AsyncExitStack() as stack:
        crew = [await stack.enter_async_context(orchestrator(sweep_s=SOON)) for _ in range(3)]
        turns = [await waiting(crew[number % 3]) for number in range(6)]
        for number, turn in enumerate(turns):
            await place(ledger, turn.order_id, f"CA{number}")
        await eventually(none_is_parked(redis), within_s=60)
        for number, turn in enumerate(turns):
            words = await said(crew[0], turn)
            assert [f"call CA{number}" in one for one in words].count(True) == 1


async def test_an_answer_that_comes_while_the_conversation_is_at_work_is_not_lost(
    orchestrator: Orchestrator, ledger: Ledger, redis: Redis
):
    async with orchestrator(sweep_s=SOON) as manager:
        turn = await waiting(manager)
        async with alone(redis, turn.thread_id):
            await place(ledger, turn.order_id)
            other = await waiting(manager, SOUP)
            await place(ledger, other.order_id, "CA2")

            async def only_ours() -> bool:
                return await parked(redis) == {turn.order_id: turn.thread_id}

            await eventually(only_ours)
        await eventually(none_is_parked(redis))
        assert "call CA1" in (await said(manager, turn))[-1]


async def test_a_conversation_of_another_orchestrator_is_left_to_it(
    orchestrator: Orchestrator, ledger: Ledger, redis: Redis, tmp_path: Path
):
    elsewhere = tmp_path / "elsewhere"
    async with orchestrator(folder=elsewhere) as manager:
        turn = await waiting(manager)
    await place(ledger, turn.order_id)
    async with orchestrator(sweep_s=SOON) as manager:
        mine = await waiting(manager, SOUP)
        await place(ledger, mine.order_id, "CA2")

        async def only_the_others() -> bool:
            return await parked(redis) == {turn.order_id: turn.thread_id}

        await eventually(only_the_others)
    async with orchestrator(folder=elsewhere) as manager:
        await eventually(none_is_parked(redis))
        assert "call CA1" in (await said(manager, turn))[-1]


async def test_an_order_the_store_does_not_know_is_dropped_unless_it_is_about_to_be_handed_in(
    orchestrator: Orchestrator, redis: Redis
):
    entries = Parked(redis)
    await entries.add("ord_lost", "thr_1")
    await entries.add("ord_coming", "thr_2")
    async with alone(redis, "thr_2"), orchestrator(sweep_s=SOON):

        async def dropped() -> bool:
            return await parked(redis) == {"ord_coming": "thr_2"}

        await eventually(dropped)


async def test_a_conversation_that_cannot_be_moved_on_holds_up_no_other_and_is_tried_again(
    orchestrator: Orchestrator, ledger: Ledger, redis: Redis, monkeypatch: pytest.MonkeyPatch
):
    resume = WorkflowManager.resume
    tried = 0
    async with orchestrator(sweep_s=SOON) as manager:
        broken, whole = await waiting(manager), await waiting(manager, SOUP)

        async def breaks(manager: WorkflowManager, thread_id: str, order_id: str) -> Turn:
            nonlocal tried
            if thread_id == broken.thread_id:
                tried += 1
                raise RuntimeError("it does not work")
            return await resume(manager, thread_id, order_id)

        with monkeypatch.context() as patch:
            patch.setattr(WorkflowManager, "resume", breaks)
            await place(ledger, broken.order_id)
            await place(ledger, whole.order_id, "CA2")

            async def tried_again_and_the_other_done() -> bool:
                return tried > AT_ONCE and whole.order_id not in await parked(redis)

            await eventually(tried_again_and_the_other_done)
        await eventually(none_is_parked(redis))
        assert "call CA1" in (await said(manager, broken))[-1]


async def test_many_answers_at_once_are_all_reported(
    orchestrator: Orchestrator,
    ledger: Ledger,
    redis: Redis,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("orchestrator.parked._PAGE", 3)
    monkeypatch.setattr(answers_module, "_CHUNK", 2)
    quick = settings.model_copy(update={"await_call_s": 0.0})
    async with open_workflow_manager(quick, ledger, redis) as manager:
        turns = [await waiting(manager) for _ in range(10)]
        for turn in turns:
            await place(ledger, turn.order_id, f"CA-{turn.order_id}")
    async with orchestrator() as manager:
        await eventually(none_is_parked(redis), within_s=60)
        for turn in turns:
            assert f"call CA-{turn.order_id}" in (await said(manager, turn))[-1]


async def test_a_conversation_that_moved_on_elsewhere_is_waited_for_no_longer(
    settings: Settings, ledger: Ledger, redis: Redis
):
    quick = settings.model_copy(update={"await_call_s": 0.0})
    async with (
        Answers(redis) as answers,
        open_workflow_manager(quick, ledger, redis, answers=answers) as manager,
        resuming(manager, answers, sweep_s=SOON),
    ):
        turn = await waiting(manager)
        assert set(answers._expected) == {turn.order_id}
        await Parked(redis).remove(str(turn.order_id))

        async def nothing_expected() -> bool:
            return not answers._expected

        await eventually(nothing_expected)


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


@pytest.mark.parametrize("await_call_s", ["0", "60"], ids=["parked", "in the midst of a turn"])
async def test_a_server_that_is_killed_while_a_call_is_awaited_reports_it_after_its_restart(
    store_url: str, ledger: Ledger, redis: Redis, tmp_path: Path, await_call_s: str
):
    port = free_port()
    env = {
        "REDIS_URL": store_url,
        "RINGONCE_DATA_DIR": str(tmp_path / "data"),
        "RINGONCE_PORT": str(port),
        "RINGONCE_AWAIT_CALL_S": await_call_s,
        "RINGONCE_LOG_FORMAT": "json",
    }
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    url = f"http://127.0.0.1:{port}"
    first, second = None, None
    try:
        first = Running(("serve",), env, tmp_path / "one")
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=120) as client:
            await answering(first, client)
            task = "Order a pizza from Luigi's at +1 202 555 0123"
            asked = (await client.post("/chat", json={"message": task})).json()
            reply = {"thread_id": asked["thread_id"], "reply_to": asked["reply_to"]}
            yes = asyncio.create_task(client.post("/chat", json={"message": "yes", **reply}))

            async def handed_in() -> bool:
                return await ledger.progress(asked["order_id"]) is not None

            await eventually(handed_in)
            if await_call_s == "0":
                assert (await yes).json()["kind"] == "waiting"
            first.end()
            await asyncio.wait({yes})
            assert yes.exception() is None or await_call_s == "60"
            await redis.delete(keys.thread(asked["thread_id"]))  # the lock of the dead runs out
        await place(ledger, asked["order_id"])
        second = Running(("serve",), env, tmp_path / "two")
        await second.ready()
        await eventually(none_is_parked(redis), within_s=30)
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=120) as client:
            seen = (await client.get(f"/threads/{asked['thread_id']}")).json()
            assert (seen["kind"], seen["call_sid"]) == ("report", "CA1")
        assert "conversation.turn" in second.log, "it was moved on before anybody looked"
        second.signal(signal.SIGINT)
        assert await second.ended() == 130
        assert "Traceback" not in second.log
        assert "not_resumed" not in second.log
    finally:
        for running in (first, second):
            if running is not None:
                running.end()


async def answering(running: Running, client: httpx.AsyncClient) -> None:
    await running.ready()

    async def healthy() -> bool:
        try:
            return (await client.get("/healthz")).status_code == 200
        except httpx.TransportError:
            return False

    await eventually(healthy, within_s=30)
