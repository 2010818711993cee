"""The potential: E0 plus terms, with forces and virial by differentiation."""

from abc import ABC, abstractmethod
from typing import Dict, List, Tuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hiphop_train.graph.assemble import with_pair_vectors
from hiphop_train.graph.segments import segment_sum
from hiphop_train.models.base import Representation
from hiphop_train.nn.standardisation import Standardisation
from hiphop_train.readout.base import Readout
from hiphop_train.types import Graph


class Term(nn.Module, ABC):
    """A summand of the energy.

    Parameters
    ----------
    is_hierarchical : whether its energies are levels that should decrease, with E0 as the first
    targets : keys of the targets among the further outputs
    """

    def __init__(self, is_hierarchical: bool = False, targets: Tuple[str, ...] = ()) -> None:
        super().__init__()
        self.is_hierarchical = is_hierarchical
        self.targets = targets

    @abstractmethod
    def forward(self, graph: Graph) -> Dict[str, Tensor]:
        """Return the outputs of the term.

        Returns
        -------
        outputs : dict
            ``energies`` of the atoms (n_atoms, n_levels), eV, which may be resolved into levels; and further outputs
            of the potential
        """


class Network(Term):
    """The learned term: representation and readout, with statistics fitted to the training set before the weights.

    These are an energy scale and, if the representation declares it, the standardisation of its features.

    Parameters
    ----------
    representation : maps graphs to features of the atoms
    readout : maps features to energies
    """

    scale: Tensor

    def __init__(self, representation: Representation, readout: Readout) -> None:
        super().__init__(readout.is_hierarchical, readout.targets)
        self.representation = representation
        self.readout = readout
        functions = representation.standardised_functions
        self.standardisations = nn.ModuleList()  # of the last level, or empty
        if functions:
            self.standardisations.append(Standardisation(len(representation.elements), len(functions)))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    def forward(self, graph: Graph) -> Dict[str, Tensor]:
        """Return the outputs of the readout, energies (n_atoms, n_levels) in eV, float64."""
        levels: List[Tensor] = self.representation(graph)
        for standardisation in self.standardisations:
            levels[-1] = standardisation(levels[-1], graph.species)
        outputs: Dict[str, Tensor] = self.readout(levels, graph)
        outputs["energies"] = outputs["energies"].to(torch.float64) * self.scale
        return outputs


def hierarchicality(level_energies: Tensor) -> Tensor:
    """Non-hierarchicality of each atom, R_i = sum_n (E_i^n)^2 / ((E_i^n)^2 + (E_i^(n-1))^2) (JCP 148, 241715, eq. 12).

    Parameters
    ----------
    level_energies : (n_atoms, n_levels), level 0 is E0

    Returns
    -------
    R : (n_atoms,), between 0 and n_levels - 1; if two consecutive levels vanish, their summand is 0
    """
    squares = level_energies.square()
    upper, lower = squares[:, 1:], squares[:, :-1]
    total = upper + lower
    empty = total == 0
    return (upper / torch.where(empty, torch.ones_like(total), total)).sum(1)


def stress(virial: Tensor, cell: Tensor, pbc: Tensor) -> Tensor:
    """Return the stress (n_systems, 3, 3), eV/Angstrom^3: derivative with respect to strain per volume, as in ASE.

    It is zero unless a system is periodic in all three directions, since it has no volume otherwise.

    Parameters
    ----------
    virial : (n_systems, 3, 3) eV
    cell : (n_systems, 3, 3) Angstrom, rows are lattice vectors
    pbc : (n_systems, 3) bool
    """
    volume = (torch.cross(cell[:, 0], cell[:, 1], dim=1) * cell[:, 2]).sum(1).abs()
    density = torch.where(pbc.all(1), 1.0 / volume, torch.zeros_like(volume))
    return -virial * density[:, None, None].to(virial.dtype)


