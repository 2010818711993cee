"""Pictures: parity of all targets, learning curves, errors against R."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hiphop_train.data.structures import Structures
from hiphop_train.evaluation.errors import MEASURES, Predictions, errors, summarise
from hiphop_train.evaluation.style import COLOURS, INK, save, tidy, unit
from hiphop_train.targets import TARGETS, Target
from hiphop_train.units import KCAL_PER_MOL

DRAWN = 50_000
"""Points of a set that a picture shows at most."""

Evaluated = dict[str, tuple[Structures, Predictions]]
"""Name of the set -> structures with labels, and predictions."""


def parity(path: Path, evaluated: Evaluated, e0: NDArray[np.float64], elements: list[int]) -> None:
    """Draw predicted against reference energies (less E0, per atom) and components of the other targets.

    There is a row per target and a column per set.

    Parameters
    ----------
    path : PNG file
    evaluated : sets to draw
    e0 : (n_elements,) eV
    elements : atomic numbers
    """
    labelled = set().union(*(structures.labels.keys() & found.targets for structures, found in evaluated.values()))
    keys = [key for key in TARGETS if key in ("energy", "forces") or key in labelled]
    figure = Figure(figsize=(4.2 * len(evaluated), 4.1 * len(keys)), layout="constrained")
    axes = figure.subplots(len(keys), len(evaluated), squeeze=False)
    for column, (name, (structures, predictions)) in enumerate(evaluated.items()):
        axes[0, column].set_title(f"{name}: {len(structures):,} structures", color=INK)
        for axis, key in zip(axes[:, column], keys, strict=True):
            statistics, target = summarise(errors(structures, predictions, key)), TARGETS[key]
            if not statistics:
                axis.text(0.5, 0.5, "no labels", ha="center", transform=axis.transAxes)
                continue
            if key == "energy":
                true, predicted = _energies_per_atom(structures, predictions, e0, elements)
                _parity(axis, true, predicted, f"energy less E0, {unit(target)}/atom")
            else:
                true, predicted = _components(structures, predictions, target)
                _parity(axis, true, predicted, f"{key.replace('forces', 'force')} component, {unit(target)}")
            values = "\n".join(f"{measure.upper()} {statistics[measure]:.{target.decimals}f}" for measure in MEASURES)
            axis.text(0.05, 0.95, f"{values}\n{unit(target)}", va="top", transform=axis.transAxes, color=INK)
    save(figure, path)


def learning_curves(path: Path, metrics: Path) -> None:
    """Draw validation errors of all targets over the epochs from metrics.csv."""
    with metrics.open() as file:
        rows = list(csv.DictReader(file))
    logged = {key for row in rows for key in row}
    targets = [t for t in TARGETS.values() if t.key in ("energy", "forces") or f"val/{t.key}_mae" in logged]
    figure = Figure(figsize=(4.5 * len(targets), 3.8), layout="constrained")
    axes = figure.subplots(1, len(targets))
    for axis, target in zip(axes, targets, strict=True):
        for measure, style in zip(MEASURES, ("-", "--"), strict=True):
            key = f"val/{target.key}_{measure}"
            points = [(int(row["epoch"]), float(row[key])) for row in rows if row.get(key)]
            if points:
                axis.plot(*zip(*points, strict=True), style, color=COLOURS[0], label=measure.upper())
                axis.legend(frameon=False)
        axis.set(xlabel="epoch", ylabel=f"validation error, {unit(target)}", yscale="log", title=target.key)
        tidy(axis)
    save(figure, path)


def error_by_hierarchicality(path: Path, evaluated: Evaluated) -> None:
    """Draw the absolute energy error against R, a colour per set."""
    figure = Figure(figsize=(5.5, 4.2), layout="constrained")
    axis = figure.subplots()
    for k, (name, (structures, predictions)) in enumerate(evaluated.items()):
        known = _some(structures.has_energy)
        error = np.abs(predictions.targets["energy"][known] - structures.energy[known]) / KCAL_PER_MOL
        axis.plot(predictions.hierarchicality[known], error, ".", ms=3, alpha=0.5, color=f"C{k}", label=name)
    axis.set(xlabel="R (mean over atoms)", ylabel="|energy error|, kcal/mol", xscale="log", yscale="log")
    axis.legend(frameon=False, markerscale=3)
    tidy(axis)
    save(figure, path)


def rate_test(path: Path, curve: list[tuple[float, float]], rate: float) -> None:
    """Draw the loss of steps at a rising learning rate, relative to the first.

    Parameters
    ----------
    path : PNG file
    curve : rate and loss of each step
    rate : of the training, marked
    """
    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    axis = figure.subplots()
    axis.plot(*zip(*curve, strict=True), color=COLOURS[0])
    axis.axvline(rate, color=COLOURS[1], lw=1.2)
    place = axis.get_xaxis_transform()
    axis.text(rate, 0.97, f"optimizer.lr={rate:g} ", color=COLOURS[1], ha="right", va="top", transform=place)
    axis.set(
        xlabel="learning rate, rising step by step", ylabel="loss, relative to the first", xscale="log", yscale="log"
    )
    tidy(axis)
    save(figure, path)


def _energies_per_atom(
    structures: Structures, predictions: Predictions, e0: NDArray[np.float64], elements: list[int]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """True and predicted energies less E0, kcal/mol per atom."""
    known = _some(structures.has_energy)
    base, sizes = structures.take(known).composition(elements) @ e0, structures.sizes[known]
    energies = (structures.energy, predictions.targets["energy"])
    true, predicted = ((energy[known] - base) / sizes / KCAL_PER_MOL for energy in energies)
    return true, predicted


def _components(structures: Structures, predictions: Predictions, target: Target) -> tuple[NDArray[Any], NDArray[Any]]:
    """True and predicted independent components of a target, in its reported unit."""
    known = structures.has(target.key)
    chosen = _some(np.repeat(known, structures.sizes) if target.per == "atom" else known)
    true, predicted = (
        values[chosen].reshape(len(chosen), -1)[:, target.components].ravel() / target.reported_factor
        for values in (structures.labels[target.key], predictions.targets[target.key])
    )
    return true, predicted


def _some(known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Indices of what is known, at most `DRAWN`, evenly chosen; errors are those of all."""
    index = np.flatnonzero(known)
    return index[:: 1 + len(index) // DRAWN]


def _parity(axis: Axes, true: NDArray[Any], predicted: NDArray[Any], what: str) -> None:
    low, high = float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))
    axis.plot([low, high], [low, high], color=INK, lw=0.8, zorder=1)
    axis.plot(true, predicted, ".", ms=3, alpha=0.35, color=COLOURS[0], zorder=2, rasterized=True)
    axis.set(xlabel=f"reference {what}", ylabel=f"predicted {what}", aspect="equal")
    tidy(axis)
