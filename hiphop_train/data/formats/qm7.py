"""QM7: all molecules in one MATLAB file, padded with zeros; atomization energies only.

Rupp et al., Phys. Rev. Lett. 108, 058301 (2012). Energies are relative to free atoms, so E0 is small.
"""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hiphop_train.data.formats.base import Block, Reader, require_file
from hiphop_train.data.formats.collector import Collector, declared, refuse_zeros
from hiphop_train.data.structures import Structures
from hiphop_train.errors import DataError
from hiphop_train.units import EnergyUnit, LengthUnit

ARRAYS = ("Z", "R", "T", "P")
"""Atomic numbers, positions, energies, and molecules of each of the five folds."""


class QM7Reader(Reader):
    """Read ``qm7.mat``; each molecule is a group.

    Parameters
    ----------
    path : MATLAB file
    energy_unit, length_unit : of the file
    test_fold : index of the published fold used as the test split; null ignores the folds
    download : download instructions, shown if the file is missing
    """

    def __init__(
        self,
        path: str,
        energy_unit: EnergyUnit,
        length_unit: LengthUnit,
        test_fold: Annotated[int, Field(ge=0, le=4)] | None,
        download: str = "",
    ) -> None:
        self.path = path
        self.factors = declared(energy_unit, length_unit)
        self.test_fold = test_fold
        self.download = download

    def files(self) -> list[Path]:
        """Return the one file."""
        return [require_file(self.path, "data.path", self.download)]

    def blocks(self) -> Iterator[Block]:
        """Yield the molecules of the training split, then those of the test split."""
        (file,) = self.files()
        arrays = _load(file)
        numbers, positions, energy = arrays["Z"], arrays["R"], arrays["T"].reshape(-1)
        n, width = numbers.shape if numbers.ndim == 2 else (0, 0)
        if n == 0 or positions.shape != (n, width, 3) or len(energy) != n:
            shapes = ", ".join(f"'{key}' {arrays[key].shape}" for key in ("Z", "R", "T"))
            raise DataError(
                f"{file}: arrays that do not belong together: {shapes}; expected (n, k), (n, k, 3) and (1, n)"
            )
        if not np.isin(numbers, np.arange(119)).all() or (np.diff((numbers > 0).astype(int), axis=1) > 0).any():
            raise DataError(f"{file}: array 'Z' must contain atomic numbers followed by zeros")
        refuse_zeros(str(file), {"energy": energy})
        test = np.zeros(n, np.bool_)
        if self.test_fold is not None:
            test[self._fold(file, arrays["P"], n)] = True
        for subset, chosen in (("train", ~test), ("test", test)):
            if chosen.any():
                yield partial(self._read, file, subset, numbers, positions, energy, np.flatnonzero(chosen))

    def _fold(self, file: Path, folds: NDArray[Any], n: int) -> NDArray[np.int64]:
        """Indices of the molecules in the test fold."""
        if folds.ndim != 2 or not np.array_equal(np.sort(folds, axis=None), np.arange(n)):
            raise DataError(
                f"{file}: array 'P' of shape {folds.shape} does not divide {n} molecules into folds; "
                "to ignore folds, set data.reader.test_fold=null"
            )
        fold: NDArray[np.int64] = folds[self.test_fold].astype(np.int64)
        return fold

    def _read(
        self,
        file: Path,
        subset: str,
        numbers: NDArray[Any],
        positions: NDArray[Any],
        energy: NDArray[Any],
        chosen: NDArray[np.int64],
    ) -> Structures:
        found = Collector(str(file), self.factors, may_miss=False)
        for k in chosen.tolist():
            atoms = numbers[k] > 0
            name, running = f"qm7 {k}", np.array([k])
            found.add(
                name,
                numbers[k, atoms].astype(np.int64),
                positions[k : k + 1, atoms],
                {"energy": energy[k : k + 1]},
                conformation=running,
            )
        return found.finish(subset)


def _load(file: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a MATLAB file."""
    try:
        from scipy.io import loadmat, whosmat
    except ImportError as error:
        raise DataError(f"{file} is a MATLAB file, which needs scipy: pip install 'hiphop-train[qm7]'") from error
    try:
        declared = {name: math.prod(shape) for name, shape, _ in whosmat(file)}
        largest = 2000 * file.stat().st_size // 8 + 100_000  # zlib compresses a thousandfold at most
        if any(declared.get(key, 0) > largest for key in ARRAYS):
            raise ValueError(f"an array of {max(declared.values())} values is declared")
        arrays = loadmat(file, variable_names=list(ARRAYS))
    except Exception as error:  # scipy's parser raises many kinds
        raise DataError(
            f"{file} cannot be read as a MATLAB file: it is truncated, damaged or another kind of file "
            f"({type(error).__name__}: {error}); fetch it again"
        ) from error
    for key in ARRAYS:
        if key not in arrays:
            present = sorted(name for name in declared if not name.startswith("__"))
            raise DataError(f"{file}: no array '{key}' (set by the QM7 layout); present: {', '.join(present)}")
        kind = arrays[key].dtype.kind if isinstance(arrays[key], np.ndarray) else "?"
        if kind not in ("f" if key in "RT" else "fiu"):
            raise DataError(f"{file}: array '{key}' contains the wrong kind of numbers, {arrays[key].dtype}")
    return {key: arrays[key] for key in ARRAYS}
