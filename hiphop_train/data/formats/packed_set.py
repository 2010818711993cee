"""A packed set as the source of data."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from hiphop_train.data.formats.base import Block, Reader
from hiphop_train.data.store.layout import is_packed, open_packed
from hiphop_train.errors import DataError


class PackedReader(Reader):
    """Open a folder written by hiphop-data pack, or by a training run.

    Parameters
    ----------
    path : the folder; its meta.json records units and sign
    """

    def __init__(self, path: str) -> None:
        self.folder = self.packed = Path(path).expanduser()

    def files(self) -> list[Path]:
        """Return meta.json, which describes the set."""
        if not is_packed(self.folder):
            raise DataError(
                f"{self.folder} is not a packed set: it has no meta.json; create one with hiphop-data pack FILE"
            )
        return [self.folder / "meta.json"]

    def blocks(self) -> Iterator[Block]:
        """Yield all structures in blocks."""
        structures = open_packed(self.files()[0].parent).structures
        for block in structures.blocks():
            yield partial(block.take, np.arange(len(block)))
