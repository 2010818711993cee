"""Interface of all readers, and the search for their files."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, final

from ase.symbols import Symbols
from numpy.typing import NDArray

from hiphop_train.data.structures import Structures, concatenate
from hiphop_train.errors import DataError
from hiphop_train.files import absence

BLOCK_ATOMS = 500_000
"""Approximate number of atoms that a reader keeps in memory."""

Block = Callable[[], Structures | None]
"""Reads one block of a data set; None if it contains nothing requested."""


class Reader(ABC):
    """Read a data set from disk, block by block, into Angstrom and the units of `targets.TARGETS`.

    Its public attributes are its configuration, which is part of a data set's identity.
    """

    packed: Path | None = None
    """Folder of an already packed set."""

    @abstractmethod
    def files(self) -> list[Path]:
        """Return the files to read; if one is missing, raise `DataError` with download instructions."""

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """Yield the blocks; each may be read, by a call, only before the next is requested.

        The division into blocks, in the order of the files, is a function of files and configuration. Raises
        `DataError` with file, location and advice if a file is not as declared.
        """

    @final
    def read(self) -> Structures:
        """Return all structures in memory."""
        found = [structures for block in self.blocks() if (structures := block()) is not None]
        source = ", ".join(map(str, self.files()[:3]))
        if not found:
            raise DataError(f"{source} contains no structures with the requested labels")
        return concatenate(found, found[0].source if len(self.files()) == 1 else source)


EMBEDDED = Path(__file__).parents[1] / "tiny"


def locate(path: str) -> Path:
    """Return the path of a file; ``embedded:NAME`` means a file of the package's own data."""
    if path.startswith("embedded:"):
        return EMBEDDED / path.removeprefix("embedded:")
    return Path(path).expanduser()


def require_file(path: str, key: str, download: str = "") -> Path:
    """Return the path of an existing file, or raise with download instructions.

    Parameters
    ----------
    path : path of the file
    key : configuration key that sets it
    download : command or address to download it
    """
    file = locate(path)
    if file.is_file():
        return file
    if not path:
        raise DataError(f"{key} is empty; give a file: {key}=PATH")
    what = absence(file)
    advice = f"\n  download it: {download.format(path=file, folder=file.parent)}" if download else ""
    raise DataError(f"{file} {what}{advice}\n  or give its path: {key}=PATH")


def find_files(root: str, names: list[str], download: str = "") -> list[Path]:
    """Return the paths of files below a folder, at any depth, or raise with download instructions.

    Parameters
    ----------
    root : folder
    names : names of the files; all must exist
    download : command or address to download them
    """
    folder = Path(root).expanduser()
    paths: dict[str, list[Path]] = {name: [] for name in names}
    if folder.is_dir():
        for file in sorted(folder.rglob("*")):
            if file.name in paths and file.is_file():
                paths[file.name].append(file)
    missing = [name for name, found in paths.items() if not found]
    if missing or not names:
        advice = f"\n  download: {download.format(folder=folder)}" if download else ""
        raise DataError(
            f"{folder} does not contain {', '.join(missing) or 'any file'}{advice}\n"
            "  or give another folder: data.root=FOLDER, or other files: 'data.reader.names=[NAME,...]'"
        )
    for name, found in paths.items():
        if len(found) > 1:
            raise DataError(
                f"{folder} contains {name} {len(found)} times ({found[0]}, {found[1]}): the same data would count "
                "twice; give a folder that contains it once: data.root=FOLDER"
            )
    return [paths[name][0] for name in names]


def hill_formula(numbers: NDArray[Any]) -> str:
    """Return the chemical formula of atomic numbers in Hill order: carbon, hydrogen, then alphabetical."""
    return str(Symbols(numbers).formula.format("hill"))


def slices(n: int, n_atoms: int, multiple: int = 1) -> Iterator[slice]:
    """Divide n conformations of n_atoms atoms into blocks of at most about `BLOCK_ATOMS` atoms.

    Parameters
    ----------
    n, n_atoms : number of conformations, and of atoms in each
    multiple : number of conformations that the file stores together; blocks are multiples of it, unless too large
    """
    size = max(1, BLOCK_ATOMS // max(1, n_atoms))
    size -= size % multiple if multiple <= size else 0
    for start in range(0, n, size):
        yield slice(start, min(n, start + size))
