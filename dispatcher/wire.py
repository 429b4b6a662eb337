"""What left this process, seen from the transport: the first witness of every attempt.

httpx reports through its `trace` request extension what its transport does. The moment that
counts is `send_request_headers.started`: before it nothing can have reached the handler, after it
nothing is sure. It is also the last moment to hold an attempt back: the lease is checked there.
"""

from collections.abc import Callable
from typing import Any

from shared.outcome import WireEvidence


class HeldBack(Exception):
    """The attempt was stopped before its first byte; the message says why."""


class WireWatch:
    """Watches one request. Pass `watch` as httpx's `trace` extension."""

    def __init__(
        self,
        may_send: Callable[[], bool],
        may_finish: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        """Watch one request.

        `may_send` is asked right before the first byte and `may_finish` right before the body;
        `clock` counts monotonic seconds.
        """
        self._may_send = may_send
        self._may_finish = may_finish
        self._clock = clock
        self._began = clock()
        self._connected = False
        self.request_left = False
        self._answer_began = False

    async def watch(self, event: str, _info: dict[str, Any]) -> None:
        """Note one event of the transport.

        Raises:
            HeldBack: the request was about to leave, and must not.
        """
        match event.partition(".")[2]:
            case "send_request_headers.started":
                if not self._may_send():
                    raise HeldBack("the lease was about to run out")
                self._connected = self.request_left = True
            case "send_request_body.started":
                # The head alone asks for nothing; who slept in between must not finish it.
                if not self._may_finish():
                    raise HeldBack("the lease ran out while it was being sent")
            case "connect_tcp.complete":
                self._connected = True
            case "receive_response_headers.complete":
                self._answer_began = True

    def evidence(
        self, *, exception: str | None = None, status: int | None = None, excerpt: str | None = None
    ) -> WireEvidence:
        """Return what was seen, with what the caller knows beyond it."""
        return WireEvidence(
            connected=self._connected,
            request_left=self.request_left,
            answer_began=self._answer_began,
            exception=exception,
            status=status,
            excerpt=excerpt,
            took_ms=round((self._clock() - self._began) * 1000, 1),
        )
