"""A plot of time and memory against the number of atoms, both axes logarithmic, with a line for each program."""

import math
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from hiphop_train.benchmark.measure import OURS

INK, ACCENT = "#3b4252", "#c0392b"
OTHERS = ("#2a6f97", "#6a994e", "#8d6a9f", "#b07d2b", "#4c8577", "#7d7d7d")


def draw(path: Path, rows: list[dict[str, Any]], title: str) -> None:
    """Draw a panel of times (ms, with given pairs where the program takes them) and one of memory.

    Parameters
    ----------
    path : PNG file
    rows : of `measure.dynamics`
    title : of the figure
    """
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    figure.suptitle(title, color=INK, fontsize=11)
    axes = figure.subplots(1, 2)
    for axis, key, factor in ((axes[0], "median", 1.0), (axes[1], "peak_bytes", 1e-6)):
        ends: list[tuple[float, float, str, str]] = []
        for k, name in enumerate(rows[0]["programs"] if rows else []):
            colour = ACCENT if name == OURS else OTHERS[(k - 1) % len(OTHERS)]
            points = _points(rows, name, key, factor)
            if points:
                style = {"color": colour, "lw": 2.0 if name == OURS else 1.2, "marker": "o", "ms": 4}
                axis.plot([x for x, _ in points], [y for _, y in points], **style)
                ends.append((*points[-1], name, colour))
        _label(axis, ends)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=INK)
    axes[0].set(xlabel="atoms", ylabel="ms per step: energy and forces")
    axes[1].set(xlabel="atoms", ylabel="peak memory, MB")
    FigureCanvasAgg(figure).print_figure(str(path), dpi=150)


def _points(rows: list[dict[str, Any]], name: str, key: str, factor: float) -> list[tuple[float, float]]:
    """Return (atoms, value) of a program, without structures that have no value."""
    found = []
    for row in rows:
        variants = row["programs"][name]
        measured = variants.get("excluded") or variants.get("included") or {}
        if measured.get(key, 0) > 0:
            found.append((float(row["atoms"]), factor * float(measured[key])))
    return found


def _label(axis: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Write names at the ends of the lines, without overlaps."""
    axis.set(xscale="log", yscale="log")
    low, high = axis.get_xlim()
    axis.set_xlim(low, high * (high / low) ** 0.28)
    bottom, top = axis.get_ylim()
    for each, (first, last) in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, (bottom, top))):
        steps = (1.0, 2.0, 5.0) if last < 100 * first else (1.0, 3.0) if last < 1000 * first else (1.0,)
        each.set_major_locator(LogLocator(subs=steps, numticks=12))
        each.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"))
        each.set_minor_locator(NullLocator())
    gap = 0.055 * math.log(top / bottom)
    ends.sort(key=lambda end: end[1])
    heights = apart([math.log(y) for _, y, _, _ in ends], gap)
    for (x, y, name, colour), height in zip(ends, heights, strict=True):
        at = (x * (high / low) ** 0.03, math.exp(height))
        axis.annotate(name, (x, y), at, color=colour, va="center", fontsize=9, annotation_clip=False)


def apart(heights: list[float], gap: float) -> list[float]:
    """Move ascending heights so that they are at least `gap` apart; clusters spread about their mean."""
    clusters: list[tuple[float, int]] = []  # mean, and number of members
    for height in heights:
        mean, size = height, 1
        while clusters and mean - (size - 1) * gap / 2 < clusters[-1][0] + clusters[-1][1] * gap / 2 + gap / 2:
            before, members = clusters.pop()
            mean = (before * members + mean * size) / (members + size)
            size += members
        clusters.append((mean, size))
    return [mean + (k - (size - 1) / 2) * gap for mean, size in clusters for k in range(size)]
