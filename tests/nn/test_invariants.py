"""The published and the flexible invariants as a module: values, symmetries, TorchScript, refusals."""

import io
import itertools

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from hiphop_train.errors import ConfigError
from hiphop_train.nn.invariants import Invariants, invariant_contractions
from hiphop_train.nn.tensors import irreducible_tensors
from tests.nn.conftest import components_of, random_components, tensors_of, turn

PUBLISHED_COUNT = {
    (0, 1): 1, (0, 2): 1, (0, 3): 1, (0, 4): 1,
    (1, 1): 1, (1, 2): 2, (1, 3): 2, (1, 4): 2,
    (2, 1): 1, (2, 2): 3, (2, 3): 5, (2, 4): 6,
    (3, 1): 1, (3, 2): 4, (3, 3): 7, (3, 4): 13,
}  # fmt: skip
"""Number of published invariants by (l_max, n_max)."""

SETS = [("published", 3, 4), ("flexible", 3, 4), ("flexible", 4, 4), ("flexible", 5, 5)]


def published_by_einsum(components: Tensor, l_max: int, n_max: int) -> Tensor:
    """Evaluate the published set (arXiv 2503.23515, table I) term by term on full tensors, z being all other axes."""
    names = ["s", "v", "q", "t"]
    tensor = dict(zip(names, tensors_of(components.flatten(1), l_max), strict=False))
    # factors, contraction
    table = [
        ("s", "z->z"),
        ("vv", "iz,iz->z"),
        ("qq", "ijz,ijz->z"),
        ("qqq", "ijz,jkz,kiz->z"),
        ("tt", "ijkz,ijkz->z"),
        ("tttt", "ijkz,ijmz,nokz,nomz->z"),
        ("vqv", "iz,ijz,jz->z"),
        ("vqqv", "iz,ijz,jkz,kz->z"),
        ("tvvv", "ijkz,iz,jz,kz->z"),
        ("vttv", "kz,ijkz,ijmz,mz->z"),
        ("ttq", "ijkz,ijmz,kmz->z"),
        ("ttqq", "ijkz,ijmz,nkz,nmz->z"),
        ("tqtq", "ijkz,ijz,nokz,noz->z"),
    ]
    chosen = [
        torch.einsum(equation, *(tensor[factor] for factor in factors))
        for factors, equation in table
        if len(factors) <= n_max and all(factor in tensor for factor in factors)
    ]
    return torch.stack(chosen).reshape(len(chosen), *components.shape[1:])


@pytest.mark.parametrize(("l_max", "n_max"), PUBLISHED_COUNT)
def test_published_invariants_equal_plain_einsum_in_their_order(l_max: int, n_max: int) -> None:
    components = random_components(l_max, 5, 3)
    module = Invariants("published", l_max, n_max)
    found = module(components)
    assert found.shape == (PUBLISHED_COUNT[l_max, n_max], 5, 3)
    assert module.n_invariants == PUBLISHED_COUNT[l_max, n_max]
    torch.testing.assert_close(found, published_by_einsum(components, l_max, n_max), rtol=1e-12, atol=1e-12)


def test_flexible_invariants_are_the_contractions_of_the_search() -> None:
    components = random_components(4, 6)
    tensors = tensors_of(components, 4)
    found = Invariants("flexible", 4, 4)(components)
    for value, contraction in zip(found, invariant_contractions("flexible", 4, 4), strict=True):
        equation = ",".join(f"{index}z" for index in contraction.indices()) + "->z"
        expected = torch.einsum(equation, *(tensors[rank] for rank in contraction.ranks))
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("handedness", [1, -1], ids=["rotation", "reflection"])
@pytest.mark.parametrize("arguments", SETS)
@pytest.mark.parametrize("seed", range(2))
def test_invariant_under_rotation_and_reflection(seed: int, arguments: tuple[str, int, int], handedness: int) -> None:
    matrix = handedness * torch.from_numpy(Rotation.random(random_state=np.random.RandomState(seed)).as_matrix())
    module, l_max = Invariants(*arguments), arguments[1]
    components = random_components(l_max, 30, seed=seed)
    turned = components_of(turn(tensors_of(components, l_max), matrix))
    before, after = module(components), module(turned)
    largest = before.abs().amax(dim=1, keepdim=True)
    assert ((after - before) / largest).abs().max() < 1e-10
    assert (turned[1:] - components[1:]).abs().max() > 0.1


