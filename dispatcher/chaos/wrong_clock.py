"""`ringonce` on a machine whose clock is off: python -m dispatcher.chaos.wrong_clock SECONDS VERB.

Only the time of day is off. What counts seconds (`monotonic`) is right, as it is on a real machine
whose clock was set wrongly.
"""

import runpy
import sys
from datetime import datetime, timedelta

from shared.clock import SystemClock


def main() -> None:
    """Shift the clock, then be `ringonce`."""
    _, seconds, *verb = sys.argv
    shift, right = timedelta(seconds=float(seconds)), SystemClock.now

    def now(self: SystemClock) -> datetime:
        return right(self) + shift

    SystemClock.now = now  # type: ignore[method-assign]
    sys.argv = ["ringonce", *verb]
    runpy.run_module("ringonce", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
