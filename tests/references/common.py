"""What all references share."""

import torch
from torch import Tensor, nn

from hiphop_train.nn.couplings import harmonics
from hiphop_train.potential import Network, Potential

ELEMENTS = ["H", "C", "N", "O"]


def perturb(module: nn.Module, seed: int, size: float = 0.1) -> None:
    """Move all parameters away from their defaults."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
            parameter.add_(size * noise.to(parameter.dtype))


def settle(network: Network, cutoff: float, weights: dict[str, Tensor]) -> Potential:
    """Make a potential of a network with all its parameters replaced."""
    potential = Potential([network], ELEMENTS, cutoff)
    missing = dict(potential.named_parameters()).keys() - weights.keys()
    assert not missing, missing
    unexpected = potential.load_state_dict(weights, strict=False).unexpected_keys
    assert not unexpected, unexpected
    return potential.eval()


def turning(rank: int, matrix: Tensor) -> Tensor:
    """Matrix that turns the free components of a true tensor."""
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(40, 3, dtype=torch.float64, generator=generator)
    vectors = torch.nn.functional.normalize(random, dim=1)
    before, after = (harmonics(unit, rank)[:, rank * rank :] for unit in (vectors, vectors @ matrix.T))
    solution: Tensor = torch.linalg.lstsq(before, after).solution
    return solution.T
