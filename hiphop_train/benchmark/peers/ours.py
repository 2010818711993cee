"""Our own: a potential of any model of this package."""

# mypy: allow-untyped-calls

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hiphop_train import __version__, build
from hiphop_train.benchmark import systems
from hiphop_train.benchmark.peers.protocol import Result, Subject, Work
from hiphop_train.compilation import compile_potential
from hiphop_train.data.batching.dataset import BatchDataset
from hiphop_train.data.batching.loader import BatchLoader
from hiphop_train.data.batching.sampler import BatchSampler
from hiphop_train.data.batching.transfer import to_device
from hiphop_train.graph.assemble import make_graph, pair_vectors, with_pair_vectors
from hiphop_train.graph.neighbours import neighbours
from hiphop_train.training.module import differentiate
from hiphop_train.types import Batch, Graph

PERIOD = 0.3
"""Seconds that one measurement of the throughput takes at least."""


class Clock:
    """Milliseconds between calls.

    Parameters
    ----------
    device : which is waited for
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


class Program(Subject):
    """Energy and forces by this package's potential, from the pairs on or from the positions on."""

    finds_pairs = True

    def __init__(self, settings: dict[str, Any], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(settings, dtype, device)
        stored = torch.load(settings["potential"], weights_only=True)
        self.model = build.make_potential(stored["model"], dtype, stored["n_levels"])
        self.model.load_state_dict(stored["weights"])
        self.model.to(device)
        self.cutoff = self.model.cutoff
        self.compiled = compile_potential(self.model, settings["compile"], dtype, device, "compile")
        self.species_of = torch.full((119,), -1, dtype=torch.int64)
        for k, number in enumerate(settings["atomic_numbers"]):
            self.species_of[number] = k
        self.batches: Iterator[Batch] | None = None

    def describe(self) -> dict[str, Any]:
        """Version, model and whether it is compiled."""
        version = f"hiphop-train {__version__}"
        return {"version": version, "settings": self.settings["model"], "compiled": self.compiled}

    def load(self, work: Work) -> None:
        """Take the work."""
        self.species = self.tensor(self.species_of[torch.from_numpy(work.numbers)].numpy())
        self.positions, self.cell = self.tensor(work.positions), self.tensor(work.cell)
        self.pbc, self.system, self.n_systems = self.tensor(work.pbc), self.tensor(work.system), work.n_systems
        self.pairs = (self.tensor(work.pair_i), self.tensor(work.pair_j), self.tensor(work.pair_shift))

    def graph(self, pairs: tuple[Tensor, Tensor, Tensor]) -> Graph:
        """Return the graph, the vectors of the pairs made anew."""
        vectors = pair_vectors(self.positions, self.cell, self.system, *pairs)
        return make_graph(
            self.species, self.positions, self.cell, self.pbc, self.system, self.n_systems, *pairs, self.dtype,
            vectors=vectors,
        )  # fmt: skip

    def search(self) -> tuple[Tensor, Tensor, Tensor]:
        """Find the pairs of a single structure."""
        return neighbours(self.positions, self.cell[0], self.pbc[0], self.cutoff)

    def evaluate(self) -> Result:
        """Energy and forces with the given pairs."""
        outputs = self.model(self.graph(self.pairs))
        return outputs["energy"], outputs["forces"]

    def search_and_evaluate(self) -> Result:
        """Find the pairs, then energy and forces."""
        self.pairs = (self.pairs[0][:0], self.pairs[1][:0], self.pairs[2][:0])  # the old ones need no place meanwhile
        self.pairs = self.search()
        return self.evaluate()

    def special(self, request: dict[str, Any]) -> dict[str, Any]:
        """Breakdowns and the throughput of the whole training."""
        if request["what"] == "md":
            return self._md_stages()
        if self.batches is None:
            self._prepare_training()
        return {"throughput": self._throughput, "training": self._training_stages}[request["what"]]()

    def _md_stages(self) -> dict[str, float]:
        """Milliseconds of each part of a step of dynamics, and of the whole at once."""
        clock = Clock(self.device)
        self.search_and_evaluate()
        times = {"whole": clock.split()}
        pairs = self.search()
        times["neighbours"] = clock.split()
        graph = self.graph(pairs)
        times["vectors"] = clock.split()
        return times | forward_and_force(self.model, graph, clock)

    def _prepare_training(self) -> None:
        """Build what `hiphop-train` builds."""
        given = self.settings["training"]
        elements = self.model.elements
        if given["data"] is None:
            structures = systems.clusters(8 * given["batch_size"], given["seed"])
            sampler = BatchSampler(range_of(len(structures)), given["batch_size"], given["seed"])
            dataset = BatchDataset(structures, elements, self.cutoff, self.dtype, preparation=self.model.preparation)
            self.loader = BatchLoader(dataset, sampler)
        else:
            module = build.make_data(given["data"], self.model, self.dtype, given["seed"])
            module.use_levels(["the model's"])
            structures = module.structures
            self.loader = module.train_dataloader()
        self.without_pairs = BatchDataset(structures, elements, self.cutoff, self.dtype, pairs=False)
        self.loss = build.make_part(given["loss"], "loss")
        self.fit = build.make_part(given["optimizer"], "optimizer", params=list(self.model.parameters()))
        self.batches = self._endless()
        self._step(self._next())

    def _endless(self) -> Iterator[Batch]:
        """Go through the epochs."""
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
        """Train for a moment, loader included."""
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
        """Milliseconds of each part of a training step, and of the whole at once."""
        clock = Clock(self.device)
        self._step(self._next())
        times = {"whole": clock.split()}
        batch = self._next()
        making = clock.split()
        share = (batch.sample.numpy(), batch.labels["weight"].numpy())
        clock.split()
        self.without_pairs[share]
        without = clock.split()
        own = self.loader.num_workers == 0  # else workers look for pairs meanwhile, and this process waits
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
        times["sync"] = measured(clock, lambda: torch.cuda.synchronize() if clock.on_gpu else None)
        return times


def range_of(n: int) -> Any:
    """Indices from 0 to n - 1."""
    return torch.arange(n).numpy()


def measured(clock: Clock, call: Callable[[], Any]) -> float:
    """Milliseconds of a call."""
    clock.split()
    call()
    return clock.split()


def forward_and_force(
    potential: nn.Module, graph: Graph, clock: Clock, outputs: dict[str, Tensor] | None = None
) -> dict[str, float]:
    """Milliseconds of the energy, and of what forces add to it; the energy is evaluated once by itself for that.

    Parameters
    ----------
    potential : in training or evaluation mode
    graph : of a structure or batch
    clock : running
    outputs : takes the outputs of the evaluation with forces
    """
    vectors = graph.pair_vectors.detach().requires_grad_(True)  # as with forces, so that the same is recorded
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
