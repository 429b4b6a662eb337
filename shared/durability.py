"""Orders on disk: what `RINGONCE_SUBMIT_DURABILITY=fsync` asks of the store."""

from collections.abc import Sequence
from typing import Any, Final

from redis import exceptions as redis_errors
from redis.asyncio import Redis

from shared.settings import BadSettings

FSYNC_WITHIN_S: Final = 4.0
"""How long an fsync may take; less than the patience of a connection."""


async def check_waitaof(redis: Redis) -> None:
    """Return if the store can confirm that a write is on its disk.

    Raises:
        BadSettings: it cannot; the message names the setting and the remedies.
    """
    try:
        await redis.execute_command("WAITAOF", 1, 0, 1)  # type: ignore[no-untyped-call]
    except redis_errors.ResponseError as error:
        raise BadSettings(
            f"RINGONCE_SUBMIT_DURABILITY: the store cannot confirm an fsync ({error}). Use a "
            "primary of Redis 7.2 or newer, or of Valkey, with appendonly yes and appendfsync "
            "always or everysec; or set it to memory"
        ) from None


async def written_to_disk(
    redis: Redis, script: str, words: Sequence[str | int]
) -> tuple[list[Any], str | None]:
    """Run a script and wait until its writes are on disk; return its answer, and what is amiss.

    WAITAOF minds what its own connection has written. On another one, as after a connection lost
    between the two, it would confirm at once; a pipeline is sent again as a whole.
    """
    async with redis.pipeline(transaction=False) as pipe:
        pipe.eval(script, *words)  # type: ignore[arg-type]
        pipe.execute_command("WAITAOF", 1, 0, round(FSYNC_WITHIN_S * 1000))
        answer, synced = await pipe.execute(raise_on_error=False)
    if isinstance(answer, Exception):
        raise answer
    if not isinstance(synced, Exception) and synced[0] >= 1:
        return list(answer), None
    why = f" ({synced})" if isinstance(synced, Exception) else ""
    told = f"the store has it in memory, but has not confirmed that it is on disk{why}"
    return list(answer), told
