"""The ways to carry a request, all judged by the same tests: ours, and httpx's own as the model."""

import ssl
from collections.abc import Callable
from typing import Final

import httpx

from dispatcher.call_handler import KEEPALIVE_S
from dispatcher.transport import WitnessTransport


def ours(connections: int) -> httpx.AsyncBaseTransport:
    return WitnessTransport(
        connections=connections, keepalive_s=KEEPALIVE_S, ssl_context=trusting_nobody()
    )


def httpx_own(connections: int) -> httpx.AsyncBaseTransport:
    limits = httpx.Limits(
        max_connections=connections,
        max_keepalive_connections=connections,
        keepalive_expiry=KEEPALIVE_S,
    )
    return httpx.AsyncHTTPTransport(verify=trusting_nobody(), limits=limits, trust_env=False)


def trusting_nobody() -> ssl.SSLContext:
    """Return a context that took no time to make; it knows no certificate to trust."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


TRANSPORTS: Final[dict[str, Callable[[int], httpx.AsyncBaseTransport]]] = {
    "ours": ours,
    "httpx's own": httpx_own,
}
