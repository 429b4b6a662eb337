"""The arq worker: an envelope says "look at order X", and X is looked at. The rest is the ledger's.

`Dispatcher` replaces these of arq 0.28's methods, because arq's own ways ring twice or come late:

- `_poll_iteration`: waits to be woken instead of polling, claims all that it has room for in one
  step, and rides out a store that is away (arq polls, contends for each job by itself, and dies);
- `start_jobs`: no in-progress key, because the claim is the lease (arq's key runs out under a slow
  worker, and the job runs twice);
- `run_job`: no retries, results and payload expiry, because attempts and answers are the ledger's
  (arq drops a job past `max_tries` without a word, and its payload after a day);
- `handle_sig_wait_for_completion` and `close`: say what is still under way, and end quietly.

`tests/unit/test_arq_contract.py` fails when another arq has other methods.
"""

import asyncio
import contextlib
import gc
import math
import os
import secrets
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import structlog
from arq import ArqRedis, Worker, func
from redis.asyncio import Redis
from redis.exceptions import RedisError

from dispatcher.attempt import Workshop
from dispatcher.call_handler import CallHandler
from dispatcher.due_orders import AWAY_S, DueOrders
from dispatcher.recoverer import ASKED_AT_ONCE, Recoverer
from shared import keys
from shared.claim import NotClaimed
from shared.ending import ended
from shared.envelope import JOB_FUNCTION, json_bytes
from shared.ledger import Ledger
from shared.redis_pool import AWAY, connection_pool, ledger_client
from shared.script_runner import BATCH_MAX
from shared.settings import Settings

SIGN_OF_LIFE_S: Final = 5.0
LONGEST_BLOCK_S: Final = 2.0
"""No command blocks longer: a connection that says nothing for 5 s is given up."""
GARBAGE_AFTER: Final = 20_000
"""So many objects more than before are looked through for garbage; Python's own 700 come to a tenth
of a worker's time."""
_TAKING: Final = "(taking orders)"

log = structlog.get_logger(__name__)


async def run_worker(
    settings: Settings, *, announce: Callable[[str], object] | None = None
) -> None:
    """Dispatch orders until SIGTERM or SIGINT, then finish what is being sent and return.

    `settings.redis_url` must be set. `announce` is told the worker's name once it listens.
    """
    # What is imported stays, and need not be looked through for garbage forty times a second.
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER)
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
    url, patience_s = str(settings.redis_url), settings.store_patience_s
    redis, impatient = (ledger_client(url, patience_s=wait_s) for wait_s in (patience_s, 0))
    profile = settings.profile
    connections = settings.max_jobs + ASKED_AT_ONCE  # asking takes no order's place
    async with CallHandler(
        profile, connections=connections, secrets=settings.handler_secrets
    ) as handler:
        workshop = Workshop(
            name=name,
            ledger=Ledger(redis),
            handler=handler,
            policy=settings.policy,
            lease_s=settings.lease_s,
        )
        dispatcher = Dispatcher(
            workshop,
            ArqRedis(connection_pool(url, patience_s)),
            Ledger(impatient),
            settings=settings,
        )
        recoverer = Recoverer(workshop, settings.recover_s, settings.retention)
        beside = [asyncio.create_task(work) for work in (recoverer.run(), workshop.leases.keep())]
        if announce is not None:
            announce(name)
        log.info("worker.started", worker=name, handler=str(profile.url), jobs=settings.max_jobs)
        try:
            await dispatcher.async_run()
        except asyncio.CancelledError:
            # This is how arq ends its main task, after a signal, when the last job is done.
            pass
        finally:
            await ended(*beside)
            await dispatcher.close()
            await redis.aclose()
            await impatient.aclose()
            log.info("worker.stopped", worker=name)


async def lives_here(url: str) -> bool:
    """Say whether a worker on this machine gave a sign of life lately."""
    async with Redis.from_url(url, socket_timeout=SIGN_OF_LIFE_S) as redis:
        mine = keys.worker(f"{socket.gethostname()}-*")
        return any([True async for _ in redis.scan_iter(match=mine, count=1000)])


async def dispatch_order(ctx: dict[Any, Any], order_id: str) -> str:
    """The arq job. Return in a word what came of the attempt."""
    workshop: Workshop = ctx["workshop"]
    return await workshop.attempt(order_id)


