"""What it means for an order that was handed in when the store answered with an error."""

from redis import exceptions as redis_errors

from shared.desk import OrderNotAccepted
from shared.redis_pool import passes


def not_accepted(error: Exception) -> OrderNotAccepted | None:
    """Return what to tell whoever handed the order in; None if it is no trouble of the store's."""
    # An error among a script's answers comes without its class.
    said = str(error)
    if isinstance(error, redis_errors.OutOfMemoryError) or said.startswith("OOM"):
        return OrderNotAccepted("the store is full", certain=True)
    if isinstance(error, redis_errors.ReadOnlyError) or said.startswith("READONLY"):
        return OrderNotAccepted("the store is read-only", certain=True)
    if isinstance(error, redis_errors.ConnectionError | redis_errors.TimeoutError | OSError):
        return OrderNotAccepted(f"the store does not answer ({error})", certain=False)
    if passes(error):
        told = f"the store takes no orders now ({error})"
        return OrderNotAccepted(told, certain=not said.startswith("BUSY"))
    return None
