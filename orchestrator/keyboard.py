"""What a person types at the terminal, without a thread that Ctrl-C would have to wait for."""

import asyncio
import os
import sys
from typing import Final

_CHUNK: Final = 4096


class Keyboard:
    """Lines of standard input, awaited."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        self._typed = b""

    async def line(self, prompt: str) -> str | None:
        """Return the next line without its end, or None when there is nothing more to come."""
        sys.stdout.write(prompt)
        sys.stdout.flush()
        while b"\n" not in self._typed:
            chunk = await self._chunk()
            if not chunk:
                rest, self._typed = self._typed, b""
                return rest.decode(errors="replace").strip() or None
            self._typed += chunk
        line, _, self._typed = self._typed.partition(b"\n")
        return line.decode(errors="replace").strip()

    async def _chunk(self) -> bytes:
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        try:
            loop.add_reader(self._fd, readable.set)
        except PermissionError:  # a file is always readable, and epoll refuses it
            return os.read(self._fd, _CHUNK)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._fd)
        return os.read(self._fd, _CHUNK)
