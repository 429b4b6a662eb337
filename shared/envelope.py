"""arq's envelope: "look at order X", and not a word more."""

import json
from typing import Any, Final

from arq.jobs import serialize_job

from shared.clock import Clock, to_epoch_ms

JOB_FUNCTION: Final = "dispatch_order"
"""The name of arq's job; its only argument is the order id."""


def envelope(order_id: str, clock: Clock) -> str:
    """Return the job for an order, as arq and its tools read it."""
    now_ms = to_epoch_ms(clock.now())
    job = serialize_job(JOB_FUNCTION, (order_id,), {}, None, now_ms, serializer=json_bytes)
    return job.decode()


def json_bytes(value: Any) -> bytes:
    """Serialize an arq envelope: JSON, never pickle, so that writing to Redis runs no code."""
    return json.dumps(value, separators=(",", ":")).encode()
