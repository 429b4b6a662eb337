"""The resumer: moves a waiting conversation on when its answer comes, without anybody asking.

What waits stands in the store (`orchestrator/parked.py`), so a conversation whose process died
before the answer, or between the answer and the report, is found by the sweep at the next start.
Between sweeps the answers themselves wake it. Several orchestrators may find the same conversation:
its lock, and the look at what is still open, let one of them move it on.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Final

import structlog

from orchestrator.parked import Parked
from orchestrator.standing import UnknownThread
from orchestrator.thread_lock import ThreadBusy
from orchestrator.workflow_manager import WorkflowManager
from shared.answers import Answers
from shared.ending import ended

SWEEP_S: Final = 10.0
AT_ONCE: Final = 4
"""The checkpoints are one file, and the same loop answers people meanwhile."""

_log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def resuming(
    manager: WorkflowManager, answers: Answers, *, sweep_s: float = SWEEP_S
) -> AsyncIterator[None]:
    """Move waiting conversations on while the block lasts."""
    resumer = Resumer(manager, answers, sweep_s)
    manager.parked.hear = resumer.hold
    doing = [resumer.sweep(), *(resumer.resume() for _ in range(AT_ONCE))]
    tasks = [asyncio.create_task(task) for task in doing]
    try:
        yield
    finally:
        manager.parked.hear = None
        # A conversation that is cut off here is still parked: the next start goes on with it.
        await ended(*tasks)
        resumer.let_go()


class Resumer:
    """Holds a future for each order that a conversation waits for."""

    def __init__(self, manager: WorkflowManager, answers: Answers, sweep_s: float) -> None:
        self._manager = manager
        self._answers = answers
        self._parked: Parked = manager.parked
        self._sweep_s = sweep_s
        self._held: dict[str, asyncio.Future[Any]] = {}
        self._answered: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._foreign: set[str] = set()
        """Orders of conversations that are not among ours: another orchestrator may have them."""

    async def sweep(self) -> None:
        """Find what is parked: now, and again and again."""
        while True:
            try:
                await self._take_stock()
            except Exception as error:  # noqa: BLE001  (the next sweep may do better)
                _log.warning("resumer.not_swept", why=repr(error))
            await asyncio.sleep(self._sweep_s)

    async def resume(self) -> None:
        """Move one conversation after another on, as their answers come."""
        while True:
            order_id, thread_id = await self._answered.get()
            try:
                await self._manager.resume(thread_id, order_id)
            except ThreadBusy:
                pass  # it is being moved on; should that come to nothing, the next sweep finds it
            except UnknownThread:
                self._foreign.add(order_id)
            except Exception as error:  # noqa: BLE001  (the others wait too; the sweep tries again)
                _log.warning("conversation.not_resumed", thread_id=thread_id, why=repr(error))
            finally:
                self._held.pop(order_id, None)

    def hold(self, order_id: str, thread_id: str) -> None:
        """Wait for the order's answer, if that is not done already."""
        if order_id in self._held or order_id in self._foreign:
            return
        self._held[order_id] = expected = self._answers.expect(order_id)
        expected.add_done_callback(partial(self._wake, order_id, thread_id))

    def let_go(self) -> None:
        """Wait for nothing any more."""
        for expected in self._held.values():
            expected.cancel()

    def _wake(self, order_id: str, thread_id: str, expected: asyncio.Future[Any]) -> None:
        if expected.cancelled():
            self._held.pop(order_id, None)
        else:
            self._answered.put_nowait((order_id, thread_id))

    async def _take_stock(self) -> None:
        """Hold what is parked, let go what is not any more, drop what the store does not know."""
        held, parked = set(self._held), set[str]()
        async for page in self._parked.pages():
            for order_id in await self._parked.unknown(list(page)):
                await self._parked.drop(order_id, page.pop(order_id))
            for order_id, thread_id in page.items():
                self.hold(order_id, thread_id)
            parked |= page.keys()
        for order_id in held - parked:  # somebody else moved these on
            if (expected := self._held.get(order_id)) is not None:
                expected.cancel()
        self._foreign &= parked
