"""The four ways in which a model is evaluated, called alike."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

import numpy as np
import pytest
import torch

from hiphop_train.accelerate import accelerate
from hiphop_train.export.torchscript import export, load
from hiphop_train.potential import Potential
from hiphop_train.types import Graph, Outputs
from tests.conftest import PotentialOf

WAYS = ["plain", "training", "inference", "exported"]


class Evaluate(Protocol):
    """Evaluates a graph, as `Potential.forward` does."""

    def __call__(self, graph: Graph, forces: bool = True, virial: bool = False) -> Outputs: ...


EvaluatorOf = Callable[..., Evaluate]


def values(outputs: Outputs) -> dict[str, np.ndarray]:
    """Outputs as arrays."""
    return {key: value.detach().numpy() for key, value in outputs.items()}


def largest(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest deviation, relative to the largest expected value; where all are zero, any deviation is infinite."""
    deviation, size = np.abs(found - expected).max(), np.abs(expected).max()
    return float(deviation / size) if deviation else 0.0


def four_point(energies: np.ndarray, step: float) -> np.ndarray:
    """First derivative from values at -2, -1, 1, 2 steps (last axis), exact to fourth order."""
    return (energies @ np.array([1.0, -8.0, 8.0, -1.0])) / (12 * step)


def accelerated(potential: Potential, purpose: Any) -> Evaluate:
    """Accelerate a copy; graphs of training are prepared as a loader does, those of inference in the model."""
    potential = copy.deepcopy(potential).train(purpose == "training")
    dtype = next(potential.parameters()).dtype
    prepare = accelerate(potential, dtype, torch.device("cpu"), purpose).prepare

    def evaluate(graph: Graph, forces: bool = True, virial: bool = False) -> Outputs:
        outputs: Outputs = potential(prepare(graph) if purpose == "training" else graph, forces, virial)
        return outputs

    return evaluate


def exported(module: torch.jit.ScriptModule) -> Evaluate:
    """Call an exported file, without the optimisations that make its first calls slow."""

    def evaluate(graph: Graph, forces: bool = True, virial: bool = False) -> Outputs:
        with torch.jit.optimized_execution(False):
            outputs: Outputs = module(
                graph.species, graph.positions, graph.cell, graph.pbc, graph.system, graph.n_systems,
                graph.pair_i, graph.pair_j, graph.pair_shift, graph.n_owned, forces, virial,
            )  # fmt: skip
        return outputs

    return evaluate


@pytest.fixture(scope="session")
def evaluator_of(potential_of: PotentialOf, tmp_path_factory: pytest.TempPathFactory) -> EvaluatorOf:
    """Make a small model ready to be evaluated in one of the ways; each once, so leave it as it is."""

    @cache
    def make(name: str, way: str, **changes: Any) -> Evaluate:
        potential = potential_of(name, **changes)
        if way == "plain":
            return potential
        if way != "exported":
            return accelerated(potential, way)
        path = tmp_path_factory.mktemp("exported") / "model.pt"
        export(potential, path, {}, [([6], np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, dtype=bool))])
        return exported(load(path))

    return make


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """Each way in turn."""
    return str(request.param)


@pytest.fixture
def evaluate(model_name: str, way: str, evaluator_of: EvaluatorOf) -> Evaluate:
    """Each model in each way."""
    return evaluator_of(model_name, way)
