"""Summary of all arrays in an HDF5 file, including those that its configuration does not read."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from hiphop_train.data.formats.hdf5 import hdf5_errors, open_hdf5

SAMPLED_GROUPS = 300
"""Groups whose values are read, spread evenly over the file."""
ROWS = 2_000
"""Rows read per array."""


@dataclass
class ArraySummary:
    """Summary of all arrays of one name.

    Attributes
    ----------
    name, dtype : as in the file
    shape : of the first array
    n_arrays, n_rows : number of arrays, and of rows in all of them
    n_read, n_nan, n_zero : rows read, and among them rows that are all NaN, and all zero
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    n_arrays: int = 0
    n_rows: int = 0
    n_read: int = 0
    n_nan: int = 0
    n_zero: int = 0


def summarise_hdf5(file: Path) -> tuple[list[ArraySummary], int, int]:
    """List the arrays of an HDF5 file by name.

    Returns
    -------
    summaries : sorted by name
    n_groups : number of groups with arrays
    n_read : number of groups whose values were read
    """
    summaries: dict[str, ArraySummary] = {}
    with open_hdf5(file) as handle, hdf5_errors(file):
        found: dict[str, list[h5py.Dataset]] = {}

        def visit(name: str, node: object) -> None:
            if isinstance(node, h5py.Dataset):
                found.setdefault(name.rpartition("/")[0], []).append(node)

        handle.visititems(visit)
        step = -(-len(found) // SAMPLED_GROUPS) if found else 1
        for k, group in enumerate(found.values()):
            for node in group:
                key = node.name.rpartition("/")[2]
                summary = summaries.setdefault(key, ArraySummary(key, str(node.dtype), tuple(node.shape or ())))
                summary.n_arrays += 1
                summary.n_rows += node.shape[0] if node.shape else 1
                if k % step == 0 and node.dtype.kind in "fiu" and node.shape:
                    _count(summary, node)
    return sorted(summaries.values(), key=lambda summary: summary.name), len(found), len(range(0, len(found), step))


def _count(summary: ArraySummary, node: h5py.Dataset) -> None:
    values = np.asarray(node[:ROWS])
    if values.size == 0:
        return
    rows = values.reshape(len(values), -1)
    summary.n_read += len(rows)
    summary.n_nan += int(np.isnan(rows).all(axis=1).sum()) if rows.dtype.kind == "f" else 0
    summary.n_zero += int((rows == 0).all(axis=1).sum())