class Potential(nn.Module):
    """Energy of a system as E0 of its atoms plus a sum of terms, with forces and virial.

    Parameters
    ----------
    terms : summands; the first is the network
    elements : type names, indexed by the graph's species
    cutoff : Angstrom
    n_theories : number of levels of theory, the rows of E0, indexed by the graph's theory

    Attributes
    ----------
    targets : keys of the targets among the outputs, see `hiphop_train.targets`

    Notes
    -----
    E0 and all returned energies are float64: at 1000 Hartree, the resolution of float32 is 2 meV.
    """

    e0: Tensor

    def __init__(self, terms: List[Term], elements: List[str], cutoff: float, n_theories: int = 1) -> None:
        super().__init__()
        self.terms = nn.ModuleList(terms)
        self.elements = elements
        self.cutoff = cutoff
        self.is_hierarchical = bool(terms[0].is_hierarchical)
        self.targets = ["energy", "forces", "stress"] + [key for term in terms for key in term.targets]
        self.register_buffer("e0", torch.zeros(n_theories, len(elements), dtype=torch.float64))

    def set_statistics(self, e0: NDArray[np.float64], scale: float) -> None:
        """Set the statistics of the training labels: E0 (n_theories, n_types) and the network's scale, in eV."""
        self.e0 = torch.tensor(e0, dtype=torch.float64, device=self.e0.device)
        network = self.terms[0]
        assert isinstance(network, Network)
        network.scale.fill_(scale)

    def forward(self, graph: Graph, forces: bool = True, virial: bool = False) -> Dict[str, Tensor]:
        """Evaluate.

        Parameters
        ----------
        graph : structures with their pairs within the cutoff
        forces, virial : whether to differentiate; in training mode the derivatives can be differentiated again

        Returns
        -------
        outputs : dict
            ``energy`` (n_systems,), ``atomic_energy`` (n_atoms,), ``level_energies`` (n_atoms, n_levels) in eV,
            float64; ``hierarchicality`` (n_systems,), the mean over atoms, 0 without hierarchical levels; if requested,
            ``forces`` (n_atoms, 3) in eV/Angstrom and ``virial`` (n_systems, 3, 3) in eV, the negative derivative with
            respect to strain, with ``stress`` (n_systems, 3, 3) in eV/Angstrom^3, see `stress`; and further outputs of
            the readout
        """
        derivatives = forces or virial
        vectors = graph.pair_vectors
        if derivatives:
            vectors = vectors.detach().requires_grad_(True)
            graph = with_pair_vectors(graph, vectors)
        n_atoms = graph.species.shape[0]
        owned = (torch.arange(n_atoms, device=graph.species.device) < graph.n_owned).to(torch.float64)

        levels = [self.e0[graph.theory[graph.system], graph.species][:, None]]
        outputs: Dict[str, Tensor] = {}
        for term in self.terms:
            found: Dict[str, Tensor] = term(graph)
            levels.append(found.pop("energies"))
            outputs.update(found)
        level_energies = torch.cat(levels, dim=1) * owned[:, None]
        atomic_energy = level_energies.sum(1)
        energy = segment_sum(atomic_energy, graph.system, graph.n_systems)
        n_owned_of_system = segment_sum(owned, graph.system, graph.n_systems).clamp(min=1.0)
        mean_hierarchicality = torch.zeros_like(energy)
        if self.is_hierarchical:
            of_atoms = hierarchicality(torch.cat(levels[:2], dim=1))
            total = segment_sum(of_atoms * owned, graph.system, graph.n_systems)
            mean_hierarchicality = total / n_owned_of_system
        outputs["energy"] = energy
        outputs["atomic_energy"] = atomic_energy
        outputs["level_energies"] = level_energies
        outputs["hierarchicality"] = mean_hierarchicality
        if derivatives:
            gradient = torch.autograd.grad([energy.sum()], [vectors], create_graph=self.training)[0]
            assert gradient is not None
            if forces:
                received = segment_sum(gradient, graph.pair_i, n_atoms)
                outputs["forces"] = received - segment_sum(gradient, graph.pair_j, n_atoms)
            if virial:
                of_pairs = -vectors[:, :, None] * gradient[:, None, :]
                outputs["virial"] = segment_sum(of_pairs, graph.system[graph.pair_i], graph.n_systems)
                outputs["stress"] = stress(outputs["virial"], graph.cell, graph.pbc)
        return outputs
