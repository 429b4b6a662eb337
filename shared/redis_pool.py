"""Connections to Redis that ride out an outage, a restart and a failover."""

import asyncio
from typing import Any, Final

from redis import exceptions as redis_errors
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from shared.clock import SYSTEM_CLOCK

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
    "TRYAGAIN",
    "UNBLOCKED",
)
"""First words of errors by which a store refuses a command for now, and does nothing: a script runs
too long, a primary is missing, the disk is full, too few replicas listen, it became a replica."""


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
        patient_until = SYSTEM_CLOCK.monotonic() + self.patience_s
        while True:
            try:
                await super().ensure_connection(connection)
            except AWAY:
                await connection.disconnect()
                if SYSTEM_CLOCK.monotonic() >= patient_until:
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
        "retry": Retry(
            ExponentialBackoff(cap=_LONGEST_WAIT_S, base=_FIRST_WAIT_S), retries_in(patience_s)
        ),
        "retry_on_error": list(AWAY),
    }


def retries_in(patience_s: float) -> int:
    """Return how many retries of the backoff above last for `patience_s`."""
    waited, retries = 0.0, 0
    while waited < patience_s:
        retries += 1
        waited += min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(retries, 32))
    return retries
