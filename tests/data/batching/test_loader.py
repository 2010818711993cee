"""Batches of workers are those of one process, and an epoch resumes at its position."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hiphop_train.data.batching.dataset import BatchDataset
from hiphop_train.data.batching.loader import BatchLoader
from hiphop_train.data.batching.sampler import BatchSampler
from hiphop_train.data.structures import Structures

ELEMENTS = ["H", "O", "C", "N"]


def signature(batch: Any) -> tuple[list[int], float]:
    return batch.sample.tolist(), float(batch.graph.pair_vectors.double().square().sum())


def test_workers_yield_the_same_batches(structures: Structures) -> None:
    """Also of a data set in mapped files, after abandoned epochs, and long after the worker has moved on."""
    sampler = BatchSampler(np.arange(len(structures)), 2, 0)
    dataset = BatchDataset(structures, ELEMENTS, 4.0, torch.float32)
    by_worker = BatchLoader(dataset, sampler, num_workers=1)
    kept = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        next(iter(by_worker))
        kept += list(zip(by_worker, BatchLoader(dataset, sampler), strict=True))
    assert len(kept) == 4 * len(sampler)
    for batch, expected in kept:
        assert torch.equal(batch.sample, expected.sample)
        assert torch.equal(batch.graph.pair_vectors, expected.graph.pair_vectors)
        assert torch.equal(batch.labels["forces"], expected.labels["forces"])


def test_workers_read_the_memory_of_this_process(structures: Structures, tmp_path: Path) -> None:
    """Nothing is pickled, whatever way of starting processes Python prefers: a change of a mapped file arrives."""
    shape = structures.positions.shape
    structures.positions.tofile(tmp_path / "positions")
    positions = np.memmap(tmp_path / "positions", np.float64, "r+", shape=shape)
    dataset = BatchDataset(replace(structures, positions=positions), ELEMENTS, 4.0, torch.float32)
    loader = BatchLoader(dataset, BatchSampler(np.arange(len(structures)), 3), num_workers=1)
    before = torch.cat([batch.graph.positions for batch in loader])
    positions += 1.0
    after = torch.cat([batch.graph.positions for batch in loader])
    assert torch.equal(after, before + 1.0)


def test_nothing_is_prepared_before_the_first_batch_is_requested(structures: Structures) -> None:
    """The epoch may be set after the iterator was made, as Lightning does."""
    sampler = BatchSampler(np.arange(len(structures)), 2, 0)
    loader = BatchLoader(BatchDataset(structures, ELEMENTS, 4.0, torch.float32), sampler, num_workers=1)
    batches = iter(loader)
    sampler.set_epoch(7)
    found = [batch.sample.tolist() for batch in batches]
    assert found == [share.chosen.tolist() for share in sampler]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_resumes_at_its_position(structures: Structures, num_workers: int) -> None:
    """Whatever workers have prepared ahead; in the next epoch it starts at the beginning."""

    def loader() -> Any:
        sampler = BatchSampler(np.arange(len(structures)), 2, 5)
        sampler.set_epoch(3)
        return BatchLoader(BatchDataset(structures, ELEMENTS, 4.0, torch.float32), sampler, num_workers)

    whole = [signature(batch) for batch in loader()]
    broken = loader()
    steps = iter(broken)
    first = [signature(next(steps)) for _ in range(2)]
    state = broken.state_dict()
    assert state == {"epoch": 3, "position": 2, "n_batches": len(whole)}
    rest = loader()
    rest.load_state_dict(state)
    assert len(rest) == len(whole)
    assert first + [signature(batch) for batch in rest] == whole
    rest.sampler.set_epoch(4)
    assert len(list(rest)) == len(whole)
    later = loader()
    later.sampler.set_epoch(4)
    later.load_state_dict(state)
    assert len(list(later)) == len(whole)
