"""The loader: batches from this process or from workers, and where in an epoch it stands."""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from hiphop_train.data.batches import BatchDataset
from hiphop_train.data.sampler import BatchSampler
from hiphop_train.data.sharing import PackedBatch, pack, unpack
from hiphop_train.data.structures import Structures
from hiphop_train.types import Batch


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
        sampler = cast(BatchSampler, self.sampler)
        loaded, self._loaded = self._loaded, None
        here = {"epoch": sampler.epoch, "n_batches": len(sampler)}
        resumes = loaded is not None and here.items() <= loaded.items()
        self.position = sampler.start = loaded["position"] if loaded is not None and resumes else 0
        for batch in super().__iter__():
            self.position += 1
            yield unpack(batch) if isinstance(batch, PackedBatch) else batch

    def state_dict(self) -> dict[str, int]:
        """Return where the loader stands; checkpoints keep it."""
        sampler = cast(BatchSampler, self.sampler)
        return {"epoch": sampler.epoch, "position": self.position, "n_batches": len(sampler)}

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
) -> BatchLoader:
    """Deal out the batches that a sampler asks for."""
    return BatchLoader(
        BatchDataset(structures, elements, cutoff, dtype, pairs),
        sampler=sampler,  # yields whole batches
        batch_size=None,
        collate_fn=pack if num_workers else _as_it_is,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )


def _as_it_is(batch: Batch) -> Batch:
    return batch
