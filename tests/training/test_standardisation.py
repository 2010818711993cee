"""Standardised features: statistics of the training structures, by element, bounded, saved with the weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hiphop_train import build, checkpoint, cli
from hiphop_train.config import load_config
from hiphop_train.data.module import DataModule
from hiphop_train.potential import Potential
from hiphop_train.training.statistics import LARGEST, SMALLEST_SCALE, fit_representation

Parts = tuple[Potential, DataModule]


def make_parts(*overrides: str) -> Parts:
    config = load_config("train", ["dtype=float64", *overrides])
    torch.manual_seed(0)
    potential = build.make_potential(config.model, torch.float64)
    return potential, build.make_data(config.data, potential, torch.float64, 0)


@pytest.fixture(scope="module")
def fitted() -> Parts:
    """Potential with one element more than the data."""
    potential, data = make_parts("model=bp", "model.elements=[H,C,N,O,S]")
    fit_representation(potential, data)
    return potential, data


@pytest.fixture(scope="module")
def raw(fitted: Parts) -> tuple[np.ndarray, np.ndarray]:
    """Raw features of all training atoms, and their species."""
    potential, data = fitted
    features, species = [], []
    with torch.no_grad():
        for batch in data.sample_dataloader("train"):
            features.append(potential.terms[0].representation(batch.graph)[0].numpy())
            species.append(batch.graph.species.numpy())
    return np.concatenate(features), np.concatenate(species)


def expected_statistics(potential: Potential, features: np.ndarray, species: np.ndarray) -> tuple[np.ndarray, ...]:
    """Means, standard deviations, largest differences from the mean of the elements that occur."""
    groups = [features[species == element] for element in range(4)]
    mean = np.stack([values.mean(axis=0) for values in groups])
    deviation = np.stack([values.std(axis=0) for values in groups])
    largest = np.stack([np.abs(values - values.mean(axis=0)).max(axis=0) for values in groups])
    return mean, deviation, largest


def test_centre_and_factor_are_the_formulas(fitted: Parts, raw: tuple[np.ndarray, np.ndarray]) -> None:
    """One over the standard deviation, between two bounds, each of which is reached."""
    potential, _ = fitted
    (standardisation,) = potential.terms[0].standardisations
    mean, deviation, largest = expected_statistics(potential, *raw)
    within = np.maximum(deviation, largest / LARGEST)
    functions = np.array(potential.terms[0].representation.standardised_functions)
    bound = np.empty_like(within)
    for function in np.unique(functions):
        bound[:, functions == function] = SMALLEST_SCALE * within[:, functions == function].max()
    scale = np.maximum(within, bound)
    np.testing.assert_allclose(standardisation.centre[:4], mean, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(standardisation.factor[:4], 1 / scale, rtol=1e-6)
    for reached in (deviation, largest / LARGEST, bound):
        assert np.isclose(scale, reached, rtol=1e-6).sum() > 100
    assert not standardisation.centre[4].any()  # no atom of it among the structures
    assert (standardisation.factor[4] == 1).all()


def test_functions_of_the_features() -> None:
    """The same function of other species has the same number."""
    potential, _ = make_parts("model=bp", "model.elements=[H,C]", "model.g2=[[1,1],[2,2]]", "model.g4=[[0.1,1,1]]")
    assert potential.terms[0].representation.standardised_functions == [0, 1, 0, 1, 2, 2, 2]
    assert potential.terms[0].representation.feature_sizes == [7]


def test_standardised_features_are_centred_and_bounded(fitted: Parts, raw: tuple[np.ndarray, np.ndarray]) -> None:
    (standardisation,) = fitted[0].terms[0].standardisations
    features, species = (torch.from_numpy(array) for array in raw)
    standard = standardisation(features, species)
    assert standard.abs().max() < LARGEST * (1 + 1e-12)
    for element in range(4):
        values = standard[species == element]
        assert values.mean(0).abs().max() < 1e-10
        assert values.std(0).max() < 1.001
    single = standardisation(features[:5].float(), species[:5])
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), standard[:5], rtol=1e-4, atol=1e-4)


def test_network_reads_standardised_features(fitted: Parts) -> None:
    potential, data = fitted
    network = potential.terms[0]
    graph = next(iter(data.sample_dataloader("val"))).graph
    features = network.standardisations[0](network.representation(graph)[0], graph.species)
    energies = network.readout([features], graph)["energies"].to(torch.float64) * network.scale
    torch.testing.assert_close(network(graph)["energies"], energies)


def test_only_where_the_model_requests_it() -> None:
    for model, expected in (("hipnn", 0), ("ani", 0), ("bp", 1)):
        potential, data = make_parts(f"model={model}")
        before = {key: value.clone() for key, value in potential.state_dict().items()}
        fit_representation(potential, data)
        after = potential.state_dict()
        changed = [key for key, value in after.items() if not torch.equal(value, before[key])]
        assert len([key for key in after if "standardisations" in key]) == 2 * expected
        assert len(changed) == 2 * expected
    potential, _ = make_parts("model=ani", "model.standardise=true")
    assert len(potential.terms[0].standardisations) == 1


def test_sample_is_spread_over_the_split(fitted: Parts) -> None:
    _, data = fitted
    samples = [batch.sample.numpy() for batch in data.sample_dataloader("train", at_most=100)]
    index = np.concatenate(samples)
    train = data.splits["train"]
    assert 50 < len(index) <= 100
    assert len(set(np.diff(np.searchsorted(train, index)))) == 1
    whole = np.concatenate([batch.sample.numpy() for batch in data.sample_dataloader("train")])
    np.testing.assert_array_equal(whole, train)


def test_training_fits_and_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint contains what was fitted, unchanged by training and averaging, and resuming keeps it."""
    monkeypatch.chdir(tmp_path)
    command = ["debug=fast", "pictures=false", "trainer.accelerator=cpu", "model=bp", f"run_dir={tmp_path / 'run'}"]
    assert cli.run("train", command) == 0
    expected, data = make_parts("model=bp")
    fit_representation(expected, data)
    kept = checkpoint.load(str(tmp_path / "run")).potential.terms[0].standardisations[0]
    reference = expected.terms[0].standardisations[0]
    torch.testing.assert_close(kept.centre, reference.centre, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(kept.factor, reference.factor, rtol=1e-3, atol=0)
    assert kept.centre.any()
    assert kept.factor.max() > 2


@pytest.mark.parametrize(
    ("model", "names"), [("nequip", ["representation"]), ("allegro", ["representation", "readout"])]
)
def test_mean_number_of_neighbours(model: str, names: list[str]) -> None:
    """Of the training structures alone, where a model or its readout declares that it divides by it."""
    potential, data = make_parts(f"model={model}")
    parts = [potential.terms[0].get_submodule(name) for name in names]
    assert all(float(part.average_neighbours) == 1.0 for part in parts)
    fit_representation(potential, data)
    counts = [(len(batch.graph.pair_i), len(batch.graph.species)) for batch in data.sample_dataloader("train")]
    n_pairs, n_atoms = np.sum(counts, axis=0)
    for part in parts:
        assert float(part.average_neighbours) == pytest.approx(n_pairs / n_atoms, rel=1e-6)
    assert n_pairs / n_atoms > 5
