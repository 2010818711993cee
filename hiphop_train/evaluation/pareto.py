"""Picture of errors against cost, with the Pareto front: what no other is better than in both."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from hiphop_train.evaluation.comparison import Range, Row
from hiphop_train.evaluation.style import COLOURS, INK, unit
from hiphop_train.files import replacing
from hiphop_train.targets import TARGETS

FRONT = "#9aa5b1"
MARKERS = "osD^vp>h<"


def pareto(path: Path, rows: Sequence[Row], split: str, title: str) -> None:
    """Draw mean absolute errors of all targets against time per atom, parameters and training time.

    Parameters
    ----------
    path : PNG file
    rows : what to compare; bars are ranges over seeds
    split : test split whose errors are drawn
    title : above the picture
    """
    kinds = [key for key in TARGETS if any(key in row.errors.get(split, {}) for row in rows)]
    columns = [column for column in _costs(rows) if column[1]]
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure(figsize=(4.4 * len(columns) + 0.4, 3.5 * len(kinds) + 0.7), dpi=130, layout=layout)
    FigureCanvasAgg(figure)
    seeds = "; bars: smallest to largest of the seeds" if any(len(row.runs) > 1 for row in rows) else ""
    figure.suptitle(f"{title}   (line: Pareto front{seeds})", color=INK, fontsize=11)
    axes = figure.subplots(len(kinds), len(columns), squeeze=False, sharey="row", sharex="col")
    labelled = []
    errors = {
        kind: {k: row.errors[split][kind]["mae"] for k, row in enumerate(rows) if kind in row.errors.get(split, {})}
        for kind in kinds
    }
    for across, (name, costs) in enumerate(columns):
        for down, kind in enumerate(kinds):
            axis = axes[down, across]
            axis.set(xscale="log", yscale="log", xlim=_limits(costs.values()), ylim=_limits(errors[kind].values()))
            drawn = [k for k in costs if k in errors[kind]]
            points = [(costs[k], errors[kind][k]) for k in drawn]
            _draw(axis, points, [_style(k) for k in drawn])
            labelled.append((axis, points, [(rows[k].label, _style(k)[0]) for k in drawn]))
            if down == len(kinds) - 1:
                axis.set_xlabel(name, color=INK)
            if across == 0:
                axis.set_ylabel(f"MAE of {kind}, {unit(TARGETS[kind])}", color=INK)
    figure.draw_without_rendering()  # fixes the layout, on which the positions of the labels depend
    figure.set_layout_engine("none")
    for axis, points, labels in labelled:
        _label(axis, points, labels)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix(".") or "png")


def _costs(rows: Sequence[Row]) -> list[tuple[str, dict[int, Range]]]:
    """Return the name of each cost, and its values by row."""
    times = {k: row.microseconds_per_atom["minimum"] for k, row in enumerate(rows) if row.microseconds_per_atom}
    longest = max(row.training_seconds.high for row in rows)
    unit, size = ("seconds", 1) if longest < 120 else ("minutes", 60) if longest < 7200 else ("hours", 3600)
    shortest = min(row.training_seconds.low for row in rows)
    costs = [
        ("energy and forces, µs per atom", {k: Range(time, time, time) for k, time in times.items()}),
        ("parameters", {k: Range(*[float(row.parameters)] * 3) for k, row in enumerate(rows)}),
    ]
    if longest > 1.01 * shortest or len(rows) == 1:  # a race over a given time says nothing by it
        training = {k: Range(*(x / size for x in row.training_seconds)) for k, row in enumerate(rows)}
        costs.append((f"training, {unit}", training))
    return costs


def _style(k: int) -> tuple[str, str]:
    return COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]


def front(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of the points (n, 2) that no other is as good as in one and better than in the other, by first value."""
    chosen: list[int] = []
    lowest = np.inf
    for k in np.lexsort((points[:, 1], points[:, 0])):
        if points[k, 1] < lowest:
            chosen.append(int(k))
            lowest = points[k, 1]
    return np.array(chosen, np.int64)


def _limits(values: Iterable[Range]) -> tuple[float, float]:
    """Ends of a logarithmic axis with room for labels."""
    found = list(values)
    low, high = min(value.low for value in found), max(value.high for value in found)
    room = max(1.1, (high / low) ** 0.16)
    return low / room, high * room


def _draw(axis: Axes, points: Sequence[tuple[Range, Range]], styles: Sequence[tuple[str, str]]) -> None:
    if points:
        means = np.array([(x.mean, y.mean) for x, y in points])
        best = means[front(means)]
        axis.step(best[:, 0], best[:, 1], where="post", color=FRONT, lw=1.2, zorder=1)
    for (x, y), (colour, marker) in zip(points, styles, strict=True):
        xerr = [[x.mean - x.low], [x.high - x.mean]]
        yerr = [[y.mean - y.low], [y.high - y.mean]]
        axis.errorbar(
            x.mean, y.mean, yerr, xerr, color=colour, marker=marker, ms=8, mec="white", mew=0.6, lw=1.5, zorder=3
        )
    for each in (axis.xaxis, axis.yaxis):
        each.set_major_locator(_ticks(*each.get_view_interval()))
        each.set_major_formatter(FuncFormatter(_short))
        each.set_minor_formatter(NullFormatter())
    axis.grid(color="#eceff4", lw=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(colors=INK, which="both", length=0)


def _ticks(low: float, high: float) -> Locator:
    """Return a locator of three to six ticks, however narrow the logarithmic axis is."""
    if high < 3 * low:
        return MaxNLocator(5, steps=[1, 2, 5, 10])
    subs = (1, 1.5, 2, 3, 5, 7) if high < 12 * low else (1, 2, 5) if high < 100 * low else (1,)
    return LogLocator(subs=subs)


def _short(value: float, _: object = None) -> str:
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"


def _label(
    axis: Axes, points: Sequence[tuple[Range, Range]], labels: Sequence[tuple[str, str]], size: float = 9.0
) -> None:
    """Write each label beside its point, where it covers least of the others; positions are in pixels."""
    positions = axis.transData.transform([(x.mean, y.mean) for x, y in points]) if points else np.zeros((0, 2))
    frame = axis.get_window_extent()
    pixels = axis.figure.dpi / 72 * size
    taken = [(px - 7, py - 7, px + 7, py + 7) for px, py in positions]
    for (px, py), (text, colour) in zip(positions, labels, strict=True):
        width, height = 0.56 * pixels * len(text), 1.1 * pixels
        options = []
        for order, (dx, dy) in enumerate(_OFFSETS):
            left = px + dx * 9 - (width if dx < 0 else width / 2 if dx == 0 else 0)
            low = py + dy * 9 - (height if dy < 0 else height / 2 if dy == 0 else 0)
            box = (left, low, left + width, low + height)
            outside = max(0, frame.x0 - box[0]) + max(0, box[2] - frame.x1) + max(0, frame.y0 - box[1])
            covered = sum(_overlap(box, other) for other in taken)
            options.append((covered + 20 * outside, order, box))
        _, _, box = min(options)
        taken.append(box)
        axis.annotate(
            text, (box[0], box[1]), xycoords="figure pixels", color=colour, fontsize=size, va="bottom", zorder=4
        )


_OFFSETS = ((1, 0.6), (1, -0.6), (-1, 0.6), (-1, -0.6), (0, 1.2), (0, -1.2), (1, 1.8), (1, -1.8), (-1, 1.8), (-1, -1.8))
"""Positions of a label relative to its point, best first."""


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
