"""Products of an atom's tensors: their number, the space they span, and which are HIP-HOP-NN's contractions."""

import pytest
import torch

from hiphop_train.nn.contractions import connected_contractions, parse
from hiphop_train.nn.symmetric_powers import SymmetricPowers, equation, normalisation, projected, symmetric_powers
from hiphop_train.nn.tensors import full_tensor

EIGHT = ["s s s", "s v_i v_i", "s q_ij q_ij", "s t_ijk t_ijk", "v_i v_j q_ij", "q_ij q_jk q_ki", "v_i q_jk t_ijk",
         "q_ij t_ikl t_jkl"]  # fmt: skip


SQUARES = {"v_i v_i", "q_ij q_ij", "t_ijk t_ijk"}


def test_cubic_scalars_are_products_of_hip_hop_invariants() -> None:
    """MACE's basis of scalars, l_max 3, correlation 3: four contractions of three tensors, others with s."""
    found = symmetric_powers(3, 3, 0)
    assert {str(each) for each in found} == {str(parse(product)) for product in EIGHT}
    contractions = {str(each) for each in connected_contractions(3, 3)}
    connected = {str(each) for each in found if each.is_connected()}
    assert len(connected) == 4
    assert connected <= contractions
    assert {str(each) for each in found} - connected == {"s s s", *(f"s {square}" for square in SQUARES)}
    assert contractions >= SQUARES


@pytest.mark.parametrize(("rank", "n_theirs", "n_ours"), [(0, 23, 8), (1, 51, 12), (2, 65, 14)])
def test_products_span_those_of_mace(rank: int, n_theirs: int, n_ours: int) -> None:
    """mace-torch's matrices of degree 3 act through as many polynomials as there are products of ours."""
    from e3nn import o3
    from mace.tools.cg import U_matrix_real

    from hiphop_train.importing.e3nn import basis

    irreps = o3.Irreps("0e + 1o + 2e + 3o")
    wanted = o3.Irreps([(1, (rank, (-1) ** rank))])
    theirs = U_matrix_real(irreps, wanted, 3, use_cueq_cg=False, dtype=torch.float64)[-1]
    theirs = theirs[None] if rank == 0 else theirs
    assert theirs.shape[-1] == n_theirs
    generator = torch.Generator().manual_seed(1)
    free = torch.randn(16, 40, dtype=torch.float64, generator=generator)
    parts = [free[k * k : (k + 1) ** 2] for k in range(4)]
    x = torch.cat([basis(k) @ part for k, part in enumerate(parts)])
    values = torch.einsum("mabcw,as,bs,cs->wms", theirs, x, x, x).flatten(1)
    full = [full_tensor(part, k) for k, part in enumerate(parts)]
    products = symmetric_powers(3, 3, rank)
    ours = torch.stack([basis(rank) @ projected(each, rank, full) for each in products]).flatten(1)
    assert len(products) == n_ours == int(torch.linalg.matrix_rank(values)) == int(torch.linalg.matrix_rank(ours))
    rest = values.T - ours.T @ torch.linalg.lstsq(ours.T, values.T).solution
    assert rest.abs().max() < 1e-10 * values.abs().max()


@pytest.mark.parametrize(("l_max", "degree", "rank"), [(2, 2, 0), (3, 3, 1), (2, 4, 2), (3, 2, 3)])
def test_mean_square_of_products_of_independent_tensors(l_max: int, degree: int, rank: int) -> None:
    from hiphop_train.importing.e3nn import basis

    generator = torch.Generator().manual_seed(0)
    for product in symmetric_powers(l_max, degree, rank)[-3:]:
        ranks = product.ranks[:degree]
        factors = [
            full_tensor(basis(k).inverse() @ torch.randn(2 * k + 1, 40000, dtype=torch.float64, generator=generator), k)
            for k in ranks
        ]
        full = torch.einsum(equation(product, rank), factors)
        from hiphop_train.nn.couplings import projection

        values = basis(rank) @ projection(rank) @ full.reshape(3**rank, -1)
        assert float((normalisation(product, rank) * values).square().mean()) == pytest.approx(1.0, rel=0.2)


def test_single_tensors_pass_unchanged() -> None:
    """Correlation 1 is a weight for each species and feature."""
    powers = SymmetricPowers(2, 1, [0, 1, 2], n_types=3, width=4).double()
    tensors = [torch.randn(5, 2 * k + 1, 4, dtype=torch.float64) for k in range(3)]
    species = torch.tensor([0, 2, 1, 0, 2])
    for found, given, own in zip(powers(tensors, species), tensors, powers.powers, strict=True):
        torch.testing.assert_close(found, own.weight[species] * given, rtol=1e-12, atol=1e-12)
