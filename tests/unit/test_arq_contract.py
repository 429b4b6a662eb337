"""The worker stands on the inside of arq 0.28; another arq has to be looked at first."""

import inspect
import json
from datetime import timedelta
from importlib.metadata import version

import pytest
from arq import ArqRedis, Worker, func
from arq.jobs import deserialize_job_raw
from arq.worker import Function
from redis.asyncio import Redis

from dispatcher.attempt import Workshop
from dispatcher.call_handler import CallHandler
from dispatcher.worker import Dispatcher
from shared import keys
from shared.clock import from_epoch_ms
from shared.envelope import JOB_FUNCTION, json_bytes
from shared.ledger import Ledger
from shared.redis_pool import connection_pool
from shared.settings import Settings
from tests.conftest import MakeOrder

SIGNATURES = {
    "_poll_iteration": "(self) -> None",
    "start_jobs": "(self, job_ids: list[bytes]) -> None",
    "run_job": "(self, job_id: str, score: int) -> None",
    "close": "(self) -> None",
    "async_run": "(self) -> None",
    "heart_beat": "(self) -> None",
    "main": "(self) -> None",
    "handle_sig_wait_for_completion": "(self, signum: signal.Signals) -> None",
}
COROUTINES = set(SIGNATURES) - {"handle_sig_wait_for_completion"}
ATTRIBUTES = {
    "allow_pick_jobs",
    "tasks",
    "functions",
    "loop",
    "max_jobs",
    "jobs_complete",
    "jobs_failed",
    "jobs_retried",
    "health_check_key",
    "ctx",
}


def test_arq_is_the_one_whose_inside_we_know():
    assert version("arq").startswith("0.28.")


@pytest.mark.parametrize("method", SIGNATURES)
def test_a_method_we_override_or_call_has_the_signature_we_know(method: str):
    known = getattr(Worker, method)
    assert str(inspect.signature(known)).replace("'", "") == SIGNATURES[method]
    assert inspect.iscoroutinefunction(known) is (method in COROUTINES)


@pytest.mark.parametrize("method", ["_poll_iteration", "start_jobs", "run_job", "close"])
def test_what_we_override_arq_has_and_calls_itself(method: str):
    assert method in vars(Dispatcher)
    inside = inspect.getsource(Worker)
    assert f"self.{method}(" in inside


def test_what_we_replace_takes_what_arq_passes():
    for method in SIGNATURES:
        ours, theirs = getattr(Dispatcher, method), getattr(Worker, method)
        assert list(inspect.signature(ours).parameters) == list(
            inspect.signature(theirs).parameters
        )


def test_the_constructor_takes_what_we_pass():
    passed = {
        "functions",
        "redis_pool",
        "queue_name",
        "max_jobs",
        "job_timeout",
        "job_completion_wait",
        "poll_delay",
        "health_check_interval",
        "health_check_key",
        "job_serializer",
        "ctx",
    }
    assert passed <= set(inspect.signature(Worker).parameters)


async def test_a_worker_has_the_attributes_we_use(settings: Settings, ledger: Ledger):
    async with CallHandler(settings.profile, connections=1) as handler:
        shop = Workshop("w-1", ledger, handler, settings.policy, settings.lease_s)
        pool = ArqRedis(connection_pool(str(settings.redis_url), 1))
        worker = Dispatcher(shop, pool, ledger, settings=settings)
        try:
            assert {name for name in ATTRIBUTES if not hasattr(worker, name)} == set()
            assert worker.allow_pick_jobs is True
            assert worker.tasks == {}
            assert worker.health_check_key == keys.worker("w-1")
            assert worker.queue_name == keys.QUEUE
            assert worker._job_completion_wait >= settings.profile.attempt_limit_s
            assert (worker.jobs_complete, worker.jobs_failed, worker.jobs_retried) == (0, 0, 0)
            job = worker.functions[JOB_FUNCTION]
            assert isinstance(job, Function)
        finally:
            with pytest.warns(DeprecationWarning, match="aclose"):  # arq's own
                await worker.close()


def test_a_job_function_keeps_the_coroutine_it_was_given():
    async def look(ctx: object, order_id: str) -> str:
        return order_id

    assert func(look, name="look").coroutine is look


async def test_arq_reads_our_envelope_and_finds_nothing_in_it_but_the_order_id(
    redis: Redis, ledger: Ledger, make_order: MakeOrder
):
    order = make_order(user_name="Ada Lovelace", gathered_details={"size": "large"})
    await ledger.submit(order)
    envelope = await redis.get(keys.job(order.order_id))

    function, arguments, named, tries, enqueued_ms = deserialize_job_raw(
        envelope, deserializer=json.loads
    )
    assert function == JOB_FUNCTION
    assert list(arguments) == [order.order_id]
    assert named == {}
    assert not tries
    assert abs(from_epoch_ms(enqueued_ms) - order.created_at) < timedelta(hours=1)


async def test_an_order_stands_in_arqs_own_queue_at_its_due_time(
    redis: Redis, ledger: Ledger, make_order: MakeOrder
):
    order = make_order()
    await ledger.submit(order)
    progress = await ledger.progress(order.order_id)
    assert progress is not None
    assert progress.due_at is not None
    score = await redis.zscore(keys.QUEUE, order.order_id)
    assert from_epoch_ms(int(score)) == progress.due_at


def test_an_envelope_is_json_and_never_pickle():
    assert json_bytes({"a": ("ord_1",)}) == b'{"a":["ord_1"]}'
