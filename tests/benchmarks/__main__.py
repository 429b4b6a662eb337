"""`make bench`: every figure that is quoted, in one run. The last line is one JSON object.

python -m tests.benchmarks [--quick] [--only latency,throughput] [--peers] [--plot FILE.png]
"""

import argparse
import asyncio
import importlib
import json
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from shared.log import configure_logging
from tests.benchmarks.conversation import conversation
from tests.benchmarks.latency import latency
from tests.benchmarks.loads import backlog, slow_calls, waiting_graphs
from tests.benchmarks.peers import peers
from tests.benchmarks.scale import FULL, QUICK, Scale
from tests.benchmarks.stage import BenchmarkFailed
from tests.benchmarks.store_cost import store_cost
from tests.benchmarks.surroundings import surroundings
from tests.benchmarks.throughput import scaling, throughput

LEGS: Final[dict[str, Callable[[Scale, Path], Awaitable[dict[str, Any]]]]] = {
    "latency": latency,
    "throughput": throughput,
    "scaling": scaling,
    "store": store_cost,
    "backlog": backlog,
    "slow": slow_calls,
    "waiting": waiting_graphs,
    "conversation": conversation,
    "peers": peers,
}


def main() -> None:
    asked = read_arguments()
    configure_logging("WARNING", "auto")
    try:
        figures = asyncio.run(measure(asked.legs, QUICK if asked.quick else FULL))
    except BenchmarkFailed as error:
        sys.exit(f"the figures mean nothing: {error}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
    samples = figures.pop("samples_ms", {})
    if asked.plot:
        importlib.import_module("tests.benchmarks.plot").plot(figures, samples, asked.plot)
    print(json.dumps(figures))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small: to see that it works")
    parser.add_argument("--only", help=f"some of {','.join(LEGS)}")
    parser.add_argument("--peers", action="store_true", help="other job queues as well")
    parser.add_argument("--plot", type=Path, help="draw latency and scaling into this file")
    asked = parser.parse_args()
    asked.legs = asked.only.split(",") if asked.only else [leg for leg in LEGS if leg != "peers"]
    asked.legs += ["peers"] if asked.peers and "peers" not in asked.legs else []
    if unknown := set(asked.legs) - set(LEGS):
        parser.error(f"no such leg: {', '.join(sorted(unknown))}")
    if asked.plot and not {"latency", "throughput", "scaling"} <= set(asked.legs):
        parser.error("--plot needs the legs latency, throughput and scaling")
    return asked


async def measure(legs: list[str], scale: Scale) -> dict[str, Any]:
    """Play one leg after the other, each on a stage of its own."""
    playing, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert playing is not None
    for word in (signal.SIGINT, signal.SIGTERM):  # either leaves nothing running
        loop.add_signal_handler(word, playing.cancel)
    with tempfile.TemporaryDirectory(prefix="ringonce-bench-") as name:
        folder = Path(name)
        figures: dict[str, Any] = await surroundings(folder / "surroundings")
        figures |= {"quick": scale is QUICK, "legs": legs, "seconds": {}}
        for leg in legs:
            began = perf_counter()
            print(f"{leg} …", file=sys.stderr, flush=True)
            (folder / leg).mkdir()
            found = await LEGS[leg](scale, folder / leg)
            figures["seconds"][leg] = round(perf_counter() - began, 1)
            tell(leg, found, perf_counter() - began)
            # "scaling" comes from two legs: one worker from the one, more from the other
            found["scaling"] = figures.get("scaling", {}) | found.get("scaling", {})
            figures |= found
    return figures


def tell(leg: str, found: dict[str, Any], took_s: float) -> None:
    """Say on stderr what a leg found: the last line of stdout is for programs."""
    print(f"{leg} ({took_s:.0f} s)", file=sys.stderr)
    for name, figure in found.items():
        if name != "samples_ms":
            print(f"  {name:<42} {figure}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
