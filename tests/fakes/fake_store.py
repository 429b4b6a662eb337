"""A Redis in this process: quick, and honest about scripts, but without time, death or sockets."""

from typing import Any

from fakeredis import FakeAsyncRedis, FakeServer
from redis.commands.core import AsyncScript


class FakeStore(FakeAsyncRedis):
    """fakeredis, which does not know the first line by which a script says what it may do."""

    def __init__(self, **options: Any) -> None:
        super().__init__(server=FakeServer(version=(7, 4)), decode_responses=True, **options)

    def register_script(self, script: Any) -> AsyncScript:  # type: ignore[override]
        """Register `script` without its `#!lua flags=…`."""
        flags, _, body = str(script).partition("\n")
        return super().register_script(body if flags.startswith("#!") else script)
