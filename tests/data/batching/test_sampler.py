"""Every structure occurs once in an epoch, in batches of the requested size, divided among ranks."""

from typing import Any

import numpy as np
import pytest

from hiphop_train.data.batching.sampler import BatchSampler, costs
from hiphop_train.data.formats.collector import Collector
from hiphop_train.data.structures import Structures


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 5])
@pytest.mark.parametrize(("n", "batch_size"), [(17, 4), (16, 4), (3, 10), (7, 1)])
def test_every_structure_once_per_epoch_over_all_ranks(n: int, batch_size: int, n_ranks: int) -> None:
    """Batches are those of one process, and all ranks make the same number of steps, with fillers of weight zero."""
    index = np.arange(100, 100 + n)
    whole = BatchSampler(index, batch_size, seed=5)
    ranks = [BatchSampler(index, batch_size, seed=5, rank=rank, n_ranks=n_ranks) for rank in range(n_ranks)]
    for sampler in (whole, *ranks):
        sampler.set_epoch(2)
    batches = [share.chosen for share in whole]
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert sorted(np.concatenate(batches).tolist()) == index.tolist()
    dealt = [list(sampler) for sampler in ranks]
    assert {len(shares) for shares in dealt} == {len(sampler) for sampler in ranks} == {len(batches)}
    for step, batch in enumerate(batches):
        counted = []
        for shares in dealt:
            share, weight = shares[step][:2]
            assert len(share) == len(weight) > 0
            assert np.isin(share, index).all()
            if (weight == 0).any():
                assert (len(share), len(batch) < n_ranks) == (1, True)
            counted += share[weight == 1].tolist()
            assert set(weight.tolist()) <= {0.0, 1.0}
        assert sorted(counted) == sorted(batch.tolist())


@pytest.mark.parametrize("bucket", [1, 3])
@pytest.mark.parametrize("measure", ["structures", "atoms", "pairs"])
def test_budgets_and_buckets(measure: Any, bucket: int) -> None:
    """Each structure once, sizes of batches about as requested, the same number in all epochs, none empty."""
    rng = np.random.default_rng(1)
    found = Collector("set.h5")
    for n in rng.integers(1, 9, 200):
        found.add(f"C{n}", np.repeat([6, 1], [n, 2 * n]), rng.normal(size=(1, 3 * n, 3)), {})
    structures = found.finish("train")
    index = rng.permutation(200)[:150]
    n_atoms = structures.sizes[index]
    cost = costs(structures, index, measure, 5.0)
    expected = {"structures": np.ones(150), "atoms": n_atoms, "pairs": n_atoms * (n_atoms - 1)}[measure]
    assert cost.tolist() == expected.tolist()
    size = {"structures": 8, "atoms": 100, "pairs": 1500}[measure]
    of = dict(zip(index.tolist(), range(150), strict=True))
    given = None if measure == "structures" else cost
    epochs = []
    for epoch in range(3):
        sampler = BatchSampler(index, size, 7, cost=given, n_atoms=n_atoms, bucket=bucket)
        sampler.set_epoch(epoch)
        shares = list(sampler)
        members = [[of[k] for k in share.chosen.tolist()] for share in shares]
        assert len(members) == len(sampler) == -(-int(cost.sum()) // size)
        assert sorted(k for batch in members for k in batch) == list(range(150))
        assert max(cost[batch].sum() for batch in members) <= size + (0 if given is None else cost.max())
        assert [share.structures_scale for share in shares] == pytest.approx(
            [len(batch) / 150 * len(members) if (given is not None or bucket > 1) else 1 for batch in members]
        )
        if given is not None or bucket > 1:
            assert sum(share.atoms_scale for share in shares) == pytest.approx(len(members))
        spread = np.mean([np.ptp(n_atoms[batch]) for batch in members])
        epochs.append((members, spread))
    assert epochs[0][0] != epochs[1][0]
    if bucket > 1:
        plain = BatchSampler(index, size, 7, cost=given, n_atoms=n_atoms)
        mixed = np.mean([np.ptp(n_atoms[[of[k] for k in share.chosen.tolist()]]) for share in plain])
        assert all(spread < 0.7 * mixed for _, spread in epochs)


def test_losses_over_an_epoch_do_not_depend_on_the_batches() -> None:
    """Means over batches, multiplied by their scales, add up to the mean over all structures and all atoms."""
    rng = np.random.default_rng(2)
    n_atoms = rng.integers(2, 40, 300)
    error_of_structure, error_of_atom = rng.normal(size=300) + n_atoms, rng.normal(size=300) * n_atoms
    cost = n_atoms.astype(float)
    sampler = BatchSampler(np.arange(300), 200, 3, cost=cost, n_atoms=n_atoms, bucket=5)
    shares = list(sampler)
    structures = [share.structures_scale * error_of_structure[share.chosen].mean() for share in shares]
    assert np.mean(structures) == pytest.approx(error_of_structure.mean(), rel=1e-12)
    atoms = [
        share.atoms_scale * (error_of_atom * n_atoms)[share.chosen].sum() / n_atoms[share.chosen].sum()
        for share in shares
    ]
    assert np.mean(atoms) == pytest.approx((error_of_atom * n_atoms).sum() / n_atoms.sum(), rel=1e-12)


def test_structures_that_exceed_the_budget_come_alone() -> None:
    n_atoms = np.array([5, 900, 5, 5, 900, 5])
    sampler = BatchSampler(np.arange(6), 10, 0, cost=n_atoms.astype(float), n_atoms=n_atoms)
    assert [len(share.chosen) for share in sampler] == [1] * 6


def test_pairs_of_periodic_systems_are_estimated_by_density(structures: Structures) -> None:
    periodic = np.flatnonzero(structures.pbc.all(axis=1))
    assert len(periodic)
    found = costs(structures, periodic, "pairs", 6.0)
    volume = np.abs(np.linalg.det(structures.cell[periodic]))
    expected = structures.sizes[periodic] ** 2 / volume * 4 / 3 * np.pi * 6.0**3
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def order(seed: int | None, epoch: int, repeats: int = 1) -> list[int]:
    sampler = BatchSampler(np.arange(50), 8, seed)
    sampler.set_epoch(epoch)
    for _ in range(repeats):
        shares = [share.chosen for share in sampler]
    return np.concatenate(shares).tolist()


def test_order_is_a_pure_function_of_seed_and_epoch() -> None:
    """However often it was evaluated before, and whatever NumPy's global state is."""
    np.random.seed(0)  # noqa: NPY002
    first = order(1, 3)
    np.random.seed(1)  # noqa: NPY002
    assert order(1, 3, repeats=3) == first
    others = [order(1, 4), order(2, 3), order(3, 1), order(None, 3)]
    assert all(other != first for other in others)
    assert others[-1] == list(range(50))


def test_without_a_seed_the_order_is_the_given_one() -> None:
    index = np.array([5, 3, 9, 1])
    assert np.concatenate([share.chosen for share in BatchSampler(index, 3)]).tolist() == [5, 3, 9, 1]
