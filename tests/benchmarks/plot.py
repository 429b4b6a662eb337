"""The figures as one picture: how long one order takes, and how many go through how many workers.

Needs matplotlib, which is why nothing but `--plot` imports this module.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")  # no screen

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

COLOURS: Final = {"ours": "#0b6e4f", "arq": "#c8553d", "direct": "#5b6c8f"}
NAMES: Final = {"ours": "Ringonce", "arq": "arq, tuned", "direct": "direct POST"}
STYLE: Final[Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": "#888888",
    "font.size": 10,
    "legend.frameon": False,
}


def plot(figures: Mapping[str, Any], samples_ms: Mapping[str, Sequence[float]], to: Path) -> None:
    """Draw what one run found into the file `to`."""
    with mpl.rc_context(STYLE):
        picture, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
        latency(left, samples_ms)
        throughput(right, figures)
        packages = figures["packages"]
        picture.supxlabel(
            f"{figures['store']}, appendfsync {figures['appendfsync']}, {figures['cores']} cores, "
            f"Python {figures['python']}, arq {packages['arq']}, httpx {packages['httpx']}.   "
            f"python -m tests.benchmarks --plot {to}",
            fontsize=7.5,
            color="#666666",
        )
        to.parent.mkdir(parents=True, exist_ok=True)
        picture.savefig(to, dpi=150)
        plt.close(picture)


def latency(axes: Axes, samples_ms: Mapping[str, Sequence[float]]) -> None:
    """Draw which share of orders was answered within how many milliseconds."""
    for name in ("direct", "ours", "arq"):
        times = sorted(samples_ms[name])
        shares = [(rank + 1) / len(times) * 100 for rank in range(len(times))]
        label = f"{NAMES[name]}: {statistics.median(times):.1f} ms"
        axes.step(times, shares, where="post", color=COLOURS[name], linewidth=1.8, label=label)
    longest = max(statistics.quantiles(times, n=200)[-1] for times in samples_ms.values())
    axes.set_xscale("log")
    axes.set_xlim(min(map(min, samples_ms.values())) * 0.9, longest * 1.6)
    ticks = [tick for tick in (0.5, 1, 2, 5, 10, 20, 50, 100) if tick <= longest * 1.6]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0f} %"))
    axes.set_ylim(0, 100)
    axes.set_xlabel("milliseconds from submit to answer, idle system, one worker")
    axes.set_title("One order at a time, medians named", pad=26)
    axes.grid(axis="both", color="#e6e6e6", linewidth=0.7)
    legend_above(axes)


def throughput(axes: Axes, figures: Mapping[str, Any]) -> None:
    """Draw orders a second against workers."""
    scaling = figures["scaling"]
    workers = sorted(map(int, scaling))
    for name, key in (("ours", "orders_per_s"), ("arq", "stock_arq_orders_per_s")):
        speeds = [scaling[str(count)][key] for count in workers]
        axes.plot(workers, speeds, color=COLOURS[name], marker="o", markersize=5, linewidth=1.8)
        for count, speed in zip(workers, speeds, strict=True):
            axes.annotate(
                f"{speed:,.0f}",
                (count, speed),
                textcoords="offset points",
                xytext=(0, 8),
                ha="center",
                fontsize=8.5,
                color=COLOURS[name],
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
            )
        axes.plot([], [], color=COLOURS[name], marker="o", label=NAMES[name])
    direct = figures["direct_httpx_orders_per_s"]
    axes.axhline(
        direct,
        color=COLOURS["direct"],
        linewidth=1.4,
        linestyle=(0, (4, 3)),
        label=f"{NAMES['direct']}s, 50 at once: {direct:,.0f}",
    )
    axes.set_xscale("log")
    axes.set_xlim(workers[0] * 0.7, workers[-1] * 1.4)
    axes.xaxis.set_major_locator(FixedLocator(workers))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda speed, _: f"{speed:,.0f}"))
    highest = max(direct, *(entry["orders_per_s"] for entry in scaling.values()))
    axes.set_ylim(0, highest * 1.15)
    axes.set_xlabel("workers")
    axes.set_title("Orders a second, submit included", pad=26)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    legend_above(axes)


def legend_above(axes: Axes) -> None:
    """Put the names between title and picture, where no line runs through them."""
    legend = axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=3,
        fontsize=8.5,
        handlelength=1.4,
        columnspacing=1.4,
    )
    legend.set_in_layout(False)  # else it squeezes the picture
