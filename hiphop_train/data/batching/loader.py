"""The loader: batches from this process or from workers, and where in an epoch it stands."""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset

from hiphop_train.data.batching.dataset import BatchDataset, Share
from hiphop_train.data.batching.sampler import BatchSampler, Groups
from hiphop_train.data.batching.sharing import PackedBatches, Packer, unpack
from hiphop_train.data.structures import Structures
from hiphop_train.types import Batch, Prepare

GROUP = 8
"""Batches that a worker makes at a time: to send one alone took longer than to make it."""


class GroupDataset(Dataset[list[Batch]]):
    """Several batches at once.

    Parameters
    ----------
    batches : makes one
    """

    def __init__(self, batches: BatchDataset) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, shares: list[Share]) -> list[Batch]:
        return [self.batches[share] for share in shares]


class BatchLoader(DataLoader[Batch]):
    """Deals out the batches that a sampler asks for, and can go on in the middle of an epoch.

    The state counts batches that were given out, not those that workers have prepared ahead. Nothing is prepared before
    the first batch is asked for: only then is the epoch known.

    Attributes
    ----------
    position : number of batches of the epoch that were given out
    """

    position = 0
    _loaded: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Give out the batches of the sampler's epoch, or those that are left of it."""
        loaded, self._loaded = self._loaded, None
        resumes = loaded is not None and self._epoch.items() <= loaded.items()
        self.position = loaded["position"] if loaded is not None and resumes else 0
        cast(Groups, self.sampler).sampler.start = self.position
        for group in super().__iter__():
            for batch in unpack(group) if isinstance(group, PackedBatches) else cast(list[Batch], group):
                self.position += 1
                yield batch

    @property
    def _epoch(self) -> dict[str, int]:
        sampler = cast(Groups, self.sampler).sampler
        return {"epoch": sampler.epoch, "n_batches": len(sampler)}

    def state_dict(self) -> dict[str, int]:
        """Return where the loader stands; checkpoints keep it."""
        return {**self._epoch, "position": self.position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there, when the next epoch is that of the state; another begins at its beginning."""
        self._loaded = {key: int(value) for key, value in state_dict.items()}


def batch_loader(
    structures: Structures,
    sampler: BatchSampler,
    elements: list[str],
    cutoff: float,
    dtype: torch.dtype,
    num_workers: int = 0,
    pairs: bool = True,
    start_method: str | None = None,
    prepare: Prepare | None = None,
    pin_memory: bool = False,
) -> BatchLoader:
    """Deal out the batches that a sampler asks for.

    Parameters
    ----------
    structures, elements, cutoff, dtype, pairs, prepare : as in `BatchDataset`
    sampler : of the batches
    num_workers : processes that prepare batches; 0 prepares them in this one
    start_method : of these processes; None is the system's
    pin_memory : whether batches lie in memory that a GPU reads while the next step is made ready
    """
    more: dict[str, Any] = {}
    if num_workers:
        more = {"persistent_workers": True, "prefetch_factor": 1, "multiprocessing_context": start_method}
    return BatchLoader(
        GroupDataset(BatchDataset(structures, elements, cutoff, dtype, pairs, prepare)),  # type: ignore[arg-type]
        sampler=Groups(sampler, GROUP if num_workers else 1),
        batch_size=None,  # the sampler yields whole batches
        collate_fn=Packer() if num_workers else _as_they_are,
        num_workers=num_workers,
        pin_memory=pin_memory,
        **more,
    )


def _as_they_are(batches: list[Batch]) -> list[Batch]:
    return batches
