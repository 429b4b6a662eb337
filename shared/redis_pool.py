"""Connections to Redis that ride out an outage, a restart and a failover."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any, Final, TypeVar

from redis import exceptions as redis_errors
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError

from shared.clock import SYSTEM_CLOCK

_T = TypeVar("_T")

_FIRST_WAIT_S: Final = 0.02
_LONGEST_WAIT_S: Final = 0.5

AWAY: Final = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ReadOnlyError,
    redis_errors.BusyLoadingError,
    OSError,
)
"""The store is away for now: unreachable, starting, or a replica after a failover."""


REFUSES: Final = (
    "BUSY",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "MISCONF",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "UNBLOCKED",
)
"""First words of errors by which a store refuses a command for now, and does nothing: a script runs
too long, a primary is missing, the disk or the memory is full, too few replicas listen, it became
a replica."""


def passes(error: Exception) -> bool:
    """Say whether `error` is the store's trouble and not the command's: it may work later."""
    if isinstance(error, (*AWAY, redis_errors.OutOfMemoryError, redis_errors.NoScriptError)):
        return True
    return isinstance(error, redis_errors.ResponseError) and str(error).startswith(REFUSES)


CONNECTIONS: Final = 32
"""Scripts are short: this many under way at once keep a server busy; more callers queue here."""


def ledger_client(url: str, *, patience_s: float) -> Redis:
    """Return a client for the ledger: text in, text out, patient for about `patience_s` seconds."""
    return Redis.from_pool(
        connection_pool(url, patience_s, decode_responses=True, encoding_errors="replace")
    )


def connection_pool(url: str, patience_s: float, **options: Any) -> BlockingConnectionPool:
    """Return a pool that makes callers wait for a connection rather than fail."""
    pool = PatientPool.from_url(
        url,
        max_connections=CONNECTIONS,
        timeout=None,
        **connection_options(patience_s),
        **options,
    )
    pool.patience_s = patience_s
    return pool


class PatientPool(BlockingConnectionPool):
    """Is patient with a store that lets one connect and then hangs up.

    A proxy before a dead store does that. redis-py 5 tries again where connecting is refused and
    where a command is cut off, but not where the first words on a new connection are.
    """

    patience_s = 0.0

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        """Return once the connection is ready for a command."""
        with _deadline(self.patience_s) as until:
            while True:
                try:
                    await super().ensure_connection(connection)
                except AWAY:
                    await connection.disconnect()
                    if SYSTEM_CLOCK.monotonic() >= until:
                        raise
                    await asyncio.sleep(_LONGEST_WAIT_S / 5)
                else:
                    return


def connection_options(patience_s: float) -> dict[str, Any]:
    """Return what every connection of ours is made with.

    A command whose connection is lost is sent again until `patience_s` is over; that is safe here
    because every script may be sent again.
    """
    return {
        "socket_connect_timeout": 2.0,
        "socket_timeout": 5.0,
        "health_check_interval": 15,
        "retry": PatientRetry(patience_s),
        "retry_on_error": list(AWAY),
    }


class PatientRetry(Retry):
    """Tries again until its patience is over: what a caller waits for is time, not a number.

    A store that is silent costs 5 s a try, one that refuses nothing. What is tried again within a
    try, such as connecting, has the same deadline.
    """

    def __init__(self, patience_s: float) -> None:
        super().__init__(ExponentialBackoff(cap=_LONGEST_WAIT_S, base=_FIRST_WAIT_S), -1)
        self._patience_s = patience_s

    async def call_with_retry(
        self, do: Callable[[], Awaitable[_T]], fail: Callable[[RedisError], Any]
    ) -> _T:
        """Return what `do` returns; `fail` is told of each failure.

        Raises:
            RedisError, OSError: the last failure, once there is no patience left.
        """
        failures = 0
        with _deadline(self._patience_s) as until:
            while True:
                try:
                    return await do()
                except self._supported_errors as error:
                    failures += 1
                    await fail(error)
                    if SYSTEM_CLOCK.monotonic() >= until:
                        raise
                    await asyncio.sleep(self._backoff.compute(failures))


_until: Final[ContextVar[float | None]] = ContextVar("when patience ends", default=None)


@contextlib.contextmanager
def _deadline(patience_s: float) -> Iterator[float]:
    """Yield when patience ends: `patience_s` from now, unless that was begun with further out."""
    until = _until.get()
    if until is not None:
        yield until
        return
    until = SYSTEM_CLOCK.monotonic() + patience_s
    begun = _until.set(until)
    try:
        yield until
    finally:
        _until.reset(begun)
