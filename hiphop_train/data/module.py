"""The data module: reads, checks and splits a data set, and yields its batches."""

import hashlib
import os
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers
from lightning.pytorch import LightningDataModule
from pydantic import NonNegativeInt, PositiveInt

from hiphop_train.data.batching.dataset import BatchDataset, check_elements
from hiphop_train.data.batching.loader import BatchLoader
from hiphop_train.data.batching.sampler import BatchSampler, Measure, costs
from hiphop_train.data.batching.transfer import to_device
from hiphop_train.data.checks.labels import check_labels
from hiphop_train.data.formats.base import Reader
from hiphop_train.data.replay import OldData
from hiphop_train.data.splits import Split, Splits, check_splits
from hiphop_train.data.statistics import AtomEnergies, Statistics, fit_statistics
from hiphop_train.data.store.open_data import Packing, Progress, no_progress, read_or_map
from hiphop_train.data.structures import Structures
from hiphop_train.errors import ConfigError, did_you_mean
from hiphop_train.types import Batch, Prepare


class DataModule(LightningDataModule):
    """A data set with its split, as batches for one model.

    Parameters
    ----------
    name : short name, part of the name of the run directory
    reader : reads the files
    split : assigns structures to training, validation and test
    batch_size : structures, atoms or pairs per training step, over all devices
    eval_batch_size : structures per step of validation and test
    num_workers : processes that prepare batches; 0 prepares them in the training process
    check : whether labels are checked by physics when they are read
    elements, cutoff, dtype, seed : of the model and the run; passed at build time
    e0 : E0 of the elements: ``fit``, by least squares to the training energies; ``gsae`` or ``gsae_tz``, isolated atoms
        in wB97X/6-31G(d) or wB97X/def2-TZVPP; or eV by element
    pack : whether the set is packed at first use and mapped into memory; ``auto`` packs large sources
    packed : folder of the packed set; by default beside the source
    level_of_theory : the model's level of theory whose E0 is used for all structures, if the model has several and the
        data name others
    allow_leak : whether a geometry may occur in both a test and the training split
    batch_by : unit of `batch_size`; pairs are estimated from the number of atoms
    bucket : number of batches whose structures are sorted by size together; 1 keeps the order random
    """

    def __init__(
        self,
        name: str,
        reader: Reader,
        split: Split,
        batch_size: PositiveInt,
        eval_batch_size: PositiveInt,
        num_workers: NonNegativeInt,
        check: bool,
        elements: list[str],
        cutoff: float,
        dtype: torch.dtype,
        seed: int,
        e0: AtomEnergies = "fit",
        pack: Packing = "auto",
        packed: str | None = None,
        level_of_theory: str | None = None,
        allow_leak: bool = False,
        batch_by: Measure = "structures",
        bucket: PositiveInt = 1,
    ) -> None:
        super().__init__()
        self.name = name
        self.reader = reader
        self.split = split
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.check = check
        self.elements = elements
        self.cutoff = cutoff
        self.dtype = dtype
        self.seed = seed
        self.prepare: Prepare | None = None  # adds the extras of acceleration, see `hiphop_train.accelerate`
        self.e0 = e0
        self.pack = pack
        self.packed = packed
        self.level_of_theory = level_of_theory
        self.allow_leak = allow_leak
        self.progress: Progress = no_progress
        self.old: OldData | None = None  # of a fine-tuning
        self.batch_by = batch_by
        self.bucket = bucket
        self._train_loader: BatchLoader | None = None
        self._position: dict[str, Any] | None = None
        self._structures: Structures | None = None
        self._with_pool: Structures | None = None
        self._checksum = ""
        self._splits: Splits | None = None

    @property
    def structures(self) -> Structures:
        """All structures, read and checked at first use."""
        if self._structures is None:
            structures, checksum = read_or_map(self.reader, self.pack, self.packed, self.progress)
            check_elements(structures, self.elements)
            if self.check:
                check_labels(structures)
            self._structures, self._checksum = structures, checksum
        return self._structures

    @property
    def splits(self) -> Splits:
        """Indices of each split, computed at first use."""
        if self._splits is None:
            structures = self.structures
            splits = self.split.divide(structures, self._checksum)
            check_splits(splits, structures, self.allow_leak)
            self._splits = splits
        return self._splits

    def check_workers(self) -> None:
        """Raise `ConfigError` for more processes than help: each takes memory, and the machine with it."""
        processors = os.cpu_count() or 1
        if self.num_workers > max(16, 4 * processors):
            raise ConfigError(
                f"data.num_workers={self.num_workers}: this machine has {processors} processors; give at most "
                f"{max(16, 4 * processors)}, usually 1 or 2 for each GPU"
            )

    @property
    def train_structures(self) -> Structures:
        """All structures that training batches refer to: with old ones behind them, if some are replayed."""
        if self.old is None or not self.old.share:
            return self.structures
        if self._with_pool is None:
            self._with_pool = self.old.behind(self.structures)
        return self._with_pool

    def use_theories(self, known: list[str], all_as: int | None = None) -> None:
        """Number the structures' levels of theory in the order of a model.

        Parameters
        ----------
        known : names of the model's levels of theory, in the order of its E0
        all_as : the one of all structures, whatever they call it
        """
        structures = self.structures
        if all_as is not None:
            self._structures = replace(
                structures, theory=np.broadcast_to(np.int64(all_as), len(structures)), theory_names=tuple(known)
            )
            return
        if self.level_of_theory is not None and self.level_of_theory not in known:
            raise ConfigError(
                f"data.level_of_theory: '{self.level_of_theory}' is not one of the model's levels of theory"
                f"{did_you_mean(self.level_of_theory, known)}\n  allowed: {', '.join(known)}"
            )
        if len(known) == 1 or self.level_of_theory is not None:
            index = 0 if self.level_of_theory is None else known.index(self.level_of_theory)
            theory = np.broadcast_to(np.int64(index), len(structures))
        else:
            unknown = [name for name in structures.theory_names if name not in known]
            if unknown:
                raise ConfigError(
                    f"the model has the levels of theory {', '.join(known)}, but {structures.source} has "
                    f"'{unknown[0]}'; choose the one whose E0 to use: data.level_of_theory={known[0]}"
                )
            numbers = np.array([known.index(name) for name in structures.theory_names], np.int16)
            theory = numbers[structures.theory]
        self._structures = replace(structures, theory=theory, theory_names=tuple(known))

    @property
    def test_names(self) -> list[str]:
        """Names of the test splits, with unseen molecules first."""
        return sorted((name for name in self.splits if name.startswith("test")), reverse=True)

    def statistics(self) -> Statistics:
        """Fit E0 and the energy scale to the training split."""
        numbers = [atomic_numbers[symbol] for symbol in self.elements]
        return fit_statistics(self.structures, numbers, self.splits["train"], self.e0)

    @property
    def checksum(self) -> str:
        """Checksum of the structures, independent of the split."""
        return self._checksum if self.structures else ""

    def fingerprint(self) -> str:
        """Checksum of labels, geometry and split, stored in checkpoints to identify the data set."""
        digest = hashlib.sha256()
        splits = self.splits
        digest.update(self._checksum.encode())
        for name in sorted(splits):
            digest.update(name.encode())
            digest.update(splits[name].astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch, except for extras that stay on the host."""
        if batch.graph.positions.device == device:
            return batch
        moved: Batch = to_device(batch, device)
        return moved

    def train_sampler(self) -> BatchSampler:
        """Return the composition and order of training batches, given by seed and epoch."""
        structures, own = self.train_structures, self.splits["train"]
        pool = np.arange(len(self.structures), len(structures))  # of old structures
        n_drawn = 0 if self.old is None else self.old.n_replayed(len(own))
        index = np.concatenate([own, pool]) if len(pool) else own
        plain = self.batch_by == "structures"
        uniform = plain and self.bucket == 1
        is_fixed = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        return BatchSampler(
            index,
            self.batch_size,
            None if is_fixed else self.seed,
            *self._rank(),
            cost=None if plain else costs(structures, index, self.batch_by, self.cutoff),
            n_atoms=None if uniform else structures.offsets[index + 1] - structures.offsets[index],
            bucket=self.bucket,
            n_pool=len(pool),
            n_drawn=n_drawn,
        )

    def train_dataset(self) -> BatchDataset:
        """Return what makes training batches of their shares."""
        return self._dataset(self.train_structures)

    def train_dataloader(self) -> BatchLoader:
        """Batches of the training split, in an order given by seed and epoch."""
        self._train_loader = self._loader(self.train_sampler(), self.train_structures)
        if self._position is not None:
            self._train_loader.load_state_dict(self._position)
        return self._train_loader

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the training within an epoch, for checkpoints.

        Lightning restores the state of loaders too, except for those created before it reads the checkpoint, as in the
        first epoch.
        """
        return {} if self._train_loader is None else self._train_loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from the stored position; only the epoch of the state is affected."""
        self._position = state_dict

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """Batches of the validation split, and of that of the old data, if there are any."""
        new = self._loader(BatchSampler(self.splits["val"], self.eval_batch_size, None, *self._rank()))
        return new if self.old is None else [new, self.old_dataloader()]

    def old_dataloader(self) -> BatchLoader:
        """Batches of the validation structures of old data."""
        assert self.old is not None
        structures = self.old.validation
        index = np.arange(len(structures))
        return self._loader(BatchSampler(index, self.eval_batch_size, None, *self._rank()), structures)

    def sample_dataloader(self, split: str, at_most: int = 20_000) -> BatchLoader:
        """Batches of structures spaced evenly over a split, in order; the same on every process."""
        index = self.splits[split]
        sample = index[:: -(-len(index) // at_most)]
        return self._loader(BatchSampler(sample, self.eval_batch_size))

    def _rank(self) -> tuple[int, int]:
        """Index of this process, and number of processes."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _loader(self, sampler: BatchSampler, structures: Structures | None = None) -> BatchLoader:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        dataset = self._dataset(self.structures if structures is None else structures)
        return BatchLoader(dataset, sampler, self.num_workers, pin_memory=on_gpu)

    def _dataset(self, structures: Structures) -> BatchDataset:
        return BatchDataset(structures, self.elements, self.cutoff, self.dtype, prepare=self.prepare)
