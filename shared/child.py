"""Other `ringonce` processes, started from this one and gone with it."""

import contextlib
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Final

from shared.embedded_server import die_with_parent

_READY_PATIENCE_S: Final = 20.0
_STOP_PATIENCE_S: Final = 15.0


class ChildFailed(Exception):
    """A process of ours did not come up; the message says where its log is."""


@contextlib.contextmanager
def child(*arguments: str, env: Mapping[str, str], log: Path) -> Iterator[Callable[[], str]]:
    """Run `ringonce ARGUMENTS` while the context lasts, its stderr going to `log`.

    Yields a function that waits until it is ready and returns its first line of output. It gets
    SIGTERM at the end, and SIGKILL if it does not heed it.
    """
    process = start_child(*arguments, env=env, log=log)
    try:
        yield partial(first_line, process, what=f"ringonce {arguments[0]}", log=log)
    finally:
        stop_child(process)


def start_child(
    *arguments: str, env: Mapping[str, str], log: Path, module: str = "ringonce"
) -> subprocess.Popen[str]:
    """Start `ringonce ARGUMENTS`, or another module, with exactly this environment."""
    with log.open("ab") as stderr:
        return subprocess.Popen(  # noqa: S603  (our own command line)
            [sys.executable, "-m", module, *arguments],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            preexec_fn=die_with_parent(),  # noqa: PLW1509  (calls nothing that takes a lock)
            start_new_session=True,  # Ctrl-C stops us, and we stop it
        )


def first_line(process: subprocess.Popen[str], *, what: str, log: Path) -> str:
    """Return the line by which a child says that it is ready.

    Raises:
        ChildFailed: it did not say it.
    """
    said: queue.Queue[str] = queue.Queue()

    def listen(stdout: IO[str]) -> None:
        said.put(stdout.readline())

    assert process.stdout is not None  # noqa: S101  (it was opened as a pipe)
    threading.Thread(target=listen, args=(process.stdout,), daemon=True).start()
    try:
        line = said.get(timeout=_READY_PATIENCE_S)
    except queue.Empty:
        line = ""
    if not line:
        raise ChildFailed(f"{what} did not start; its log is {log}")
    return line.strip()


def stop_child(process: subprocess.Popen[str]) -> None:
    """End a child, kindly first."""
    process.terminate()
    try:
        process.wait(timeout=_STOP_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
