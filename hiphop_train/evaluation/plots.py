"""Pictures: parity of energies and forces, learning curves, errors against R."""

import csv
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hiphop_train.data.structures import Structures
from hiphop_train.evaluation.errors import Predictions
from hiphop_train.units import KCAL_PER_MOL

INK, ACCENT = "#3b4252", "#2a6f97"

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
        known = structures.has_energy
        base, sizes = structures.composition(elements) @ e0, structures.sizes
        true = ((structures.energy - base) / sizes)[known] / KCAL_PER_MOL
        predicted = ((predictions.energy - base) / sizes)[known] / KCAL_PER_MOL
        per_structure = (predicted - true) * sizes[known]
        _parity(axes[0, column], true, predicted, per_structure, "energy less E0", "kcal/mol/atom", "kcal/mol")
        axes[0, column].set_title(f"{name}: {len(structures):,} structures", color=INK)
        with_forces = np.repeat(structures.has_forces, sizes)
        true = structures.forces[with_forces].ravel() / KCAL_PER_MOL
        predicted = predictions.forces[with_forces].ravel() / KCAL_PER_MOL
        unit = "kcal/mol/Å"
        _parity(axes[1, column], true, predicted, predicted - true, "force component", unit, unit)
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
        known = structures.has_energy
        error = np.abs(predictions.energy - structures.energy)[known] / KCAL_PER_MOL
        axis.plot(predictions.hierarchicality[known], error, ".", ms=3, alpha=0.5, color=f"C{k}", label=name)
    axis.set(xlabel="R (mean over atoms)", ylabel="|energy error|, kcal/mol", xscale="log", yscale="log")
    axis.legend(frameon=False, markerscale=3)
    _tidy(axis)
    _save(figure, path)


def _parity(
    axis: Axes,
    true: NDArray[np.float64],
    predicted: NDArray[np.float64],
    error: NDArray[np.float64],
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
    mae, rmse = np.abs(error).mean(), np.sqrt(np.mean(error**2))
    text = f"MAE {mae:.2f}\nRMSE {rmse:.2f}\n{error_unit}"
    axis.text(0.05, 0.95, text, va="top", transform=axis.transAxes, color=INK)
    _tidy(axis)


def _tidy(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(colors=INK)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=130)