@pytest.mark.parametrize("arguments", SETS)
def test_not_invariant_under_anything_else(arguments: tuple[str, int, int]) -> None:
    """Each invariant changes when one of its tensors alone is rotated, except when it has no other."""
    module, l_max = Invariants(*arguments), arguments[1]
    matrix = torch.from_numpy(Rotation.random(random_state=np.random.RandomState(1)).as_matrix())
    tensors = tensors_of(random_components(l_max, 10), l_max)
    turned = turn(tensors, matrix)
    before = module(components_of(tensors))
    for rank in range(1, l_max + 1):
        after = module(components_of([turned[k] if k == rank else tensors[k] for k in range(l_max + 1)]))
        changed = ((after - before).abs().amax(1) > 1e-3 * before.abs().amax(1)).tolist()
        assert changed == [
            rank in contraction.ranks and len(set(contraction.ranks)) > 1
            for contraction in invariant_contractions(*arguments)
        ]


@pytest.mark.parametrize("arguments", SETS)
def test_scripted_equals_eager_also_from_a_file(arguments: tuple[str, int, int]) -> None:
    components = random_components(arguments[1], 4, 2)
    module = Invariants(*arguments)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(module), file)
    file.seek(0)
    scripted = torch.jit.load(file)
    results = []
    for function in (scripted, module):
        x = components.clone().requires_grad_(True)
        value = function(x)
        results.append((value.detach(), *torch.autograd.grad(value.sin().sum(), x)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


def test_nothing_is_learned_or_stored() -> None:
    """Weights of either set belong to the model."""
    assert Invariants("flexible", 4, 4).state_dict() == {}


@pytest.mark.parametrize(("l_max", "n_max"), [(4, 4), (3, 5), (5, 1)])
def test_published_set_is_limited(l_max: int, n_max: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"model\.l_max={l_max}, .*end at l_max=3, n_max=4.*model\.invariants=flexible"
    ):
        Invariants("published", l_max, n_max)


def test_magnitudes_of_high_orders() -> None:
    """One neighbour gives the norms l!/(2l-1)!!; many leave every invariant between 1e-5 and their number to the n."""
    unit = torch.randn(12, 40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    unit = unit / unit.norm(dim=2, keepdim=True)
    components = irreducible_tensors(unit.reshape(-1, 3), 5).reshape(12, 40, 36).sum(0).T  # 12 neighbours, 40 atoms
    contractions = invariant_contractions("flexible", 5, 5)
    for value, contraction in zip(Invariants("flexible", 5, 5)(components), contractions, strict=True):
        typical = float(value.square().mean().sqrt())
        assert 1e-3 < typical <= 12.0 ** len(contraction.ranks)
    single = Invariants("flexible", 5, 2)(irreducible_tensors(unit[0], 5).T)
    expected = torch.tensor([1, 1, 2 / 3, 2 / 5, 8 / 35, 8 / 63], dtype=torch.float64)
    torch.testing.assert_close(single, expected[:, None].expand(6, 40), rtol=1e-12, atol=0)


def test_every_order_that_is_allowed_can_be_made() -> None:
    orders = itertools.product(range(6), range(1, 6))
    counts = {order: Invariants("flexible", *order).n_invariants for order in orders}
    assert all(count >= 1 for count in counts.values())
    for (l_max, n_max), count in counts.items():
        assert count >= counts.get((l_max - 1, n_max), 0)
        if n_max == 2:
            assert count == l_max + 1
