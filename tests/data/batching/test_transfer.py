"""Loaders add to graphs what models need, and send it from worker to step and device unchanged."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from hiphop_train.accelerate.hip_layout import PrepareLayout
from hiphop_train.accelerate.readout import PrepareCounts
from hiphop_train.accelerate.triple_lists import PrepareTriples
from hiphop_train.data.batching.dataset import BatchDataset
from hiphop_train.data.batching.loader import BatchLoader
from hiphop_train.data.batching.sampler import BatchSampler
from hiphop_train.data.batching.transfer import flatten, restore, to_device
from hiphop_train.data.structures import Structures
from hiphop_train.types import ON_HOST, Prepare

ELEMENTS = ["H", "O", "C", "N"]


HOOKS: dict[str, Prepare | None] = {
    "nothing": None,
    "layout": PrepareLayout(len(ELEMENTS), l_max=0, n_sensitivities=6),
    "triples": PrepareTriples(cutoff=3.0),
    "counts": PrepareCounts(len(ELEMENTS)),
}


def assert_same(found: Any, expected: Any) -> None:
    """Compare batches or parts of them, however deep."""
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert_same(tuple(found.items()), tuple(expected.items()))
    elif isinstance(expected, tuple):
        assert type(found) is type(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("hook", HOOKS)
def test_loader_prepares_graphs(structures: Structures, hook: str, num_workers: int) -> None:
    """Batches of workers are the same, with and without pairs and shifts."""
    prepare = HOOKS[hook]
    is_open = np.flatnonzero(~structures.pbc.any(axis=1))
    for pairs, index in ((True, is_open), (True, np.arange(len(structures))), (False, is_open[:1])):
        sampler = BatchSampler(index, 3)
        dataset = BatchDataset(structures, ELEMENTS, 4.0, torch.float32, pairs, prepare)
        plain = BatchDataset(structures, ELEMENTS, 4.0, torch.float32, pairs)
        for batch, share in zip(BatchLoader(dataset, sampler, num_workers), sampler, strict=True):
            expected = plain[share]
            assert not expected.graph.extras
            if prepare is not None:
                expected = expected._replace(graph=prepare(expected.graph))
                assert expected.graph.extras
            assert_same(batch, expected)


@pytest.mark.parametrize("pins", [False, True])
def test_flat_batches_are_the_same(structures: Structures, pins: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty tensors and repeated rows included; all in one buffer, which is pinned at once."""
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *_: pinned.append(tensor) or tensor.clone())
    for pairs, index in ((True, np.array([0, 2])), (True, np.arange(len(structures))), (False, np.array([0]))):
        dataset = BatchDataset(structures, ELEMENTS, 4.0, torch.float32, pairs, HOOKS["layout"])
        batch = dataset[index, np.ones(len(index))]
        flat = flatten(batch)
        again = restore(pin_memory(flat) if pins else flat)
        assert_same(again, batch)
        assert len(pinned) == pins
        if not pins:
            parts = (*again.graph, *again.graph.extras.values(), *again.labels.values())
            tensors = [part for part in parts if isinstance(part, torch.Tensor)]
            places = [tensor.data_ptr() - flat.memory.data_ptr() for tensor in tensors if tensor.numel()]
            assert all(0 <= place < len(flat.memory) and place % 64 == 0 for place in places)
            storage = flat.memory.untyped_storage().data_ptr()  # by which CUDA's allocator knows what it still copies
            assert {tensor.untyped_storage().data_ptr() for tensor in tensors} == {storage}
        shifts = batch.graph.pair_shift
        assert (again.graph.pair_shift.stride(0) == 0) == (shifts.stride(0) == 0 and len(shifts) > 1)
        pinned.clear()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_every_loader_can_pin(structures: Structures, num_workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor of repeated rows cannot be pinned: on a GPU, trainings without workers ended at their first batch."""

    def pin(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
        assert tensor.is_contiguous()
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    dataset, sampler = BatchDataset(structures, ELEMENTS, 4.0, torch.float32), BatchSampler(np.array([0, 2]), 2)
    loader = BatchLoader(dataset, sampler, num_workers)
    loader.collate_fn = BatchLoader(dataset, sampler, num_workers, pin_memory=True).collate_fn
    for batch, share in zip(super(BatchLoader, loader).__iter__(), sampler, strict=True):
        expected = dataset[share]
        assert expected.graph.pair_shift.stride(0) == 0
        assert_same(restore(pin_memory(batch)), expected)


def test_all_tensors_of_a_batch_are_moved(structures: Structures) -> None:
    """Except for those that the host reads."""
    dataset = BatchDataset(structures, ELEMENTS, 4.0, torch.float32, prepare=HOOKS["layout"])
    batch = dataset[np.array([0, 1]), np.ones(2)]
    moved = to_device(batch, "meta")
    assert type(moved) is type(batch)
    assert type(moved.graph) is type(batch.graph)
    assert list(moved.labels) == list(batch.labels)
    tensors = [part for part in (*moved.graph, *moved.labels.values(), moved.sample) if isinstance(part, torch.Tensor)]
    assert len(tensors) > 15
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    devices = {key: tensor.device.type for key, tensor in moved.graph.extras.items()}
    assert devices == {key: "cpu" if key.startswith(ON_HOST) else "meta" for key in batch.graph.extras}
    assert set(devices.values()) == {"cpu", "meta"}
    assert moved.graph.n_systems == 2
    assert moved.graph.pair_shift.stride() == batch.graph.pair_shift.stride()
