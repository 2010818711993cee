"""What can be set of each program that is timed beside this one; conf/bench.yaml names them.

A further program is a class here, a file of its own beside `worker`, and an entry in conf/bench.yaml.
"""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt


@dataclass(frozen=True)
class Peer:
    """A program.

    Attributes
    ----------
    python : interpreter of the environment where it is installed; None is our own
    """

    python: str | None = None
    script: ClassVar[str]
    """File in this folder."""
    package: ClassVar[str]
    """What pip installs."""
    elements: ClassVar[tuple[str, ...] | None] = None
    """All elements that it knows; None: those of our model."""
    shares_weights: ClassVar[bool] = False
    """Whether it can have the weights of our potential, so that outputs must be equal."""

    def settings(self) -> dict[str, Any]:
        """Return what its process is given."""
        return {key: value for key, value in asdict(self).items() if key != "python"}


@dataclass(frozen=True)
class Hippynn(Peer):
    """hippynn with the settings and weights of our model; beside other models, its published HIP-HOP-NN."""

    kernels: Literal["numba", "pytorch", "triton", "cupy"] = "numba"
    script: ClassVar[str] = "hippynn"
    package: ClassVar[str] = "hippynn==0.1.3"
    shares_weights: ClassVar[bool] = True


@dataclass(frozen=True)
class TorchANI(Peer):
    """torchani: one network of ANI-2x's shape."""

    strategy: Literal["pyaev", "cuaev"] = "pyaev"
    script: ClassVar[str] = "torchani"
    package: ClassVar[str] = "torchani"
    elements: ClassVar[tuple[str, ...] | None] = ("H", "C", "N", "O", "S", "F", "Cl")


@dataclass(frozen=True)
class SchNetPack(Peer):
    """schnetpack's SchNet; cutoff in Angstrom."""

    n_features: PositiveInt = 128
    n_interactions: PositiveInt = 6
    n_gaussians: PositiveInt = 20
    cutoff: PositiveFloat = 5.0
    script: ClassVar[str] = "schnetpack"
    package: ClassVar[str] = "--no-deps schnetpack==2.0.4"


@dataclass(frozen=True)
class MACE(Peer):
    """mace in the sizes of MACE-OFF23."""

    size: Literal["small", "medium", "large"] = "small"
    script: ClassVar[str] = "mace"
    package: ClassVar[str] = "mace-torch==0.3.15"


@dataclass(frozen=True)
class TensorNet(Peer):
    """torchmd-net's TensorNet with the sizes of its ANI-1x example; cutoff in Angstrom.

    Attributes
    ----------
    pairs : ``given`` in the place of its own neighbour search, which compares all atoms with all, or its ``own``
    max_neighbours : which its own search allows
    """

    n_layers: int = 2
    n_features: PositiveInt = 128
    n_rbf: PositiveInt = 32
    cutoff: PositiveFloat = 4.5
    pairs: Literal["given", "own"] = "given"
    max_neighbours: PositiveInt = 64
    script: ClassVar[str] = "tensornet"
    package: ClassVar[str] = "torchmd-net==3.1.0"


@dataclass(frozen=True)
class Exported(Peer):
    """The same potential as an exported file, as the ASE calculator runs it."""

    script: ClassVar[str] = "exported"
    package: ClassVar[str] = "hiphop-train"
    shares_weights: ClassVar[bool] = True
