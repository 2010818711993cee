"""hiphop-data download: bring a published data set to where its configuration expects it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from hiphop_train.data.download.registry import REGISTRY, Advance, published, registry
from hiphop_train.data.download.transfer import DEFAULT_RETRIES, Bar, Retries, fetch


def download(
    name: str, root: Path | None = None, listed: Path = REGISTRY, retries: Retries = DEFAULT_RETRIES
) -> list[Path]:
    """Fetch all files of a data set that are not there yet; returns where they are.

    Parameters
    ----------
    name : of the registry
    root : folder; by default the one that the data set's configuration names
    listed : the registry
    retries : of requests
    """
    wanted = published(name, listed)
    folder = Path(wanted.folder) if root is None else root
    found: list[Path] = []
    for remote in wanted.files:
        with _bars() as bar:
            paths, existed = fetch(remote, folder, bar, retries)
        found += paths
        state = "exists" if existed else ("fetched" if remote.checksum else "fetched (no checksum to compare)")
        for path in paths:
            print(f"{path}  {path.stat().st_size:,} bytes  {state}", flush=True)
    return found


def print_list(listed: Path = REGISTRY) -> None:
    """Print what can be fetched."""
    for name, entry in registry(listed).items():
        sizes = [remote.size for remote in entry.files]
        size = f"{sum(sizes) / 1e9:.1f} GB" if all(sizes) else ""  # type: ignore[arg-type]
        print(f"{name:14s}{size:>9s}  {entry.what}")


@contextmanager
def _bars() -> Iterator[Bar]:
    """Bars on a terminal, one after another; a log file gets a line at the beginning."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    terminal = sys.stdout.isatty()
    with Progress(*columns, TimeRemainingColumn(), transient=True, disable=not terminal) as shown:

        def begin(what: str, total: int | None) -> Advance:
            if not terminal:
                print(f"{what}{'' if total is None else f'  {total:,} bytes'}", flush=True)
            task = shown.add_task(what, total=total)
            return lambda n: shown.advance(task, n)

        yield begin
