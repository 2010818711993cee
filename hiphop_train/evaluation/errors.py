"""Predictions and their errors: energies, relative energies of conformers, force components."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hiphop_train.data.batching.loader import batch_loader
from hiphop_train.data.batching.sampler import BatchSampler
from hiphop_train.data.batching.sharing import exchanged
from hiphop_train.data.structures import Structures
from hiphop_train.potential import Potential
from hiphop_train.types import Graph, Prepare
from hiphop_train.units import KCAL_PER_MOL


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a potential says of structures.

    Attributes
    ----------
    energy : (n,) eV
    forces : (n_atoms, 3) eV/Angstrom, in the network's floating-point type
    hierarchicality : (n,) mean over atoms of R
    """

    energy: NDArray[np.float64]
    forces: NDArray[Any]
    hierarchicality: NDArray[np.float64]

    def cut(self, structures: Structures, start: int, stop: int) -> "Predictions":
        """Predictions of a range of the structures."""
        atoms = slice(structures.offsets[start], structures.offsets[stop])
        return Predictions(self.energy[start:stop], self.forces[atoms], self.hierarchicality[start:stop])


def predict(
    potential: Potential,
    structures: Structures,
    dtype: torch.dtype,
    batch_size: int = 64,
    device: str = "cpu",
    advance: Callable[[int], None] = lambda n: None,
    prepare: Prepare | None = None,
) -> Predictions:
    """Evaluate a potential on all structures.

    Parameters
    ----------
    potential : moved to `device` for good
    structures : any
    dtype : of the network
    batch_size : structures at a time
    device : cpu or cuda
    advance : called with the number of structures after each batch, for progress
    prepare : of an accelerated potential
    """
    potential = potential.to(device).eval()
    energy, forces, hierarchicality = [], [], []
    sampler = BatchSampler(np.arange(len(structures)), batch_size)
    loader = batch_loader(structures, sampler, potential.elements, potential.cutoff, dtype, prepare=prepare)
    for batch in loader:
        graph: Graph = exchanged(batch.graph, torch.Tensor, lambda part: part.to(device))
        outputs = potential(graph)
        energy.append(outputs["energy"].detach().cpu().double().numpy())
        forces.append(outputs["forces"].detach().cpu().numpy())
        hierarchicality.append(outputs["hierarchicality"].detach().cpu().double().numpy())
        advance(graph.n_systems)
    return Predictions(np.concatenate(energy), np.concatenate(forces), np.concatenate(hierarchicality))


def energy_errors(structures: Structures, predictions: Predictions) -> NDArray[np.float64]:
    """Errors of energies, kcal/mol, of structures with a known energy (n_known,)."""
    return (predictions.energy - structures.energy)[structures.has_energy] / KCAL_PER_MOL


def force_errors(structures: Structures, predictions: Predictions) -> NDArray[Any]:
    """Errors of force components, kcal/mol/Angstrom, of structures with known forces (n_components,)."""
    error = predictions.forces - structures.forces
    if not structures.has_forces.all():
        error = error[np.repeat(structures.has_forces, structures.sizes)]
    error /= KCAL_PER_MOL
    return error.ravel()


def relative_energy_errors(structures: Structures, predictions: Predictions) -> list[NDArray[np.float64]]:
    """Errors of energies, kcal/mol, in ascending order, of the conformers of each group at one level of theory.

    Their differences are the errors of relative energies; see `summarise_differences`.
    """
    known = structures.has_energy
    error = (predictions.energy - structures.energy)[known] / KCAL_PER_MOL
    group = (structures.group * len(structures.level_names) + structures.level)[known]
    order = np.lexsort((error, group))
    starts = np.flatnonzero(np.diff(group[order])) + 1
    return [members for members in np.split(error[order], starts) if len(members) > 1]


