"""The module differentiates the loss with respect to the parameters, and nothing else."""

import pytest
import torch

from hiphop_train.graph.assemble import with_pair_vectors
from hiphop_train.training.losses import ErrorLoss, Loss
from hiphop_train.training.module import PotentialModule, differentiate
from hiphop_train.training.schedules import MONITOR, CosineSchedule
from hiphop_train.types import Batch
from tests.conftest import GraphOf, MakeAtoms, PotentialOf


def test_gradients_are_those_of_backward_for_parameters_alone(
    model_name: str, make_molecule: MakeAtoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    potential = potential_of(model_name).train()
    graph = graph_of([make_molecule(6, seed=31), make_molecule(1, seed=32)])
    parameters = list(potential.parameters())

    def gradients(plain: bool) -> list[torch.Tensor | None]:
        potential.zero_grad()
        vectors = graph.pair_vectors.clone().requires_grad_(True)
        energy = potential(with_pair_vectors(graph, vectors), forces=False)["energy"]
        forces = torch.autograd.grad(energy.sum(), vectors, create_graph=True)[0]
        loss = energy.square().sum() + (forces - 0.1).square().sum()
        if plain:
            loss.backward()
        else:
            differentiate(loss, potential)
        assert (vectors.grad is not None) == plain
        return [parameter.grad for parameter in parameters]

    for found, expected in zip(gradients(plain=False), gradients(plain=True), strict=True):
        assert (found is None) == (expected is None)
        if found is not None:
            assert torch.equal(found, expected)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_schedules_watch_energy_forces_and_what_the_loss_weighs(
    weight: float, make_box: MakeAtoms, potential_of: PotentialOf, graph_of: GraphOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A label that is only reported does not choose the best checkpoint."""
    potential, graph = potential_of("hipnn"), graph_of([make_box(4, seed=61), make_box(3, seed=62)])
    labels = {"energy": torch.zeros(2), "forces": torch.zeros(7, 3), "stress": torch.zeros(2, 3, 3)}
    labels |= {f"{key}_weight": torch.ones(len(label)) for key, label in labels.items()}
    loss = Loss(ErrorLoss(), ErrorLoss(mae=1.0), stress=ErrorLoss(mae=weight))
    optimizer = torch.optim.Adam(potential.parameters())
    module = PotentialModule(potential, loss, optimizer, CosineSchedule(0.1, 0.1), {})
    logged: dict[str, float] = {}
    monkeypatch.setattr(module, "log", lambda name, value: logged.__setitem__(name, float(value)))
    module.validation_step(Batch(graph, labels, torch.arange(2)), 0)
    module.on_validation_epoch_end()
    watched = ["energy", "forces", *(["stress"] if weight else [])]
    expected = sum(logged[f"val/{key}_{measure}"] for key in watched for measure in ("mae", "rmse"))
    assert logged[MONITOR] == pytest.approx(expected, rel=1e-12)
    assert logged["val/stress_rmse"] > logged["val/stress_mae"] > 0


def test_every_parameter_has_a_gradient_though_the_loss_does_not_weigh_its_target(
    make_molecule: MakeAtoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    """Data parallelism stops a training otherwise."""
    potential, graph = potential_of("hiphop_dipole").train(), graph_of([make_molecule(6, seed=63)])
    labels = {"energy": torch.zeros(1), "forces": torch.zeros(6, 3), "weight": torch.ones(1)}
    labels |= {"energy_weight": torch.ones(1), "forces_weight": torch.ones(6)}
    optimizer = torch.optim.Adam(potential.parameters())
    loss = Loss(ErrorLoss(mae=1.0), ErrorLoss(mae=1.0))
    module = PotentialModule(potential, loss, optimizer, CosineSchedule(0.1, 0.1), {})
    assert module.untrained == ["dipole"]
    module.backward(module._loss(Batch(graph, labels, torch.arange(1))))
    charges = set(potential.terms[0].readout.network.parameters())
    for parameter in potential.parameters():
        assert parameter.grad is not None
        if parameter in charges:
            assert not parameter.grad.any()
