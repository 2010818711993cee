"""Errors summed over uneven batches are those of the whole."""

import itertools

import numpy as np
import pytest
import torch

from hiphop_train.training.metrics import Errors
from hiphop_train.types import Outputs

EV_PER_KCAL_PER_MOL = 4184 / (6.02214076e23 * 1.602176634e-19)  # both exact since 2019
SIZES = np.array([3, 1, 5, 2, 4, 4, 1])
STARTS = np.cumsum(SIZES) - SIZES


def data() -> tuple[Outputs, Outputs]:
    generator = torch.Generator().manual_seed(0)
    n, n_atoms = len(SIZES), int(SIZES.sum())
    uneven = torch.arange(n, 0, -1, dtype=torch.float64)  # so that batches differ
    outputs = {
        "energy": uneven * torch.randn(n, dtype=torch.float64, generator=generator),
        "forces": torch.randn(n_atoms, 3, dtype=torch.float64, generator=generator),
    }
    labels = {
        "energy": torch.randn(n, dtype=torch.float64, generator=generator),
        "forces": torch.randn(n_atoms, 3, dtype=torch.float64, generator=generator),
        "energy_weight": torch.tensor([1.0, 1, 0, 1, 1, 1, 1], dtype=torch.float64),
        "forces_weight": torch.tensor([1.0, 1, 1, 1, 0, 1, 1], dtype=torch.float64).repeat_interleave(
            torch.from_numpy(SIZES)
        ),
    }
    return outputs, labels


def cut(values: Outputs, systems: range) -> Outputs:
    atoms = slice(int(STARTS[systems[0]]), int(STARTS[systems[-1]] + SIZES[systems[-1]]))
    return {
        key: value[atoms if "forces" in key else slice(systems.start, systems.stop)] for key, value in values.items()
    }


def expected_errors() -> dict[str, float]:
    outputs, labels = data()
    found = {}
    for key in ("energy", "forces"):
        error = ((outputs[key] - labels[key]) / EV_PER_KCAL_PER_MOL)[labels[f"{key}_weight"] > 0].numpy()
        found[f"{key}_mae"] = float(np.abs(error).mean())
        found[f"{key}_rmse"] = float(np.sqrt((error**2).mean()))
    return found


def as_floats(metric: Errors) -> dict[str, float]:
    return {key: float(value) for key, value in metric.compute().items()}


@pytest.mark.parametrize("cuts", [[0, 7], [0, 1, 7], [0, 3, 4, 7], [0, 1, 2, 3, 4, 5, 6, 7]])
def test_uneven_batches_equal_the_whole(cuts: list[int]) -> None:
    """In kcal/mol; labels of weight zero do not count."""
    metric = Errors()
    outputs, labels = data()
    for start, stop in itertools.pairwise(cuts):
        metric.update(cut(outputs, range(start, stop)), cut(labels, range(start, stop)))
    assert as_floats(metric) == pytest.approx(expected_errors(), rel=1e-8)


def test_further_targets_count_where_they_have_labels_and_outputs() -> None:
    """Six components of a stress, in GPa."""
    outputs, labels = data()
    weight = torch.tensor([0.0, 1, 1, 0, 0, 0, 1], dtype=torch.float64)
    error = torch.arange(9.0 * len(SIZES), dtype=torch.float64).reshape(-1, 3, 3)
    error = error + error.transpose(1, 2)
    labels |= {"stress": torch.zeros_like(error), "stress_weight": weight}
    labels |= {"dipole": torch.zeros(len(SIZES), 3), "dipole_weight": weight}  # this potential has none
    metric = Errors()
    metric.update(outputs, labels)
    assert as_floats(metric) == pytest.approx(expected_errors(), rel=1e-8)
    metric.reset()
    metric.update({**outputs, "stress": error / 160.2176634}, labels)
    components = error[weight > 0][:, *np.triu_indices(3)].numpy()
    expected = {"stress_mae": components.mean(), "stress_rmse": np.sqrt((components**2).mean())}
    assert as_floats(metric) == pytest.approx({**expected_errors(), **expected}, rel=1e-8)


def test_mean_over_batches_would_be_another_number() -> None:
    """The data above distinguish averages of batches from sums."""
    outputs, labels = data()
    means = []
    for systems in (range(1), range(1, 7)):
        metric = Errors()
        metric.update(cut(outputs, systems), cut(labels, systems))
        means.append(as_floats(metric)["energy_rmse"])
    assert abs(np.mean(means) / expected_errors()["energy_rmse"] - 1) > 0.05


def test_states_of_two_ranks_add_up() -> None:
    outputs, labels = data()
    ranks = [Errors(), Errors()]
    for metric, systems in zip(ranks, (range(2), range(2, 7)), strict=True):
        metric.update(cut(outputs, systems), cut(labels, systems))
    merged = Errors()
    reduce = merged._reductions["sums"]
    merged.sums = reduce(torch.stack([metric.sums for metric in ranks]))
    merged._update_count = 1
    assert as_floats(merged) == pytest.approx(expected_errors(), rel=1e-8)


@pytest.mark.parametrize("missing", ["energy", "forces"])
def test_targets_without_labels_are_absent(missing: str) -> None:
    outputs, labels = data()
    labels[f"{missing}_weight"] = torch.zeros_like(labels[f"{missing}_weight"])
    metric = Errors()
    metric.update(outputs, labels)
    other = {"energy": "forces", "forces": "energy"}[missing]
    assert set(as_floats(metric)) == {f"{other}_mae", f"{other}_rmse"}


def test_reset_starts_over() -> None:
    outputs, labels = data()
    metric = Errors()
    metric.update({key: 3 * value for key, value in outputs.items()}, labels)
    metric.reset()
    metric.update(outputs, labels)
    assert as_floats(metric) == pytest.approx(expected_errors(), rel=1e-8)


def test_sums_stay_in_double_precision_and_keep_no_gradient() -> None:
    outputs, labels = data()
    metric = Errors()
    single = {key: value.float().requires_grad_(True) for key, value in outputs.items()}
    metric.update(single, labels)
    assert metric.sums.dtype == torch.float64
    assert not metric.sums.requires_grad
    assert as_floats(metric) == pytest.approx(expected_errors(), rel=1e-5)
