"""People who talk to `ringonce serve`, and do not give up when it dies in the midst of a sentence.

Whoever got no answer looks the conversation up, and answers again only what is still open. Nobody
says yes twice to the same question.
"""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, Final

from dispatcher.chaos.plan import Wish
from dispatcher.chaos.wishes import number_of
from shared.clock import SYSTEM_CLOCK

AT_ONCE: Final = 4
_ANSWER_S: Final = 15.0
_AGAIN_S: Final = 0.3
_GIVE_UP_S: Final = 90.0

Turn = dict[str, Any]


class NoAnswer(Exception):
    """The answer was lost, or is that something else has to be done first."""


@dataclass
class Talks:
    """All conversations of one run."""

    port: int
    accepted: dict[str, str]
    """Order id → number: what was handed in."""
    surprises: list[str]
    _at_once: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def hold(self, wish: Wish) -> None:
        """Talk until the order was handed in."""
        number = number_of(wish.index)
        turn: Turn | None = None
        async with self._at_once:
            deadline = SYSTEM_CLOCK.monotonic() + _GIVE_UP_S
            while SYSTEM_CLOCK.monotonic() < deadline:
                try:
                    turn = await self._next(turn, number)
                except NoAnswer:
                    await asyncio.sleep(_AGAIN_S)
                    turn = await self._looked_up(turn)
                    continue
                if turn["call_state"] is not None:
                    self.accepted[turn["order_id"]] = number
                    return
                if turn["kind"] == "report":
                    self.surprises.append(f"a conversation ended without order: {turn['text']}")
                    return
        self.surprises.append(f"a conversation came to no end: {turn}")

    async def _next(self, turn: Turn | None, number: str) -> Turn:
        """Say what a person says next."""
        if turn is None:
            return await self._say(
                message=f"Order a large pepperoni pizza from Luigi's at {number}"
            )
        word = "yes" if turn["kind"] == "confirmation" else "how does it stand?"
        reply_to = {"reply_to": turn["reply_to"]} if turn["reply_to"] else {}
        return await self._say(message=word, thread_id=turn["thread_id"], **reply_to)

    async def _looked_up(self, turn: Turn | None) -> Turn | None:
        """Return where the conversation stands; as it was known if nobody answers."""
        if turn is None:
            return None
        try:
            return await self._ask("GET", f"/threads/{turn['thread_id']}")
        except NoAnswer:
            return turn

    async def _say(self, **words: str) -> Turn:
        return await self._ask("POST", "/chat", json.dumps(words))

    async def _ask(self, method: str, path: str, body: str = "") -> Turn:
        """Ask once.

        Raises:
            NoAnswer: there was none, or one that is not a turn.
        """
        try:
            async with asyncio.timeout(_ANSWER_S):
                status, told = await _exchange(self.port, method, path, body.encode())
                turn: Turn = json.loads(told)
        except (OSError, ValueError, EOFError) as error:  # TimeoutError is an OSError
            raise NoAnswer(repr(error)) from error
        if status != 200:
            raise NoAnswer(f"{status}: {turn}")
        return turn


async def _exchange(port: int, method: str, path: str, body: bytes) -> tuple[int, bytes]:
    """Make one HTTP request on a connection of its own; return status and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        answer = await reader.read(-1)
    finally:
        writer.transport.abort()
    told, whole, content = answer.partition(b"\r\n\r\n")
    if not whole:
        raise EOFError("no answer, or half of one")
    return int(told.split(b" ", 2)[1]), content
