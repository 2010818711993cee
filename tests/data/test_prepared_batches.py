"""Loaders add to graphs what models need, and send it from worker to step unchanged."""

from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest
import torch
from hiphop_train.nn.pairs import with_layout
from torch.utils.data._utils.pin_memory import pin_memory

from hiphop_train.data.batching.dataset import BatchDataset
from hiphop_train.data.batching.loader import batch_loader
from hiphop_train.data.batching.sampler import BatchSampler
from hiphop_train.data.batching.sharing import Packer, unpack
from hiphop_train.data.structures import Structures
from hiphop_train.graph.triples import with_triples

ELEMENTS = ["H", "O", "C", "N"]


PREPARATIONS = {
    "nothing": None,
    "layout": partial(with_layout, n_types=len(ELEMENTS), l_max=0, n_sensitivities=6),
    "triples": partial(with_triples, cutoff=3.0),
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


@pytest.mark.parametrize("pins", [False, True])
@pytest.mark.parametrize("preparation", PREPARATIONS)
def test_packed_batches_are_the_same(
    structures: Structures, preparation: str, pins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty ones and those with shifts, whose memory is not shared by all rows, included; pinned, in one piece."""
    copied = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: copied.append(tensor) or tensor.clone())
    is_open = np.flatnonzero(~structures.pbc.any(axis=1))
    for pairs in (True, False):
        dataset = BatchDataset(structures, ELEMENTS, 4.0, torch.float32, pairs, PREPARATIONS[preparation])
        for index in (is_open, np.arange(len(structures)), is_open[:1]):
            batch = dataset[index, np.ones(len(index))]
            assert (batch.graph.layout is not None) == (preparation == "layout")
            assert (batch.graph.triples is not None) == (preparation == "triples")
            packed = Packer()([dataset[index[::-1].copy(), np.zeros(len(index))], batch])
            sent = ForkingPickler.loads(ForkingPickler.dumps(packed))
            _, again = unpack(pin_memory(sent) if pins else sent)
            assert_same(again, batch)
            assert len(copied) == pins
            copied.clear()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loader_prepares_graphs(structures: Structures, num_workers: int) -> None:
    sampler = BatchSampler(np.arange(len(structures)), 3)
    preparation = PREPARATIONS["layout"]
    loader = batch_loader(
        structures, sampler, ELEMENTS, 4.0, torch.float32, num_workers=num_workers, preparation=preparation
    )
    for batch in loader:
        assert_same(batch.graph, preparation(batch.graph._replace(layout=None)))
        assert batch.graph.n_of_type == torch.bincount(batch.graph.species, minlength=4).tolist()
