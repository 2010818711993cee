"""Picture of a search: what each trial reached, in order and against each setting that was varied."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hiphop_train.evaluation.style import COLOURS, INK, save, tidy

DRAWN = 5
"""Settings that are drawn at most."""


@dataclass(frozen=True)
class Point:
    """A trial: its number, what it reached, whether it ran to its end, and its settings as text."""

    number: int
    value: float
    complete: bool
    settings: Mapping[str, str]


def search_plot(path: Path, points: Sequence[Point], keys: Sequence[str], minimised: str) -> None:
    """Draw values by number with the best so far, and by each setting.

    Parameters
    ----------
    path : PNG file
    points : trials that reached any value
    keys : settings that were varied
    minimised : name of the value
    """
    keys = list(keys)[:DRAWN]
    figure = Figure(figsize=(3.6 * (1 + len(keys)), 3.4), layout="constrained")
    axes = figure.subplots(1, 1 + len(keys), sharey=True, squeeze=False)[0]
    _scatter(axes[0], [(float(p.number), p) for p in points])
    done = [p for p in points if p.complete]
    if done:
        best = np.minimum.accumulate([p.value for p in done])
        axes[0].step([p.number for p in done], best, where="post", color=INK, lw=1.0, label="best so far")
    axes[0].set(xlabel="trial", ylabel=minimised)
    axes[0].set_yscale("log")
    axes[0].legend(frameon=False, fontsize=8)
    for axis, key in zip(axes[1:], keys, strict=True):
        _by_setting(axis, points, key)
    save(figure, path)


def _by_setting(axis: Axes, points: Sequence[Point], key: str) -> None:
    words = [p.settings[key] for p in points]
    try:
        places = [float(word) for word in words]
        if min(places) > 0 and max(places) > 20 * min(places):
            axis.set_xscale("log")
    except ValueError:
        names = sorted(set(words))
        places = [float(names.index(word)) for word in words]
        axis.set_xticks(range(len(names)), names, rotation=20)
    _scatter(axis, list(zip(places, points, strict=True)))
    axis.set_xlabel(key)


def _scatter(axis: Axes, placed: Sequence[tuple[float, Point]]) -> None:
    """Mark what ran to its end by a dot, what was ended early by a cross."""
    for complete, marker, colour, label in ((True, "o", COLOURS[0], "done"), (False, "x", COLOURS[1], "ended early")):
        chosen = [(place, p.value) for place, p in placed if p.complete is complete]
        if chosen:
            axis.plot(*zip(*chosen, strict=True), marker, ms=5, color=colour, label=label)
    tidy(axis)