class Dispatcher(Worker):
    """arq's worker with its own way of picking and running jobs."""

    def __init__(
        self, workshop: Workshop, pool: ArqRedis, queue: Ledger, *, settings: Settings
    ) -> None:
        """`queue` is where due orders are asked for; its client sends nothing again by itself."""
        longest_s = workshop.handler.profile.attempt_limit_s + settings.store_patience_s
        super().__init__(
            functions=[func(dispatch_order, name=JOB_FUNCTION)],
            redis_pool=pool,
            queue_name=keys.QUEUE,
            max_jobs=settings.max_jobs,
            job_timeout=longest_s,
            job_completion_wait=math.ceil(longest_s),
            poll_delay=0,
            health_check_interval=SIGN_OF_LIFE_S,
            health_check_key=keys.worker(workshop.name),
            job_serializer=json_bytes,
            ctx={"workshop": workshop},
        )
        self._workshop = workshop
        self._queue = queue
        self._due = DueOrders(queue, settings.store_patience_s)
        self._sweep_s = settings.sweep_s
        self._ask_at = 0.0
        self._listening: asyncio.Task[None] | None = None
        self._is_full = False
        self._stirred = asyncio.Event()

    async def _poll_iteration(self) -> None:
        """Take what is due, as soon as there is room, a wake-up, or it is time for a look."""
        try:
            self._stirred.clear()
            wait_s = self._ask_at - self._queue.clock.monotonic()
            self._is_full = len(self.tasks) >= self.max_jobs
            if not self.allow_pick_jobs:
                await self._end()
            elif self._is_full:
                await self._rest(self._sweep_s)
            elif wait_s <= 0:
                await self._taking()
            else:
                self._listen_for_more()
                await self._rest(wait_s)
            await self.heart_beat()
        except (RedisError, OSError) as error:
            # Full, or a replica since a moment ago: whatever it says, it is no reason to end.
            log.warning("store.away", error=str(error))
            await asyncio.sleep(AWAY_S)

    def _taking(self) -> "asyncio.Task[None]":
        """Take orders in a task among the others: a worker that is asked to end waits for it."""
        taking = self.tasks[_TAKING] = self.loop.create_task(self._take())
        taking.add_done_callback(partial(self._forget, _TAKING))
        return taking

    async def _take(self) -> None:
        """Claim what is due and start it; note when to ask again."""
        room = self.max_jobs - len(self.tasks) + 1  # this task is no order
        self._ask_at = math.inf  # until somebody says otherwise, be it before the answer is here
        due = await self._due.take(
            min(room, BATCH_MAX), self._workshop.terms, wanted=lambda: self.allow_pick_jobs
        )
        if due is None:
            return
        next_s = self._sweep_s if due.next_in_s is None else min(due.next_in_s, self._sweep_s)
        self._ask_at = min(self._ask_at, self._queue.clock.monotonic() + next_s)
        for order_id, answer in due.answers.items():
            if not isinstance(answer, NotClaimed):
                self._workshop.at_hand[order_id] = answer
            elif answer.why == "broken":
                log.error("claim.broke", order_id=order_id, error=answer.detail)
        await self.start_jobs([order_id.encode() for order_id in self._workshop.at_hand])

    def _listen_for_more(self) -> None:
        """Have somebody listen for orders that become due, however long it is until then."""
        if self._listening is None or self._listening.done():
            self._listening = self.loop.create_task(self._listen(self.max_jobs - len(self.tasks)))
            self._listening.add_done_callback(lambda _: self._stirred.set())

    async def _listen(self, room: int) -> None:
        """Hear of orders that became due. A hint: what it misses costs no more than a sweep."""
        try:
            if await self._queue.announced(room, LONGEST_BLOCK_S):
                self._ask_at = 0.0
        except (RedisError, OSError) as error:
            log.warning("store.away", error=str(error))
            await asyncio.sleep(AWAY_S)

    async def _rest(self, within_s: float) -> None:
        """Wait until something has changed, `within_s` at most."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stirred.wait(), within_s)

    async def _end(self) -> None:
        """Wait for what is under way; arq cancels its main task when it is done."""
        if self._listening is not None:
            await ended(self._listening)
        if not self.tasks:
            # arq cancels once, and redis-py 5 takes that for a timeout of its own now and then:
            # what stays neither works nor ends.
            raise asyncio.CancelledError
        await self._rest(self._sweep_s)

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Start each order that was claimed and is not started yet."""
        for order_id in (job_id.decode() for job_id in job_ids):
            # The task of an earlier attempt may still be on its way out.
            name = f"{order_id} {self._workshop.at_hand[order_id].token}"
            if name not in self.tasks:
                self.tasks[name] = task = self.loop.create_task(self.run_job(order_id, 0))
                task.add_done_callback(partial(self._forget, name))

    def _forget(self, name: str, _: "asyncio.Task[None]") -> None:
        self.tasks.pop(name, None)
        if self._is_full:
            self._stirred.set()

    async def run_job(self, job_id: str, score: int) -> None:  # noqa: ARG002  (arq's signature)
        """Run the job. Nothing raises out of it: that would end the worker."""
        with structlog.contextvars.bound_contextvars(order_id=job_id):
            try:
                became = await self.functions[JOB_FUNCTION].coroutine(self.ctx, job_id)
                self.jobs_complete += 1
                if became == "retryable":
                    self._ask_at = 0.0  # the queue knows when it is due
                    self._stirred.set()
            except AWAY as error:
                self.jobs_retried += 1
                log.warning("store.away", error=str(error))
            except Exception:
                self.jobs_failed += 1
                log.exception("attempt.broke")

    def handle_sig_wait_for_completion(self, signum: signal.Signals) -> None:
        """Say what is still under way before arq waits for it: it should not be killed now."""
        if self.tasks:
            log.warning(
                "worker.finishing",
                under_way=len(self.tasks),
                at_most_s=self._job_completion_wait,
                advice="an order whose worker is killed now is in doubt",
            )
        super().handle_sig_wait_for_completion(signum)

    async def close(self) -> None:
        """End the connections; what is still under way has been cancelled by arq."""
        if self._listening is not None:
            await ended(self._listening)
        with contextlib.suppress(asyncio.CancelledError, RedisError, OSError):
            await super().close()
