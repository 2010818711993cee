"""Settings of the programs that can be compared with ours; conf/bench.yaml lists them.

A new program needs a class here, a file in ``benchmarks/peers`` of the checkout, and an entry in conf/bench.yaml.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt

HERE = Path(__file__).parent
PEERS = HERE.parents[1] / "benchmarks" / "peers"
"""Adapters of other programs, in a checkout only."""


Needs = Literal["weights", "exported", None]


@dataclass(frozen=True)
class Peer:
    """A program.

    Attributes
    ----------
    python : interpreter of the environment where it is installed; None means our own
    """

    python: str | None = None
    file: ClassVar[Path]
    """File that `worker` runs."""
    package: ClassVar[str]
    """Requirement for pip."""
    elements: ClassVar[tuple[str, ...] | None] = None
    """Supported elements; None: those of our model."""
    needs: ClassVar[Needs] = None
    """Form in which it needs our potential."""

    def settings(self) -> dict[str, Any]:
        """Return the settings of its process."""
        return {key: value for key, value in asdict(self).items() if key != "python"}


@dataclass(frozen=True)
class Exported(Peer):
    """The same potential as an exported file, run as in the ASE calculator."""

    file: ClassVar[Path] = HERE / "exported.py"
    package: ClassVar[str] = "hiphop-train"
    needs: ClassVar[Needs] = "exported"


@dataclass(frozen=True)
class ASE(Peer):
    """An ASE calculator.

    Attributes
    ----------
    calculator : dotted name of the class or of a factory function; None: ours, with the exported file
    arguments : its keyword arguments
    """

    calculator: str | None = None
    arguments: dict[str, Any] | None = None
    file: ClassVar[Path] = HERE / "ase_calculator.py"
    package: ClassVar[str] = "ase"
    needs: ClassVar[Needs] = "exported"


@dataclass(frozen=True)
class Hippynn(Peer):
    """hippynn with the settings and weights of our model; for models it lacks, its published HIP-HOP-NN."""

    kernels: Literal["numba", "pytorch", "triton", "cupy"] = "numba"
    file: ClassVar[Path] = PEERS / "hippynn.py"
    package: ClassVar[str] = "hippynn==0.1.3"
    needs: ClassVar[Needs] = "weights"


@dataclass(frozen=True)
class TorchANI(Peer):
    """torchani: one network of ANI-2x's shape."""

    strategy: Literal["pyaev", "cuaev"] = "pyaev"
    file: ClassVar[Path] = PEERS / "torchani.py"
    package: ClassVar[str] = "torchani"
    elements: ClassVar[tuple[str, ...] | None] = ("H", "C", "N", "O", "S", "F", "Cl")


@dataclass(frozen=True)
class SchNetPack(Peer):
    """schnetpack's SchNet; cutoff in Angstrom."""

    n_features: PositiveInt = 128
    n_interactions: PositiveInt = 6
    n_gaussians: PositiveInt = 20
    cutoff: PositiveFloat = 5.0
    file: ClassVar[Path] = PEERS / "schnetpack.py"
    package: ClassVar[str] = "--no-deps schnetpack==2.0.4"


@dataclass(frozen=True)
class MACE(Peer):
    """mace in the sizes of MACE-OFF23."""

    size: Literal["small", "medium", "large"] = "small"
    file: ClassVar[Path] = PEERS / "mace.py"
    package: ClassVar[str] = "mace-torch==0.3.15"


@dataclass(frozen=True)
class TensorNet(Peer):
    """torchmd-net's TensorNet with the sizes of its ANI-1x example; cutoff in Angstrom.

    Attributes
    ----------
    pairs : ``given``, replacing its own neighbour search, which compares all pairs of atoms; or its ``own``
    max_neighbours : limit of its own search
    """

    n_layers: int = 2
    n_features: PositiveInt = 128
    n_rbf: PositiveInt = 32
    cutoff: PositiveFloat = 4.5
    pairs: Literal["given", "own"] = "given"
    max_neighbours: PositiveInt = 64
    file: ClassVar[Path] = PEERS / "tensornet.py"
    package: ClassVar[str] = "torchmd-net==3.1.0"
