"""Irreducible tensors and their published invariants, against full Cartesian tensors and plain einsum."""

import itertools

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from hiphop_train.nn.tensors import PUBLISHED_COUNT, invariants, irreducible_tensors

FREE = {
    0: [()],
    1: [(0,), (1,), (2,)],
    2: [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2)],
    3: [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 1), (0, 1, 2), (1, 1, 1), (1, 1, 2)],
}
"""Indices of the free components by rank, in the documented order."""

FIRST = {0: 0, 1: 1, 2: 4, 3: 9}
"""Where the components of each rank begin."""


def expand(components: Tensor, rank: int) -> Tensor:
    """Fill a full symmetric traceless tensor from its free components: (2 rank + 1, ...) -> (3, ..., 3, ...)."""
    value = dict(zip(FREE[rank], components, strict=True))
    full = {}
    for index in itertools.product(range(3), repeat=rank):
        key = tuple(sorted(index))
        if key in value:
            full[index] = value[key]
        else:  # ends with z z, and the trace over these two indices vanishes
            assert key[-2:] == (2, 2)
            full[index] = -sum(value[tuple(sorted((*key[:-2], k, k)))] for k in (0, 1))
    shape = (3,) * rank + components.shape[1:]
    return torch.stack([full[index] for index in itertools.product(range(3), repeat=rank)]).reshape(shape)


def tensors_of(components: Tensor, l_max: int) -> list[Tensor]:
    return [expand(components[FIRST[rank] : FIRST[rank] + 2 * rank + 1], rank) for rank in range(l_max + 1)]


def components_of(tensors: list[Tensor]) -> Tensor:
    return torch.stack([tensors[rank][index] for rank in range(len(tensors)) for index in FREE[rank]])


def einsum_invariants(components: Tensor, l_max: int, n_max: int) -> Tensor:
    """Evaluate the published set (arXiv 2503.23515, table I) term by term on full tensors, x being all other axes."""
    names = ["s", "v", "q", "t"]
    tensor = dict(zip(names, tensors_of(components.flatten(1), l_max), strict=False))
    # factors, contraction
    table = [
        ("s", "x->x"),
        ("vv", "ix,ix->x"),
        ("qq", "ijx,ijx->x"),
        ("qqq", "ijx,jkx,kix->x"),
        ("tt", "ijkx,ijkx->x"),
        ("tttt", "ijkx,ijmx,nokx,nomx->x"),
        ("vqv", "ix,ijx,jx->x"),
        ("vqqv", "ix,ijx,jkx,kx->x"),
        ("tvvv", "ijkx,ix,jx,kx->x"),
        ("vttv", "kx,ijkx,ijmx,mx->x"),
        ("ttq", "ijkx,ijmx,kmx->x"),
        ("ttqq", "ijkx,ijmx,nkx,nmx->x"),
        ("tqtq", "ijkx,ijx,nokx,nox->x"),
    ]
    chosen = [
        torch.einsum(equation, *(tensor[factor] for factor in factors))
        for factors, equation in table
        if len(factors) <= n_max and all(factor in tensor for factor in factors)
    ]
    return torch.stack(chosen).reshape(len(chosen), *components.shape[1:]).transpose(0, 1)


