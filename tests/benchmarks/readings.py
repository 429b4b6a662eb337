"""From single readings to the figures that are quoted."""

import statistics
from collections.abc import Sequence


def spread(readings_ms: Sequence[float]) -> dict[str, float]:
    """Return median and 99th percentile."""
    return {
        "p50": round(statistics.median(readings_ms), 2),
        "p99": round(statistics.quantiles(readings_ms, n=100)[98], 2),
    }


def median(readings: Sequence[float], digits: int = 0) -> float:
    """Return the median, rounded: the shared machine allows no more digits than a few."""
    return round(statistics.median(readings), digits or None)
