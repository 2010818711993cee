"""Given weights: more elements without a change of old energies, frozen parts, rates by layer."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms

from hiphop_train.accelerate import accelerate
from hiphop_train.config_files import config_directory
from hiphop_train.data.batching.sampler import BatchSampler
from hiphop_train.errors import ConfigError
from hiphop_train.training.finetuning import Finetuning, OldKnowledge, layers, parameters
from hiphop_train.training.more_elements import grow
from hiphop_train.training.schedules import MONITOR
from tests.conftest import GraphOf, MakeAtoms, PotentialOf

OLD, NEW = ["H", "C", "N", "O"], ["H", "C", "N", "O", "F", "S"]


def test_the_default_changes_nothing() -> None:
    """So a run of before is found again by what defines it."""
    section = yaml.safe_load((config_directory() / "finetune" / "default.yaml").read_text())
    assert section == Finetuning().plain()


def test_old_energies_outlive_new_elements(
    model_name: str, mixed_structures: list[Atoms], potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    """Energies, forces and virials to the last digit but rounding: sums have more zeros."""
    trained, larger = potential_of(model_name), potential_of(model_name, seed=1, elements=NEW)
    for standardisation in trained.terms[0].standardisations:
        standardisation.centre.uniform_(-1, 1)
        standardisation.factor.uniform_(0.5, 2)
    grow(larger, trained)
    before = trained(graph_of(mixed_structures), virial=True)
    after = larger(graph_of(mixed_structures, NEW), virial=True)
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=1e-12, atol=1e-12)


def test_new_elements_have_networks_of_their_own(
    model_name: str, make_molecule: MakeAtoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    """Atoms of a new element differ from all others, and learn: their weights have gradients."""
    larger = potential_of(model_name, seed=1, elements=NEW)
    grow(larger, potential_of(model_name))
    atoms = make_molecule(8, seed=2)
    energies = []
    for symbol in ("C", "F", "S"):
        atoms.symbols[0] = symbol
        energies.append(float((larger(graph_of([atoms], NEW))["energy"] - larger.e0[0, NEW.index(symbol)]).detach()))
    assert len({round(energy, 6) for energy in energies}) == 3
    larger.train()
    larger(graph_of([atoms], NEW))["energy"].sum().backward()
    assert sum(float(p.grad.abs().sum()) > 0 for p in larger.parameters() if p.grad is not None) > 1


def test_frozen_parts_stay_and_the_others_learn_as_before(
    model_name: str, make_molecule: MakeAtoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    """Accelerated too: the gradient of what is left is the same."""
    graph = graph_of([make_molecule(7, seed=k) for k in range(3)])
    gradients: list[dict[str, torch.Tensor]] = []
    for freeze, fast in (([], False), (["readout"], False), (["readout"], True)):
        potential = potential_of(model_name).train()
        if freeze and all(name.startswith("readout") for name in parameters(potential)):
            first = ["readout.networks.*.0"]  # the first layers, where there is nothing below
            freeze = ["readout.bias"] if "readout.bias" in parameters(potential) else first
        Finetuning(freeze).prepare(potential)
        if fast:
            accelerate(potential, torch.float64, torch.device("cpu"), "training")
        outputs = potential(graph)
        (outputs["energy"].square().sum() + outputs["forces"].square().sum()).backward()
        gradients.append({name: p.grad for name, p in parameters(potential).items() if p.grad is not None})
    assert 0 < len(gradients[1]) < len(gradients[0])
    assert gradients[1].keys() == gradients[2].keys()
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradient, gradients[0][name], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(gradients[2][name], gradient, rtol=1e-8, atol=1e-10)


def test_layers_rise_from_input_to_output(model_name: str, potential_of: PotentialOf) -> None:
    potential = potential_of(model_name)
    depth = layers(potential)
    assert set(depth.values()) == set(range(max(depth.values()) + 1))
    learned = {layer for name, layer in depth.items() if name.startswith("representation")}
    readout = {layer for name, layer in depth.items() if name.startswith("readout")}
    if not learned:
        assert len(readout) == 1 if model_name == "ace" else len(readout) > 1  # linear
    else:
        assert readout == {max(learned) + 1}


def test_rates_fall_towards_the_input(potential_of: PotentialOf) -> None:
    potential = potential_of("hipnn", n_interactions=2)
    tuning = Finetuning(["representation.interactions.0"], layer_decay=0.5, rates={"readout": 3.0})
    tuning.prepare(potential)
    groups = tuning.groups(potential, 1e-3)
    assert [group["lr"] for group in groups] == [3e-3, 5e-4, 2.5e-4]
    trained = [parameter for group in groups for parameter in group["params"]]
    assert len({id(p) for p in trained}) == len(trained)
    assert {id(p) for p in trained} == {id(p) for p in potential.parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"freeze": ["readuot"]}, ["finetune.freeze: 'readuot'", "did you mean 'readout'", "parts:", "representation"]),
        ({"freeze": ["*"]}, ["freezes all parameters"]),
        ({"rates": {"representation.blocks": 0.1}}, ["finetune.rates", "fits no parameter"]),
    ],
)
def test_bad_patterns_are_refused(settings: dict[str, Any], parts: list[str], potential_of: PotentialOf) -> None:
    potential = potential_of("hiphop")

    def use() -> None:
        tuning = Finetuning(**settings)
        tuning.prepare(potential)
        tuning.groups(potential, 1e-3)

    with pytest.raises(ConfigError) as error:
        use()
    assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize("settings", [{"replay": 0.5, "old_data": "off"}, {"replay": 0.5, "e0": "fit"}])
def test_contradictions_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"finetune\.replay"):
        Finetuning(**settings)


@pytest.mark.parametrize("how", [{}, {"bucket": 3}, {"cost": True}])
@pytest.mark.parametrize("n_ranks", [1, 2])
def test_each_epoch_draws_other_old_structures(how: dict[str, Any], n_ranks: int) -> None:
    """All new structures once, and as many old ones as asked for; all epochs have equally many batches."""
    n_atoms = np.random.default_rng(0).integers(3, 20, 60)
    index = np.concatenate([np.arange(20), np.arange(100, 140)])
    more = {"bucket": how.get("bucket", 1), "cost": n_atoms.astype(float) if "cost" in how else None}
    size = 60 if "cost" in how else 7
    drawn = []
    for epoch in range(3):
        members: list[int] = []
        lengths = set()
        for rank in range(n_ranks):
            sampler = BatchSampler(index, size, 3, rank, n_ranks, n_atoms=n_atoms, n_pool=40, n_drawn=10, **more)
            sampler.set_epoch(epoch)
            shares = list(sampler)
            lengths.add(len(shares))
            members += [int(k) for share in shares for k in share.chosen[share.weight > 0]]
            if more["bucket"] > 1 or more["cost"] is not None:
                assert np.mean([share.structures_scale for share in shares]) == pytest.approx(1.0)
        assert lengths == {len(sampler)}
        assert sorted(k for k in members if k < 100) == list(range(20))
        drawn.append(sorted(k for k in members if k >= 100))
        assert len(set(drawn[-1])) == len(drawn[-1]) == 10
    assert drawn[0] != drawn[1] != drawn[2]


def trainer(**metrics: float) -> Any:
    values = {key.replace("old_", "old/"): value for key, value in metrics.items() if key != "score"}
    state = {MONITOR: metrics["score"], **values}
    return SimpleNamespace(callback_metrics=state, should_stop=False, is_global_zero=True, current_epoch=0)


def test_lost_knowledge_is_said_once_and_ends_the_training(capsys: pytest.CaptureFixture[str]) -> None:
    module: Any = None
    warns, stops = (OldKnowledge({"energy": 1.0, "forces": 2.0}, 2.0, action) for action in ("warn", "stop"))
    fine = trainer(score=3.0, old_energy_mae=1.9, old_forces_mae=3.9)
    bad = trainer(score=2.0, old_energy_mae=1.9, old_forces_mae=4.1)
    for callback in (warns, stops):
        callback.on_validation_end(fine, module)
        assert not fine.should_stop
        assert capsys.readouterr().err == ""
    for _ in range(2):
        warns.on_validation_end(bad, module)
    assert capsys.readouterr().err.count("old knowledge is lost") == 1
    assert not bad.should_stop
    stops.on_validation_end(bad, module)
    assert bad.should_stop
    assert "F 2.000 -> 4.100" in capsys.readouterr().err
    again = OldKnowledge({"energy": 1.0, "forces": 2.0}, None, "stop")
    again.load_state_dict(stops.state_dict())
    again.on_train_end(bad, module)
    assert "E 1.000 -> 1.900" in capsys.readouterr().out
    again.on_validation_end(trainer(score=math.inf, old_energy_mae=99.0, old_forces_mae=99.0), module)
    assert capsys.readouterr().err == ""