def summarise(error: NDArray[Any]) -> dict[str, float]:
    """Return ``n``, ``mae``, ``rmse``, ``median`` and ``max`` of the absolute error; empty without errors."""
    if not len(error):
        return {}
    size = np.abs(error)
    pieces = np.array_split(size, 1 + len(size) // 1_000_000)  # of a large split the squares would fill the memory
    squares = sum(float(np.square(piece, dtype=np.float64).sum()) for piece in pieces)
    return {
        "n": len(error),
        "mae": float(size.mean(dtype=np.float64)),
        "rmse": math.sqrt(squares / len(error)),
        "median": float(np.median(size)),
        "max": float(size.max()),
    }


def summarise_differences(groups: list[NDArray[np.float64]]) -> dict[str, float]:
    """Do as `summarise` does with the differences of all pairs i < j within groups, without making the pairs.

    A test split of ANI-1x has hundreds of millions of them. Sums follow from the order: of n ascending numbers x_k,
    sum_(i<j) (x_j - x_i) = sum_k (2 k - n + 1) x_k and sum_(i<j) (x_j - x_i)^2 = n sum_k (x_k - mean)^2; the median is
    found by bisection, counting the pairs that are closer than a bound.

    Parameters
    ----------
    groups : each (n >= 2,) in ascending order
    """
    if not groups:
        return {}
    n_pairs = sum(len(x) * (len(x) - 1) // 2 for x in groups)
    centred = [x - x.mean() for x in groups]
    total = sum(float((2 * np.arange(len(x)) - len(x) + 1) @ x) for x in centred)
    squares = sum(len(x) * float(x @ x) for x in centred)
    largest = max(float(x[-1] - x[0]) for x in groups)
    middle = [_ranked_difference(centred, rank, largest) for rank in ((n_pairs + 1) // 2, n_pairs // 2 + 1)]
    return {
        "n": n_pairs,
        "mae": total / n_pairs,
        "rmse": math.sqrt(squares / n_pairs),
        "median": sum(middle) / 2,
        "max": largest,
    }


def _ranked_difference(groups: list[NDArray[np.float64]], rank: int, largest: float) -> float:
    """Return the rank-th smallest of all differences, to 1e-12 of the largest."""
    low, high = 0.0, largest
    while high - low > 1e-12 * largest:
        bound = (low + high) / 2
        closer = sum(
            int(np.searchsorted(x, x + bound, side="right").sum()) - len(x) * (len(x) + 1) // 2 for x in groups
        )
        low, high = (low, bound) if closer >= rank else (bound, high)
    return high


def error_table(structures: Structures, predictions: Predictions) -> dict[str, Any]:
    """Summarise errors.

    Returns
    -------
    table : dict
        ``n_structures``; and under ``energy``, ``relative_energy`` (of all pairs of conformers of a group, pooled) and
        ``forces``, where there are labels, ``n``, ``mae``, ``rmse``, ``median`` and ``max`` of the absolute error in
        kcal/mol (per Angstrom) and ``mae_meV``, ``rmse_meV`` in meV (per Angstrom)
    """
    table: dict[str, Any] = {"n_structures": len(structures)}
    for name, summary in (
        ("energy", summarise(energy_errors(structures, predictions))),
        ("relative_energy", summarise_differences(relative_energy_errors(structures, predictions))),
        ("forces", summarise(force_errors(structures, predictions))),
    ):
        if summary:
            millielectronvolts = {f"{key}_meV": 1000 * summary[key] * KCAL_PER_MOL for key in ("mae", "rmse")}
            table[name] = summary | millielectronvolts
    return table


def quantiles_by_hierarchicality(
    structures: Structures, predictions: Predictions, n_bins: int = 5
) -> list[dict[str, float]]:
    """Quantiles of the absolute energy error in bins of R, each with as many structures.

    In HIP-NN's paper the error rises with R (JCP 148, 241715, fig. 6), which makes R a warning without a second model.

    Returns
    -------
    bins : list of dict
        ``r_low``, ``r_high``, ``n``, and ``q50``, ``q90``, ``q95`` of the absolute error in kcal/mol
    """
    error = np.abs(energy_errors(structures, predictions))
    r = predictions.hierarchicality[structures.has_energy]
    rows = []
    for members in np.array_split(np.argsort(r, kind="stable"), n_bins):
        if len(members):
            q50, q90, q95 = np.quantile(error[members], [0.5, 0.9, 0.95])
            low, high = float(r[members].min()), float(r[members].max())
            rows.append(
                {
                    "r_low": low,
                    "r_high": high,
                    "n": len(members),
                    "q50": float(q50),
                    "q90": float(q90),
                    "q95": float(q95),
                }
            )
    return rows
