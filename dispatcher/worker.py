"""The arq worker: an envelope says "look at order X", and X is looked at. The rest is the ledger's.

`Dispatcher` replaces these of arq 0.28's methods, because arq's own ways ring twice or come late:

- `_poll_iteration`: waits to be woken instead of polling, and rides out a store that is away (arq
  lets the worker die);
- `start_jobs`: no in-progress key, because the claim is the lease (arq's key runs out under a slow
  worker, and the job runs twice);
- `run_job`: no retries, results and payload expiry, because attempts and answers are the ledger's
  (arq drops a job past `max_tries` without a word, and its payload after a day);
- `handle_sig_wait_for_completion` and `close`: say what is still under way, and end quietly.

`tests/unit/test_arq_contract.py` fails when another arq has other methods.
"""

import asyncio
import contextlib
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
from dispatcher.recoverer import Recoverer
from shared import keys
from shared.envelope import JOB_FUNCTION, json_bytes
from shared.ledger import Ledger
from shared.redis_pool import AWAY, connection_pool, ledger_client
from shared.settings import Settings

SIGN_OF_LIFE_S: Final = 5.0
LONGEST_BLOCK_S: Final = 2.0
"""No command blocks longer: a connection that says nothing for 5 s is given up."""
PUT_OFF_S: Final = 30.0
"""An order that breaks the attempt itself is not looked at again before, so that others are."""

log = structlog.get_logger(__name__)


async def run_worker(
    settings: Settings, *, announce: Callable[[str], object] | None = None
) -> None:
    """Dispatch orders until SIGTERM or SIGINT, then finish what is being sent and return.

    `settings.redis_url` must be set. `announce` is told the worker's name once it listens.
    """
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
    url, patience_s = str(settings.redis_url), settings.store_patience_s
    redis = ledger_client(url, patience_s=patience_s)
    profile = settings.profile
    async with CallHandler(
        profile, connections=settings.max_jobs, secrets=settings.handler_secrets
    ) as handler:
        workshop = Workshop(
            name=name,
            ledger=Ledger(redis),
            handler=handler,
            policy=settings.policy,
            lease_s=settings.attempt_lease_s,
        )
        dispatcher = Dispatcher(
            workshop, ArqRedis(connection_pool(url, patience_s)), settings=settings
        )
        recovering = asyncio.create_task(Recoverer(workshop, settings.recover_s).run())
        if announce is not None:
            announce(name)
        log.info("worker.started", worker=name, handler=str(profile.url), jobs=settings.max_jobs)
        try:
            await dispatcher.async_run()
        except asyncio.CancelledError:
            # This is how arq ends its main task, after a signal, when the last job is done.
            pass
        finally:
            recovering.cancel()
            await dispatcher.close()
            await redis.aclose()
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

    def __init__(self, workshop: Workshop, pool: ArqRedis, *, settings: Settings) -> None:
        longest_s = settings.attempt_lease_s + settings.store_patience_s
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
        self._ledger = workshop.ledger
        self._sweep_s = min(settings.sweep_s, LONGEST_BLOCK_S)
        self._backlog = True
        self._next_sweep = 0.0

    async def _poll_iteration(self) -> None:
        """Start what is due; wait for a slot, a wake-up or the next sweep."""
        try:
            free = self.max_jobs - len(self.tasks)
            if not self.allow_pick_jobs:
                if not self.tasks:
                    # arq cancels its main task once, and redis-py 5 takes that for a timeout of its
                    # own now and then: what stays neither works nor ends.
                    raise asyncio.CancelledError
                await asyncio.sleep(self._sweep_s)
            elif free > 0:
                await self.start_jobs(await self._due(free))
            else:
                await asyncio.wait(
                    self.tasks.values(),
                    timeout=self._sweep_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            await self.heart_beat()
        except (RedisError, OSError) as error:
            # Full, or a replica since a moment ago: whatever it says, it is no reason to end.
            log.warning("store.away", error=str(error))
            await asyncio.sleep(self._sweep_s)

    async def _due(self, free: int) -> list[bytes]:
        """Return ids to look at: those just announced, else those that are due.

        The wake-up is only a hint. Whatever it missed costs no more than a sweep, which is made on
        time however many wake-ups there are.
        """
        clock = self._ledger.clock
        if not self._backlog and clock.monotonic() < self._next_sweep:
            announced = await self._ledger.announced(free, self._sweep_s)
            if announced:
                return [order_id.encode() for order_id in announced]
        self._next_sweep = clock.monotonic() + self._sweep_s
        due = await self._ledger.overdue(keys.QUEUE, limit=free)
        self._backlog = len(due) == free
        return [order_id.encode() for order_id in due]

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Start each order that is not under way here already."""
        for order_id in (job_id.decode() for job_id in job_ids):
            if order_id in self.tasks or not self.allow_pick_jobs:
                continue
            task = self.loop.create_task(self.run_job(order_id, 0))
            self.tasks[order_id] = task
            task.add_done_callback(partial(self._forget, order_id))

    def _forget(self, order_id: str, _: "asyncio.Task[None]") -> None:
        self.tasks.pop(order_id, None)

    async def run_job(self, job_id: str, score: int) -> None:  # noqa: ARG002  (arq's signature)
        """Run the job. Nothing raises out of it: that would end the worker."""
        with structlog.contextvars.bound_contextvars(order_id=job_id):
            try:
                await self.functions[JOB_FUNCTION].coroutine(self.ctx, job_id)
                self.jobs_complete += 1
            except AWAY as error:
                self.jobs_retried += 1
                log.warning("store.away", error=str(error))
            except Exception:
                self.jobs_failed += 1
                log.exception("attempt.broke")
                with contextlib.suppress(RedisError, OSError):
                    await self._ledger.put_off(job_id, PUT_OFF_S)

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
        with contextlib.suppress(asyncio.CancelledError, RedisError, OSError):
            await super().close()
