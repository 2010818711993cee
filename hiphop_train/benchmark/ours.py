"""Benchmark of our own potential, with any model, as used in training and molecular dynamics."""

# mypy: allow-untyped-calls

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hiphop_train import __version__, build
from hiphop_train.accelerate import Purpose, accelerate
from hiphop_train.benchmark import systems
from hiphop_train.benchmark.worker import Program, Result, Workload, serve
from hiphop_train.data.batching.dataset import BatchDataset
from hiphop_train.data.batching.loader import BatchLoader
from hiphop_train.data.batching.sampler import BatchSampler
from hiphop_train.data.batching.transfer import to_device
from hiphop_train.graph.assemble import make_graph, pair_vectors, with_pair_vectors
from hiphop_train.graph.neighbours import neighbours
from hiphop_train.potential import Potential
from hiphop_train.training.module import differentiate
from hiphop_train.types import Batch, Graph

PERIOD = 0.3
"""Shortest measurement of the throughput, seconds."""


class Clock:
    """Milliseconds between calls.

    Parameters
    ----------
    device : synchronised at each call
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.last = time.perf_counter()

    def split(self) -> float:
        """Return the milliseconds since the last call."""
        if self.on_gpu:
            torch.cuda.synchronize()
        before, self.last = self.last, time.perf_counter()
        return 1000 * (self.last - before)


class OurPotential(Program):
    """Energy and forces by this package's potential, with given pairs or from positions."""

    finds_pairs = True
    model: Potential
    cutoff: float

    def __init__(self, settings: dict[str, Any], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(settings, dtype, device)
        stored = torch.load(settings["potential"], weights_only=True)
        self.model = build.make_potential(stored["model"], dtype, stored["n_theories"])
        self.model.load_state_dict(stored["weights"])
        self.model.to(device)
        self.cutoff = self.model.cutoff
        self._accelerate("inference")
        self.species_of = torch.full((119,), -1, dtype=torch.int64)
        for k, number in enumerate(settings["atomic_numbers"]):
            self.species_of[number] = k
        self.batches: Iterator[Batch] | None = None
        self.measurements = {
            "md": self._dynamics_stages,
            "training": self._training_stages,
            "throughput": self._throughput,
        }

    def describe(self) -> dict[str, Any]:
        """Return version, model and acceleration report."""
        version = f"hiphop-train {__version__}"
        return {"version": version, "settings": self.settings["model"], "accelerated": str(self.acceleration)}

    def _accelerate(self, purpose: Purpose) -> None:
        """Accelerate as in `hiphop-train`, or as for users of a checkpoint."""
        self.purpose = purpose
        choice = self.settings["compile"]
        self.acceleration = accelerate(self.model, self.dtype, self.device, purpose, choice, key="compile")

    def load(self, work: Workload) -> None:
        """Take the workload; a training batch is prepared, as by the loader."""
        if self.model.training != (self.purpose == "training"):
            self._accelerate("training" if self.model.training else "inference")
        self.species = self.tensor(self.species_of[torch.from_numpy(work.numbers)].numpy())
        self.positions, self.cell = self.tensor(work.positions), self.tensor(work.cell)
        self.pbc, self.system, self.n_systems = self.tensor(work.pbc), self.tensor(work.system), work.n_systems
        self.pairs = (self.tensor(work.pair_i), self.tensor(work.pair_j), self.tensor(work.pair_shift))
        self.batch = self.acceleration.prepare(self.graph(self.pairs)) if self.model.training else None

    def graph(self, pairs: tuple[Tensor, Tensor, Tensor]) -> Graph:
        """Return the graph, with the pair vectors at the current positions."""
        vectors = pair_vectors(self.positions, self.cell, self.system, *pairs)
        return make_graph(
            self.species, self.positions, self.cell, self.pbc, self.system, self.n_systems, *pairs, self.dtype,
            vectors=vectors,
        )  # fmt: skip

    def search(self) -> tuple[Tensor, Tensor, Tensor]:
        """Find the pairs of a single structure."""
        return neighbours(self.positions, self.cell[0], self.pbc[0], self.cutoff)

    def evaluate(self, search: bool) -> Result:
        """Energy and forces, with the given pairs or after a neighbour search."""
        if search:
            self.pairs = (self.pairs[0][:0], self.pairs[1][:0], self.pairs[2][:0])  # frees the old ones
            self.pairs = self.search()
        outputs = self.model(self.graph(self.pairs) if self.batch is None else self.batch)
        return outputs["energy"], outputs["forces"]

    def _dynamics_stages(self) -> dict[str, float]:
        """Milliseconds of each part of a step of molecular dynamics, and of a whole step."""
        clock = Clock(self.device)
        self.evaluate(search=True)
        times = {"whole": clock.split()}
        pairs = self.search()
        times["neighbours"] = clock.split()
        graph = self.graph(pairs)
        times["vectors"] = clock.split()
        return times | forward_and_force(self.model, graph, clock)

    def _prepare_training(self) -> None:
        """Build loader, loss and optimizer as in `hiphop-train`, at the first call."""
        if self.batches is not None:
            return
        given = self.settings["training"]
        elements = self.model.elements
        if given["data"] is None:
            structures = systems.clusters(8 * given["batch_size"], given["seed"])
            sampler = BatchSampler(np.arange(len(structures)), given["batch_size"], given["seed"])
            prepare = self.acceleration.prepare
            dataset = BatchDataset(structures, elements, self.cutoff, self.dtype, prepare=prepare)
            self.loader: BatchLoader = BatchLoader(dataset, sampler)
        else:
            module = build.make_data(given["data"], self.model, self.dtype, given["seed"])
            module.use_theories(["the model's"])
            module.prepare = self.acceleration.prepare
            structures = module.structures
            self.loader = module.train_dataloader()
        self.without_pairs = BatchDataset(structures, elements, self.cutoff, self.dtype, pairs=False)
        self.loss = build.make_part(given["loss"], "loss")
        self.fit = build.make_part(given["optimizer"], "optimizer", params=list(self.model.parameters()))
        self.batches = self._endless()
        self._step(self._next())

    def _endless(self) -> Iterator[Batch]:
        """Yield batches, epoch after epoch."""
        epoch = 0
        while True:
            sampler = self.loader.sampler
            assert isinstance(sampler, BatchSampler)
            sampler.set_epoch(epoch)
            yield from self.loader
            epoch += 1

    def _next(self) -> Batch:
        assert self.batches is not None
        return next(self.batches)

    def _moved(self, batch: Batch) -> Batch:
        if self.device.type == "cpu":
            return batch
        moved: Batch = to_device(batch, self.device)
        return moved

    def _step(self, batch: Batch) -> None:
        """One step of the training."""
        batch = self._moved(batch)
        loss = self._loss(self.model(batch.graph), batch)
        self.fit.zero_grad()
        differentiate(loss, self.model)
        self.fit.step()

    def _loss(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        graph, labels = batch.graph, batch.labels
        n_atoms = torch.bincount(graph.system, minlength=graph.n_systems) * labels["weight"]
        loss: Tensor = self.loss(outputs, labels, n_atoms)
        return loss

    def _throughput(self) -> dict[str, float]:
        """Train for `PERIOD` seconds, loader included."""
        self._prepare_training()
        clock = Clock(self.device)
        seconds, structures, atoms, steps = 0.0, 0, 0, 0
        while seconds < PERIOD:
            batch = self._next()
            self._step(batch)
            structures, atoms = structures + batch.graph.n_systems, atoms + len(batch.graph.species)
            steps += 1
            seconds += clock.split() / 1000
        return {"seconds": seconds, "conformations": structures, "atoms": atoms, "steps": steps}

    def _training_stages(self) -> dict[str, float]:
        """Milliseconds of each part of a training step, and of a whole step."""
        self._prepare_training()
        clock = Clock(self.device)
        self._step(self._next())
        times = {"whole": clock.split()}
        batch = self._next()
        making = clock.split()
        share = (batch.sample.numpy(), batch.labels["weight"].numpy())
        clock.split()
        self.without_pairs[share]
        without = clock.split()
        own = self.loader.num_workers == 0  # else workers find the pairs, and this process only waits
        times["loader"] = min(without, making) if own else making
        times["neighbours"] = max(making - without, 0.0) if own else 0.0
        clock.split()
        batch = self._moved(batch)
        times["transfer"] = clock.split()
        outputs: dict[str, Tensor] = {}
        times |= forward_and_force(self.model, batch.graph, clock, outputs)
        loss = self._loss(outputs, batch)
        times["loss"] = clock.split()
        self.fit.zero_grad()
        differentiate(loss, self.model)
        times["backward"] = clock.split()
        self.fit.step()
        times["optimiser"] = clock.split()
        if clock.on_gpu:
            torch.cuda.synchronize()
        times["sync"] = clock.split()
        return times


def forward_and_force(
    potential: Potential, graph: Graph, clock: Clock, outputs: dict[str, Tensor] | None = None
) -> dict[str, float]:
    """Milliseconds of the energy alone, and of the additional time for forces.

    Parameters
    ----------
    potential : in training or evaluation mode
    graph : of a structure or batch
    clock : to measure with
    outputs : receives the outputs of the evaluation with forces
    """
    vectors = graph.pair_vectors.detach().requires_grad_(True)  # so that autograd records as with forces
    clock.split()
    energy = potential(with_pair_vectors(graph, vectors), forces=False)
    forward = clock.split()
    del energy
    clock.split()
    result = potential(graph)
    both = clock.split()
    if outputs is not None:
        outputs.update(result)
    return {"forward": min(forward, both), "force": max(both - forward, 0.0)}


if __name__ == "__main__":
    serve(OurPotential)
