"""Predictions and their errors: of every target, and of relative energies of conformers."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hiphop_train.data.batching.dataset import BatchDataset
from hiphop_train.data.batching.loader import BatchLoader
from hiphop_train.data.batching.sampler import BatchSampler
from hiphop_train.data.batching.transfer import to_device
from hiphop_train.data.structures import Structures
from hiphop_train.potential import Potential
from hiphop_train.targets import TARGETS, Target, derivatives
from hiphop_train.types import Graph, Prepare

MEASURES = ("mae", "rmse")
"""Measures of errors in tables."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a potential predicts for structures.

    Attributes
    ----------
    targets : target key -> array of the target's shape and unit, as the labels of `Structures`; forces are in the
        network's floating-point type
    hierarchicality : (n,) mean over atoms of R
    """

    targets: dict[str, NDArray[Any]]
    hierarchicality: NDArray[np.float64]

    def cut(self, structures: Structures, start: int, stop: int) -> "Predictions":
        """Predictions of a range of the structures."""
        atoms, chosen = slice(structures.offsets[start], structures.offsets[stop]), slice(start, stop)
        targets = {key: values[atoms if TARGETS[key].per == "atom" else chosen] for key, values in self.targets.items()}
        return Predictions(targets, self.hierarchicality[chosen])


def predict(
    potential: Potential,
    structures: Structures,
    dtype: torch.dtype,
    batch_size: int = 64,
    device: str = "cpu",
    advance: Callable[[int], None] = lambda n: None,
    prepare: Prepare | None = None,
) -> Predictions:
    """Evaluate a potential on all structures, for the targets that these have labels of.

    Parameters
    ----------
    potential : moved to `device` for good
    structures : any
    dtype : of the network
    batch_size : structures in a batch
    device : cpu or cuda
    advance : called with the number of structures after each batch, for progress
    prepare : of an accelerated potential
    """
    potential = potential.to(device).eval()
    targets: dict[str, list[NDArray[Any]]] = {key: [] for key in structures.labels}
    hierarchicality = []
    sampler = BatchSampler(np.arange(len(structures)), batch_size)
    dataset = BatchDataset(structures, potential.elements, potential.cutoff, dtype, prepare=prepare)
    for batch in BatchLoader(dataset, sampler):
        graph: Graph = to_device(batch.graph, device)
        outputs = potential(graph, **derivatives(targets))
        for key in targets.keys() & outputs.keys():
            targets[key].append(outputs[key].detach().cpu().numpy())
        hierarchicality.append(outputs["hierarchicality"].detach().cpu().double().numpy())
        advance(graph.n_systems)
    found = {key: np.concatenate(parts) for key, parts in targets.items() if parts}
    return Predictions(found, np.concatenate(hierarchicality))


def errors(structures: Structures, predictions: Predictions, key: str) -> NDArray[Any]:
    """Errors of a target in its reported unit (n,): of all independent components, where label and prediction exist."""
    if key not in structures.labels or key not in predictions.targets:
        return np.zeros(0)
    target, known = TARGETS[key], structures.has(key)
    error = predictions.targets[key] - structures.labels[key]
    if not known.all():
        error = error[np.repeat(known, structures.sizes) if target.per == "atom" else known]
    error /= target.reported_factor
    return error.reshape(len(error), -1)[:, target.components].ravel() if target.is_symmetric else error.ravel()


def relative_energy_errors(structures: Structures, predictions: Predictions) -> list[NDArray[np.float64]]:
    """Return errors of energies, kcal/mol, in ascending order, of the conformers of each group at one level of theory.

    Their differences are the errors of relative energies; see `summarise_differences`.
    """
    known = structures.has_energy
    error = errors(structures, predictions, "energy")
    group = (structures.group * len(structures.theory_names) + structures.theory)[known]
    order = np.lexsort((error, group))
    starts = np.flatnonzero(np.diff(group[order])) + 1
    return [members for members in np.split(error[order], starts) if len(members) > 1]


def summarise(error: NDArray[Any]) -> dict[str, float]:
    """Return ``n``, ``mae``, ``rmse``, ``median`` and ``max`` of the absolute error; empty without errors."""
    if not len(error):
        return {}
    size = np.abs(error)
    blocks = np.array_split(size, 1 + len(size) // 1_000_000)  # squares of a large split would fill the memory
    squares = sum(float(np.square(block, dtype=np.float64).sum()) for block in blocks)
    return {
        "n": len(error),
        "mae": float(size.mean(dtype=np.float64)),
        "rmse": math.sqrt(squares / len(error)),
        "median": float(np.median(size)),
        "max": float(size.max()),
    }


def summarise_differences(groups: list[NDArray[np.float64]]) -> dict[str, float]:
    """Do as `summarise` does with the differences of all pairs i < j within groups, without storing the pairs.

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


def kinds(tables: Iterable[Mapping[str, Any]] = ()) -> dict[str, Target]:
    """Return the rows of error tables with the target whose units each has.

    Energy, relative energy and forces are always among them; further targets where one of the tables has them.
    """
    found = {"energy": TARGETS["energy"], "relative_energy": TARGETS["energy"], "forces": TARGETS["forces"]}
    tables = list(tables)
    return found | {key: target for key, target in TARGETS.items() if any(key in table for table in tables)}


def title(kind: str, target: Target) -> str:
    """Return the title of a kind of error, with its unit unless that is kcal/mol (/Angstrom), which captions name."""
    name = kind.replace("_", " ")
    return name if target.reported_unit.startswith("kcal/mol") else f"{name}, {target.reported_unit}"


def error_table(structures: Structures, predictions: Predictions) -> dict[str, Any]:
    """Summarise errors.

    Returns
    -------
    table : dict
        ``n_structures``; and under each target's key and ``relative_energy`` (of all pairs of conformers of a group,
        pooled), where there are labels, ``n``, ``mae``, ``rmse``, ``median`` and ``max`` of the absolute error in the
        reported unit, and ``mae_meV``, ``rmse_meV`` in meV (per Angstrom, per Angstrom^3) where the unit has eV
    """
    table: dict[str, Any] = {"n_structures": len(structures)}
    for kind, target in kinds([structures.labels]).items():
        if kind == "relative_energy":
            summary = summarise_differences(relative_energy_errors(structures, predictions))
        else:
            summary = summarise(errors(structures, predictions, kind))
        if summary and target.milli_unit:
            summary |= {f"{key}_meV": 1000 * summary[key] * target.reported_factor for key in MEASURES}
        if summary:
            table[kind] = summary
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
    error = np.abs(errors(structures, predictions, "energy"))
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
