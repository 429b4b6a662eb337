"""Hands the orders of a plan in, in bursts, some several times at once and some once more later."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from dispatcher.chaos.blows import Milestones
from dispatcher.chaos.plan import Plan, Wish
from dispatcher.chaos.wishes import make_order, number_of
from shared.clock import SYSTEM_CLOCK
from shared.desk import OrderNotAccepted, Submission
from shared.ledger import Ledger

AT_ONCE: Final = 200
_AGAIN_S: Final = 0.2
_GIVE_UP_S: Final = 60.0


@dataclass
class Desk:
    """Where orders come in. `accepted` is what must not be lost: order id → number."""

    plan: Plan
    ledgers: Sequence[Ledger]
    """Each over a line of its own; copies of an order come over different ones."""
    talk: Callable[[Wish], Awaitable[None]]
    milestones: Milestones
    accepted: dict[str, str] = field(default_factory=dict)
    surprises: list[str] = field(default_factory=list)
    _at_once: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def hand_in_all(self) -> None:
        """Hand every order in; return when each was taken in, or nobody answers any more."""
        wishes = iter(self.plan.wishes)
        pause_s = self.plan.span_s / len(self.plan.wishes)
        async with asyncio.TaskGroup() as under_way:
            for burst in self.plan.bursts:
                for _ in range(burst):
                    wish = next(wishes)
                    under_way.create_task(self._hand_in(wish))
                    self.milestones.one_more()
                await asyncio.sleep(pause_s * burst)

    async def _hand_in(self, wish: Wish) -> None:
        if wish.talked:
            await self.talk(wish)
            return
        copies = (self._submit(wish, nth) for nth in range(wish.copies))
        await asyncio.gather(*copies)
        if wish.again_after is not None:
            await self.milestones.reached(wish.again_after)
            await self._submit(wish, 1)

    async def _submit(self, wish: Wish, nth: int) -> None:
        """Submit until there is an answer: that is what the desk asks of whoever hands in."""
        ledger = self.ledgers[(wish.index + nth) % len(self.ledgers)]
        order = make_order(self.plan, wish, SYSTEM_CLOCK.now())
        deadline = SYSTEM_CLOCK.monotonic() + _GIVE_UP_S
        while SYSTEM_CLOCK.monotonic() < deadline:
            try:
                async with self._at_once:
                    answer = await ledger.submit(order)
            except OrderNotAccepted:
                await asyncio.sleep(_AGAIN_S)
                continue
            if answer is Submission.CONFLICT:
                self.surprises.append(f"{order.order_id} was taken for another wish")
            self.accepted[order.order_id] = number_of(wish.index)
            return
        self.surprises.append(f"{order.order_id} could not be handed in for {_GIVE_UP_S:g} s")
