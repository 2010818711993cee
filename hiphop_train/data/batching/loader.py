"""The loader: batches from this process or from workers, and the position in an epoch."""

from collections.abc import Iterator
from typing import Any, cast

from torch.utils.data import DataLoader

from hiphop_train.data.batching.dataset import BatchDataset
from hiphop_train.data.batching.sampler import BatchSampler
from hiphop_train.data.batching.transfer import FlatBatch, flatten, restore
from hiphop_train.types import Batch


class BatchLoader(DataLoader[Batch]):
    """Yields the batches of a sampler, and can resume in the middle of an epoch.

    The state counts batches that were yielded, not those that workers have prepared ahead. Preparation begins when the
    first batch is requested, since the epoch is unknown before. Workers are always forked, so that they share the data
    set in the memory or the mapped files of this process without a copy.

    Parameters
    ----------
    dataset : builds the batches
    sampler : yields the share of each batch
    num_workers : processes that prepare batches; 0 prepares them in this one
    pin_memory : whether batches are placed in pinned memory, for asynchronous copies to a GPU

    Attributes
    ----------
    position : number of batches of the epoch that were yielded
    """

    position = 0
    _loaded: dict[str, int] | None = None

    def __init__(
        self, dataset: BatchDataset, sampler: BatchSampler, num_workers: int = 0, pin_memory: bool = False
    ) -> None:
        super().__init__(
            dataset,
            sampler=sampler,
            batch_size=None,  # the sampler yields whole batches
            collate_fn=flatten if num_workers or pin_memory else _unchanged,  # what is repeated cannot be pinned
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            multiprocessing_context="fork" if num_workers else None,
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Yield the batches of the sampler's epoch, or the remaining ones after `load_state_dict`."""
        loaded, self._loaded = self._loaded, None
        resumes = loaded is not None and self._epoch.items() <= loaded.items()
        self.position = loaded["position"] if loaded is not None and resumes else 0
        cast(BatchSampler, self.sampler).start = self.position
        for batch in super().__iter__():
            self.position += 1
            yield restore(batch) if isinstance(batch, FlatBatch) else batch

    @property
    def _epoch(self) -> dict[str, int]:
        sampler = cast(BatchSampler, self.sampler)
        return {"epoch": sampler.epoch, "n_batches": len(sampler)}

    def state_dict(self) -> dict[str, int]:
        """Return the position in the epoch, for checkpoints."""
        return {**self._epoch, "position": self.position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume at the stored position if the next epoch is that of the state, otherwise at the beginning."""
        self._loaded = {key: int(value) for key, value in state_dict.items()}


def _unchanged(batch: Any) -> Any:
    return batch
