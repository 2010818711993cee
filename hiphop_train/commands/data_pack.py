"""hiphop-data pack: convert a file once into arrays that training maps into memory."""

import shlex
import time
from pathlib import Path

from hiphop_train.commands.data_open import open_data
from hiphop_train.commands.progress import progress
from hiphop_train.config import quoted
from hiphop_train.data.store.layout import is_packed
from hiphop_train.data.store.open_data import default_folder
from hiphop_train.data.store.pack import pack
from hiphop_train.errors import DataError


def pack_file(file: Path, overrides: list[str], output: Path | None = None) -> Path:
    """Pack a file; returns the folder of the packed set.

    Parameters
    ----------
    file : data file, or folder of them
    overrides : data=NAME, data.KEY=VALUE
    output : folder; by default the one where a training looks for it
    """
    opened = open_data(file, overrides)
    reader = opened.source.reader
    if reader.packed is not None:
        raise DataError(f"{file} is packed already; train from it: data=packed {_path(file)}")
    print(f"{file}: read by data={opened.choice}, {opened.why}", flush=True)
    place = default_folder(reader) if output is None else output
    was_there = is_packed(place)
    start = time.perf_counter()
    try:
        with progress(f"packing into {place}", None) as advance:
            packed = pack(reader, place, advance, say=lambda text: print(text, flush=True))
    except KeyboardInterrupt:
        print(f"stopped; the same command resumes (so far in {place}.partial)", flush=True)
        raise
    seconds = time.perf_counter() - start
    size = sum(each.stat().st_size for each in place.iterdir())
    read = sum(each.stat().st_size for each in reader.files())
    counts = f"{packed.meta['n_structures']:,} structures, {packed.meta['n_atoms']:,} atoms, {size / 1e6:,.1f} MB"
    speed = "packed already" if was_there else f"{seconds:.1f} s, {read / 1e6 / seconds:.1f} MB/s of input"
    print(f"{place}: {counts}; {speed}")
    print(f"train from it: hiphop-train data=packed {_path(place)}")
    return place


def _path(folder: Path) -> str:
    """Return the setting of a path, for a shell."""
    plain = f"data.path={folder}"
    return plain if shlex.quote(plain) == plain else shlex.quote(quoted("data.path", str(folder)))
