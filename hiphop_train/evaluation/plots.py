"""Pictures: parity of energies and forces, learning curves, errors against R."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hiphop_train.data.structures import Structures
from hiphop_train.evaluation.errors import Predictions, energy_errors, force_errors, summarise
from hiphop_train.units import KCAL_PER_MOL

INK, ACCENT = "#3b4252", "#2a6f97"
DRAWN = 50_000
"""Points of a set that a picture shows at most."""

Evaluated = dict[str, tuple[Structures, Predictions]]
"""Name of the set -> structures with labels, and predictions."""


def parity(path: Path, evaluated: Evaluated, e0: NDArray[np.float64], elements: list[int]) -> None:
    """Draw predicted against true energies (less E0, per atom) and force components, a column per set.

    Parameters
    ----------
    path : PNG file
    evaluated : sets to draw
    e0 : (n_elements,) eV
    elements : atomic numbers
    """
    figure = Figure(figsize=(4.2 * len(evaluated), 8.2), layout="constrained")
    axes = figure.subplots(2, len(evaluated), squeeze=False)
    for column, (name, (structures, predictions)) in enumerate(evaluated.items()):
        sizes = structures.sizes
        known = _some(structures.has_energy)
        base = structures.take(known).composition(elements) @ e0
        true, predicted = (
            (energy[known] - base) / sizes[known] / KCAL_PER_MOL for energy in (structures.energy, predictions.energy)
        )
        statistics = summarise(energy_errors(structures, predictions))
        _parity(axes[0, column], true, predicted, statistics, "energy less E0", "kcal/mol/atom", "kcal/mol")
        axes[0, column].set_title(f"{name}: {len(structures):,} structures", color=INK)
        known = _some(np.repeat(structures.has_forces, sizes))
        true, predicted = (forces[known].ravel() / KCAL_PER_MOL for forces in (structures.forces, predictions.forces))
        statistics = summarise(force_errors(structures, predictions))
        _parity(axes[1, column], true, predicted, statistics, "force component", "kcal/mol/Å", "kcal/mol/Å")
    _save(figure, path)


def learning_curves(path: Path, metrics: Path) -> None:
    """Draw validation errors and learning rate over the epochs from metrics.csv."""
    with metrics.open() as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots(1, 2)
    panels = (("energy", "kcal/mol"), ("forces", "kcal/mol/Å"))
    for axis, (kind, unit) in zip(axes, panels, strict=True):
        for measure, style in (("mae", "-"), ("rmse", "--")):
            key = f"val/{kind}_{measure}"
            points = [(int(row["epoch"]), float(row[key])) for row in rows if row.get(key)]
            if points:
                axis.plot(*zip(*points, strict=True), style, color=ACCENT, label=measure.upper())
                axis.legend(frameon=False)
        axis.set(xlabel="epoch", ylabel=f"validation error, {unit}", yscale="log", title=kind)
        _tidy(axis)
    _save(figure, path)


def error_by_hierarchicality(path: Path, evaluated: Evaluated) -> None:
    """Draw the absolute energy error against R, a colour per set."""
    figure = Figure(figsize=(5.5, 4.2), layout="constrained")
    axis = figure.subplots()
    for k, (name, (structures, predictions)) in enumerate(evaluated.items()):
        known = _some(structures.has_energy)
        error = np.abs(predictions.energy[known] - structures.energy[known]) / KCAL_PER_MOL
        axis.plot(predictions.hierarchicality[known], error, ".", ms=3, alpha=0.5, color=f"C{k}", label=name)
    axis.set(xlabel="R (mean over atoms)", ylabel="|energy error|, kcal/mol", xscale="log", yscale="log")
    axis.legend(frameon=False, markerscale=3)
    _tidy(axis)
    _save(figure, path)


def _some(known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Indices of what is known, of so many at most, evenly chosen; errors are those of all."""
    index = np.flatnonzero(known)
    return index[:: 1 + len(index) // DRAWN]


def _parity(
    axis: Axes,
    true: NDArray[Any],
    predicted: NDArray[Any],
    statistics: dict[str, float],
    what: str,
    unit: str,
    error_unit: str,
) -> None:
    if len(true) == 0:
        axis.text(0.5, 0.5, "no labels", ha="center", transform=axis.transAxes)
        return
    low, high = float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))
    axis.plot([low, high], [low, high], color=INK, lw=0.8, zorder=1)
    axis.plot(true, predicted, ".", ms=3, alpha=0.35, color=ACCENT, zorder=2, rasterized=True)
    axis.set(xlabel=f"DFT {what}, {unit}", ylabel=f"predicted, {unit}", aspect="equal")
    text = f"MAE {statistics['mae']:.2f}\nRMSE {statistics['rmse']:.2f}\n{error_unit}"
    axis.text(0.05, 0.95, text, va="top", transform=axis.transAxes, color=INK)
    _tidy(axis)


def _tidy(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(colors=INK)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=130)
