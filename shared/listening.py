"""A socket to listen on, or one line that says why not and what to set."""

import socket


class CannotListen(Exception):
    """The address is taken or not ours; the message names the remedy."""


def listen(host: str, port: int, *, remedy: str) -> socket.socket:
    """Return a socket that listens on `host` and `port` (0: a free one).

    Raises:
        CannotListen: it cannot; `remedy` is what the person may change.
    """
    try:
        return socket.create_server((host, port), backlog=1024)
    except OSError as error:
        why = str(error.strerror).partition(" (while")[0]
        told = f"cannot listen on {host}:{port} ({why}): choose another with {remedy}"
        raise CannotListen(told) from None