def random_components(l_max: int, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((l_max + 1) ** 2, *shape, dtype=torch.float64, generator=generator)


def random_directions(count: int) -> Tensor:
    vectors = torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return vectors / vectors.norm(dim=1, keepdim=True)


def full_from_definition(unit: Tensor, rank: int) -> Tensor:
    """Products of a unit vector with itself, less the traces: (n, 3) -> (3, ..., 3, n)."""
    delta = torch.eye(3, dtype=unit.dtype)
    u = unit.T
    if rank == 0:
        return torch.ones(len(unit), dtype=unit.dtype)
    if rank == 1:
        return u
    if rank == 2:
        return torch.einsum("in,jn->ijn", u, u) - delta[:, :, None] / 3
    traces = torch.einsum("ij,kn->ijkn", delta, u) + torch.einsum("ik,jn->ijkn", delta, u)
    traces = traces + torch.einsum("jk,in->ijkn", delta, u)
    return torch.einsum("in,jn,kn->ijkn", u, u, u) - traces / 5


@pytest.mark.parametrize("l_max", range(4))
def test_components_are_those_of_the_definition(l_max: int) -> None:
    unit = random_directions(20)
    components = irreducible_tensors(unit, l_max)
    assert components.shape == (20, (l_max + 1) ** 2)
    for rank, tensor in enumerate(tensors_of(components.T, l_max)):
        torch.testing.assert_close(tensor, full_from_definition(unit, rank), rtol=0, atol=1e-14)


@pytest.mark.parametrize("rank", [2, 3])
def test_expanded_tensors_are_symmetric_and_traceless(rank: int) -> None:
    components = irreducible_tensors(random_directions(20), 3).T[FIRST[rank] : FIRST[rank] + 2 * rank + 1]
    tensor = expand(components, rank)
    for order in itertools.permutations(range(rank)):
        assert torch.equal(tensor, tensor.permute(*order, rank))
    assert torch.diagonal(tensor, dim1=0, dim2=1).sum(-1).abs().max() < 1e-15


def test_contractions_are_legendre_polynomials() -> None:
    """T(u) . T(w) = l! / (2 l - 1)!! P_l(u . w), which fixes each rank's norm."""
    u, w = random_directions(40)[:20], random_directions(40)[20:]
    cosine = (u * w).sum(1)
    expected = [
        torch.ones_like(cosine),
        cosine,
        2 / 3 * (1.5 * cosine**2 - 0.5),
        2 / 5 * (2.5 * cosine**3 - 1.5 * cosine),
    ]
    first, second = (tensors_of(irreducible_tensors(x, 3).T, 3) for x in (u, w))
    for rank in range(4):
        contraction = (first[rank] * second[rank]).reshape(3**rank, 20).sum(0)
        torch.testing.assert_close(contraction, expected[rank], rtol=0, atol=1e-14)


def test_ranks_are_orthogonal_on_the_sphere() -> None:
    """The mean of T_a T_b over all directions vanishes between ranks, and within one is the projector times a norm."""
    cosine, weight = np.polynomial.legendre.leggauss(8)
    angle = 2 * np.pi * np.arange(16) / 16
    sine = np.sqrt(1 - cosine**2)
    unit = np.stack([np.outer(sine, np.cos(angle)), np.outer(sine, np.sin(angle)), np.outer(cosine, np.ones(16))], -1)
    weights = torch.from_numpy(np.repeat(weight / 2 / 16, 16))
    full = [
        tensor.reshape(3**rank, -1)
        for rank, tensor in enumerate(tensors_of(irreducible_tensors(torch.from_numpy(unit.reshape(-1, 3)), 3).T, 3))
    ]
    for a, b in itertools.product(range(4), repeat=2):
        mean = torch.einsum("an,bn,n->ab", full[a], full[b], weights)
        if a != b:
            assert mean.abs().max() < 1e-15
        else:
            norm = [1, 1, 2 / 3, 2 / 5][a] / (2 * a + 1)
            projector = mean / norm
            torch.testing.assert_close(projector @ projector, projector, rtol=0, atol=1e-13)
            assert float(projector.trace()) == pytest.approx(2 * a + 1, abs=1e-12)


@pytest.mark.parametrize(("l_max", "n_max"), PUBLISHED_COUNT)
def test_invariants_equal_plain_einsum(l_max: int, n_max: int) -> None:
    components = random_components(l_max, 5, 3)
    found = invariants(components, l_max, n_max)
    assert found.shape == (PUBLISHED_COUNT[l_max, n_max], 5, 3)
    expected = einsum_invariants(components, l_max, n_max).transpose(0, 1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_counts_are_those_of_the_paper() -> None:
    """Every pair up to (3, 4) is there, and the largest set has thirteen."""
    assert set(PUBLISHED_COUNT) == set(itertools.product(range(4), range(1, 5)))
    assert PUBLISHED_COUNT[3, 4] == 13
    assert PUBLISHED_COUNT[3, 3] == 7


@pytest.mark.parametrize("handedness", [1, -1], ids=["rotation", "reflection"])
@pytest.mark.parametrize("seed", range(3))
def test_invariant_under_rotation_and_reflection(seed: int, handedness: int) -> None:
    matrix = handedness * torch.from_numpy(Rotation.random(random_state=np.random.RandomState(seed)).as_matrix())
    scalar, vector, quadrupole, octupole = tensors_of(random_components(3, 30, seed=seed), 3)
    turned = [
        scalar,
        torch.einsum("ai,in->an", matrix, vector),
        torch.einsum("ai,bj,ijn->abn", matrix, matrix, quadrupole),
        torch.einsum("ai,bj,ck,ijkn->abcn", matrix, matrix, matrix, octupole),
    ]
    before = invariants(random_components(3, 30, 1, seed=seed), 3, 4)
    after = invariants(components_of(turned)[:, :, None], 3, 4)
    largest = before.abs().amax(dim=1, keepdim=True)
    assert ((after - before) / largest).abs().max() < 1e-10
    assert (components_of(turned)[1:] - random_components(3, 30, seed=seed)[1:]).abs().max() > 0.1


@pytest.mark.parametrize("handedness", [1, -1], ids=["rotation", "reflection"])
def test_tensors_of_turned_directions_are_turned_tensors(handedness: int) -> None:
    matrix = handedness * torch.from_numpy(Rotation.random(random_state=np.random.RandomState(3)).as_matrix())
    unit = random_directions(20)
    _, vector, quadrupole, octupole = tensors_of(irreducible_tensors(unit, 3).T, 3)
    turned = tensors_of(irreducible_tensors(unit @ matrix.T, 3).T, 3)
    expected = [
        torch.einsum("ai,in->an", matrix, vector),
        torch.einsum("ai,bj,ijn->abn", matrix, matrix, quadrupole),
        torch.einsum("ai,bj,ck,ijkn->abcn", matrix, matrix, matrix, octupole),
    ]
    for found, wanted in zip(turned[1:], expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("l_max", "n_max", "vanishing", "rank"),
    [
        (0, 4, "", 1),
        (1, 4, "", 2),  # complete: 4 components less 2 rotations
        (2, 4, "", 6),  # complete: 9 less 3
        (3, 4, "", 13),  # complete: 16 less 3
        (3, 3, "", 7),
        (3, 2, "", 4),
        (3, 4, "v", 8),  # of 10: what four vertices reach
        (3, 4, "q", 6),  # of 8: t.t.t.v is missing
        (3, 4, "t", 6),  # of 6
    ],
)
def test_rank_of_the_jacobian(l_max: int, n_max: int, vanishing: str, rank: int) -> None:
    """How many independent numbers the invariants keep at generic points, also where one tensor vanishes."""
    names = "s" + "v" * 3 + "q" * 5 + "t" * 7
    present = torch.tensor([name not in vanishing for name in names[: (l_max + 1) ** 2]])
    for seed in range(3):
        point = random_components(l_max, seed=seed) * present
        jacobian = torch.autograd.functional.jacobian(
            lambda x: invariants(x[:, None, None], l_max, n_max).flatten(), point
        )
        singular = torch.linalg.svdvals(jacobian[:, present])
        assert int((singular > 1e-9 * singular[0]).sum()) == rank


def test_scripted_equals_eager() -> None:
    unit, components = random_directions(7), random_components(3, 4, 2)
    assert torch.equal(torch.jit.script(irreducible_tensors)(unit, 3), irreducible_tensors(unit, 3))
    scripted = torch.jit.script(invariants)(components, 3, 4)  # by the plain formula, not by the traced program
    torch.testing.assert_close(scripted, invariants(components, 3, 4), rtol=1e-14, atol=1e-14)
