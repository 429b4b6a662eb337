"""A call handler that only answers, as fast as one Python process can, and counts.

python -m tests.benchmarks.fast_handler [--delay-s S]     its first line of output is its address

POST /order   {"status": "Call initiated", "call_sid": "CA…"}, after the delay; no sid comes twice
GET /count    {"orders": n, "at_once": n, "most_at_once": n}
"""

import argparse
import asyncio
import importlib
import json
import re
from dataclasses import dataclass
from typing import Any, Final

LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
BACKLOG: Final = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay-s", type=float, default=0.0)
    asked = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop_or_none()) as runner:
        runner.run(serve(asked.delay_s))


def uvloop_or_none() -> Any:
    """Return uvloop's maker of loops, or None (asyncio's own) where it is not installed."""
    try:
        return importlib.import_module("uvloop").new_event_loop
    except ImportError:
        return None


def name() -> str:
    """Return what the figures call it."""
    loop = "asyncio" if uvloop_or_none() is None else "uvloop"
    return f"tests/benchmarks/fast_handler.py: asyncio.Protocol on {loop}, keep-alive"


async def serve(delay_s: float) -> None:
    tally = Tally()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Line(tally, delay_s, loop), "127.0.0.1", 0, backlog=BACKLOG
    )
    host, port = server.sockets[0].getsockname()
    print(f"http://{host}:{port}", flush=True)
    await server.serve_forever()


@dataclass
class Tally:
    orders: int = 0
    at_once: int = 0
    most_at_once: int = 0


class Line(asyncio.Protocol):
    """One connection, kept alive until the client hangs up."""

    def __init__(self, tally: Tally, delay_s: float, loop: asyncio.AbstractEventLoop) -> None:
        self._tally, self._delay_s, self._loop = tally, delay_s, loop
        self._unread = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while (head_end := self._unread.find(b"\r\n\r\n")) >= 0:
            head = self._unread[:head_end]
            if CHUNKED.search(head):
                self._write(411, b"{}")
                self._transport.close()
                return
            length = LENGTH.search(head)
            end = head_end + 4 + (int(length.group(1)) if length else 0)
            if len(self._unread) < end:
                return
            self._unread = self._unread[end:]
            self._take(head)

    def _take(self, head: bytes) -> None:
        if head.startswith(b"GET /count "):
            self._write(200, json.dumps(vars(self._tally)).encode())
        elif head.startswith(b"POST /order "):
            tally = self._tally
            tally.orders += 1
            tally.at_once += 1
            tally.most_at_once = max(tally.most_at_once, tally.at_once)
            if self._delay_s:
                self._loop.call_later(self._delay_s, self._answer, tally.orders)
            else:
                self._answer(tally.orders)
        else:
            self._write(404, b"{}")

    def _answer(self, number: int) -> None:
        self._tally.at_once -= 1
        self._write(200, b'{"status":"Call initiated","call_sid":"CA%032x"}' % number)

    def _write(self, status: int, body: bytes) -> None:
        self._transport.write(
            b"HTTP/1.1 %d OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (status, len(body), body)
        )


if __name__ == "__main__":
    main()
