"""Where it was measured: figures without that are hearsay."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from shared.embedded_server import embedded_server
from tests.benchmarks import fast_handler

PACKAGES: Final = ("ringonce", "arq", "httpx", "aiohttp", "redis", "hiredis", "langgraph", "uvloop")


async def surroundings(folder: Path) -> dict[str, Any]:
    """Ask the machine, the installed packages and a server like those that are measured."""
    with embedded_server(folder) as url:
        async with Redis.from_url(url, decode_responses=True) as redis:
            server = await redis.info("server")
            fsync = (await redis.config_get("appendfsync"))["appendfsync"]
    set_by_hand = {k: v for k, v in os.environ.items() if k.startswith("RINGONCE_")}
    return {
        "handler": fast_handler.name(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "store": _name(server),
        "appendfsync": fsync,
        "packages": {name: _version(name) for name in PACKAGES},
        "settings_by_hand": set_by_hand,
    }


def _name(server: dict[str, Any]) -> str:
    valkey = server.get("valkey_version")
    return f"Valkey {valkey}" if valkey else f"Redis {server['redis_version']}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
