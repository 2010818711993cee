"""E0 of several levels of theory, named and given ones; how a model's levels of theory are found in data."""

from typing import Any

import numpy as np
import pytest
import torch

from hiphop_train.build import make_data, make_potential
from hiphop_train.config import load_config
from hiphop_train.data.formats.collector import Collector
from hiphop_train.data.statistics import GSAE, fit_statistics
from hiphop_train.data.structures import Structures
from hiphop_train.errors import ConfigError
from hiphop_train.units import HARTREE

ATOMS = {"low": {1: -13.0, 8: -2040.0}, "high": {1: -13.6, 8: -2050.0}}  # eV


def two_levels(levels: tuple[str, ...] = ("low", "high")) -> Structures:
    """Waters and hydrogen molecules whose energies are exactly those of their atoms."""
    rng = np.random.default_rng(0)
    found = Collector("set.h5")
    for level in levels:
        for numbers in ([8, 1, 1], [1, 1]):
            energy = np.full(6, sum(ATOMS[level][number] for number in numbers))
            found.add(
                str(numbers), np.array(numbers), rng.normal(size=(6, len(numbers), 3)), {"energy": energy}, theory=level
            )
    return found.finish("all")


def test_each_theory_has_an_e0_of_its_own() -> None:
    statistics = fit_statistics(two_levels(), [1, 8])
    expected = [[ATOMS[level][number] for number in (1, 8)] for level in ("low", "high")]
    np.testing.assert_allclose(statistics.e0, expected, rtol=1e-12)
    assert statistics.residual < 1e-9
    assert statistics.rank == 2


def test_only_the_training_split_counts() -> None:
    structures = two_levels(("low",))
    structures.energy[3] += 100.0
    index = np.array([0, 1, 2, 4, 5, 6, 7, 8])
    np.testing.assert_allclose(fit_statistics(structures, [1, 8], index).e0[0], [-13.0, -2040.0], rtol=1e-12)
    assert abs(fit_statistics(structures, [1, 8]).e0[0, 1] + 2040.0) > 1.0


@pytest.mark.parametrize(("name", "theory"), [("gsae", "gsae"), ("gsae_tz", "gsae_tz")])
def test_named_e0(name: Any, theory: str) -> None:
    statistics = fit_statistics(two_levels(("low",)), [1, 8], e0=name)
    np.testing.assert_allclose(statistics.e0[0], [GSAE[theory]["H"] * HARTREE, GSAE[theory]["O"] * HARTREE], rtol=1e-14)
    assert not statistics.fitted


def test_given_e0() -> None:
    statistics = fit_statistics(two_levels(("low",)), [8, 1], e0={"H": -13.0, "O": -2039.0, "N": 0.0})
    np.testing.assert_allclose(statistics.e0[0], [-2039.0, -13.0])
    assert statistics.residual == pytest.approx(0.5, rel=1e-9)  # waters are 1 eV off, hydrogen molecules are right


def test_unusable_e0_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"has no energy of O, only of H.*data\.e0=fit"):
        fit_statistics(two_levels(("low",)), [1, 8], e0={"H": -13.0})
    with pytest.raises(ConfigError, match=r"several levels of theory \(low, high\) E0 must be fitted"):
        fit_statistics(two_levels(), [1, 8], e0="gsae")


@pytest.fixture
def data() -> Any:
    """The embedded set, as a module, with its structures replaced by those above."""
    config = load_config("train", ["data=tiny", "data.check=false"])
    module = make_data(config.data, make_potential(config.model, torch.float32), torch.float32, 0)
    module._structures = two_levels()
    return module


def test_theories_are_those_of_the_model(data: Any) -> None:
    before = data.structures.theory.copy()
    data.use_theories(["high", "low"])
    np.testing.assert_array_equal(data.structures.theory, 1 - before)
    assert data.structures.theory_names == ("high", "low")


def test_a_model_of_one_theory_uses_it_for_all_data(data: Any) -> None:
    data.use_theories(["other"])
    assert not np.asarray(data.structures.theory).any()


def test_theories_that_the_model_does_not_know_must_be_given(data: Any) -> None:
    with pytest.raises(ConfigError, match=r"levels of theory low, third, but set\.h5 has 'high'.*level_of_theory=low"):
        data.use_theories(["low", "third"])
    data.level_of_theory = "thrid"
    with pytest.raises(ConfigError, match="'thrid' is not one of the model's levels of theory; did you mean 'third'"):
        data.use_theories(["low", "third"])
    data.level_of_theory = "third"
    data.use_theories(["low", "third"])
    assert (np.asarray(data.structures.theory) == 1).all()
