"""The module differentiates the loss with respect to the parameters, and nothing else."""

import torch

from hiphop_train.graph.assemble import with_pair_vectors
from hiphop_train.training.module import differentiate
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
