"""What every reader declares, and the search for its files."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, final

from ase.symbols import Symbols
from numpy.typing import NDArray

from hiphop_train.data.structures import Structures, concatenate
from hiphop_train.errors import DataError

BLOCK_ATOMS = 500_000
"""Approximate number of atoms that a reader holds in memory together."""

Block = Callable[[], Structures | None]
"""Reads one block of a data set; None where it holds nothing of what was requested."""


class Reader(ABC):
    """Read a data set from disk, block by block, into Angstrom and the units of `targets.TARGETS`.

    Its public attributes are its configuration, by which data sets are told apart.
    """

    packed: Path | None = None
    """Folder of a set that is packed already."""

    @abstractmethod
    def files(self) -> list[Path]:
        """Return the files that will be read; raises `DataError`, with the way to get it, where one is missing."""

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """Yield the blocks, each to be read by a call before the next is requested, or skipped.

        The division into blocks, in the order of the files, is a function of files and configuration. Raises
        `DataError` with file, place and advice when a file is not as declared.
        """

    @final
    def read(self) -> Structures:
        """Return all structures in memory."""
        found = [structures for block in self.blocks() if (structures := block()) is not None]
        source = ", ".join(map(str, self.files()[:3]))
        if not found:
            raise DataError(f"{source}: holds no structures with the requested labels")
        return concatenate(found, found[0].source if len(self.files()) == 1 else source)


EMBEDDED = Path(__file__).parents[1] / "tiny"


def locate(path: str) -> Path:
    """Return the place of a file; ``embedded:NAME`` means a file of the data that comes with the package."""
    if path.startswith("embedded:"):
        return EMBEDDED / path.removeprefix("embedded:")
    return Path(path).expanduser()


def require_file(path: str, key: str, download: str = "") -> Path:
    """Return the path of an existing file, or raise with the way to get it.

    Parameters
    ----------
    path : path of the file
    key : configuration key that sets it
    download : command or address that brings it
    """
    file = locate(path)
    if file.is_file():
        return file
    what = "is a folder, not a file" if file.is_dir() else "does not exist"
    advice = f"\n  download it: {download.format(path=file, folder=file.parent)}" if download else ""
    raise DataError(f"{file} {what}{advice}\n  or say where it is: {key}=PATH")


def find_files(root: str, names: list[str], download: str = "") -> list[Path]:
    """Return the places of files below a folder, at any depth, or raise with the way to get what is missing.

    Parameters
    ----------
    root : folder
    names : names of the files; all of them are needed
    download : command or address that brings them
    """
    folder = Path(root).expanduser()
    places: dict[str, list[Path]] = {name: [] for name in names}
    if folder.is_dir():
        for file in sorted(folder.rglob("*")):
            if file.name in places and file.is_file():
                places[file.name].append(file)
    missing = [name for name, found in places.items() if not found]
    if missing or not names:
        advice = f"\n  download: {download.format(folder=folder)}" if download else ""
        raise DataError(
            f"{folder} does not hold {', '.join(missing) or 'any file'}{advice}\n"
            "  or say where: data.root=FOLDER, or which files to read: 'data.reader.names=[NAME,...]'"
        )
    for name, found in places.items():
        if len(found) > 1:
            raise DataError(
                f"{folder} holds {name} {len(found)} times ({found[0]}, {found[1]}): the same data would count twice; "
                "give a folder that holds it once: data.root=FOLDER"
            )
    return [places[name][0] for name in names]


def hill_formula(numbers: NDArray[Any]) -> str:
    """Return the chemical formula of atomic numbers: carbon, hydrogen, then the alphabet."""
    return str(Symbols(numbers).formula.format("hill"))


def slices(n: int, n_atoms: int, multiple: int = 1) -> Iterator[slice]:
    """Divide n conformations of n_atoms atoms into blocks of at most about `BLOCK_ATOMS` atoms.

    Parameters
    ----------
    n, n_atoms : number of conformations, and of the atoms of each
    multiple : blocks hold a multiple of this number of conformations, where that is not too much, because the file
        stores them together
    """
    size = max(1, BLOCK_ATOMS // max(1, n_atoms))
    size -= size % multiple if multiple <= size else 0
    for start in range(0, n, size):
        yield slice(start, min(n, start + size))
