"""Batches hold what single structures hold, samplers deal every structure out once, statistics find E0."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from hiphop_train.data.batching.dataset import BatchDataset, check_elements
from hiphop_train.data.batching.loader import BatchLoader
from hiphop_train.data.batching.sampler import BatchSampler, costs
from hiphop_train.data.batching.transfer import to_device
from hiphop_train.data.formats.collector import Collector
from hiphop_train.data.statistics import fit_statistics
from hiphop_train.data.structures import Structures
from hiphop_train.errors import DataError
from hiphop_train.types import Graph

ELEMENTS = ["H", "O", "C", "N"]
MakeConformers = Callable[..., Any]
GraphOf = Callable[..., Graph]


def pair_lines(graph: Graph, chosen: slice, start: int) -> list[tuple[float, ...]]:
    """Pairs with shift and vector, in an order of their own; neighbours of one atom come in any order."""
    parts = (graph.pair_i[:, None] - start, graph.pair_j[:, None] - start, graph.pair_shift, graph.pair_vectors)
    return sorted(tuple(line) for line in torch.cat([part[chosen].double() for part in parts], 1).tolist())


def ones(index: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(index), np.ones(len(index))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_collated_graph_equals_single_structures(
    structures: Structures, mixed_structures: list[Atoms], graph_of: GraphOf, dtype: torch.dtype
) -> None:
    """In the order asked for, with repetition."""
    index = [5, 0, 3, 2, 0, 6, 1, 4]
    batch = BatchDataset(structures, ELEMENTS, 4.0, dtype)[ones(index)]
    singles = [graph_of([mixed_structures[k]], elements=ELEMENTS, dtype=dtype) for k in index]
    start = 0
    graph, pairs = batch.graph, 0
    assert graph.n_systems == len(index)
    assert graph.n_owned == sum(len(mixed_structures[k]) for k in index)
    assert graph.pair_vectors.dtype == dtype
    assert graph.positions.dtype == torch.float64
    for system, single in enumerate(singles):
        atoms = slice(start, start + len(single.species))
        of_pairs = slice(pairs, pairs + len(single.pair_i))
        assert (graph.system[atoms] == system).all()
        assert torch.equal(graph.species[atoms], single.species)
        assert torch.equal(graph.positions[atoms], single.positions)
        assert torch.equal(graph.cell[system], single.cell[0])
        assert torch.equal(graph.pbc[system], single.pbc[0])
        assert torch.equal(graph.pair_i[of_pairs], single.pair_i + start)
        assert pair_lines(graph, of_pairs, start) == pair_lines(single, slice(None), 0)
        start, pairs = atoms.stop, of_pairs.stop
    assert (start, pairs) == (len(graph.species), len(graph.pair_i))
    assert batch.sample.tolist() == index


def test_labels_and_their_weights(structures: Structures) -> None:
    """Missing labels have weight zero and a finite value; weights of structures multiply."""
    index, weight = np.array([3, 1, 0]), np.array([1.0, 0.5, 0.0])
    labels = BatchDataset(structures, ELEMENTS, 4.0, torch.float32)[index, weight].labels
    assert labels["weight"].tolist() == [1.0, 0.5, 0.0]
    assert labels["energy_weight"].tolist() == [1.0, 0.0, 0.0]
    sizes = structures.sizes[index]
    assert labels["forces_weight"].tolist() == [0.0] * sizes[0] + [0.5] * sizes[1] + [0.0] * sizes[2]
    assert labels["energy"].dtype == labels["forces"].dtype == torch.float64
    assert labels["energy"].tolist() == [structures.energy[3], 0.0, structures.energy[0]]
    expected = np.concatenate([np.zeros((sizes[0], 3)), *(structures.take(index[k : k + 1]).forces for k in (1, 2))])
    np.testing.assert_array_equal(labels["forces"].numpy(), expected)


def test_unknown_element_is_named_with_its_place(structures: Structures) -> None:
    numbers = structures.numbers.copy()
    numbers[structures.offsets[4]] = 16
    with pytest.raises(DataError) as caught:
        BatchDataset(replace(structures, numbers=numbers), ELEMENTS, 4.0, torch.float32)
    message = str(caught.value)
    for words in ("set.xyz", "group4, conformation 4", "holds S", "[H, O, C, N]", "model.elements=[H,O,C,N,S]"):
        assert words in message
    check_elements(structures, ELEMENTS)


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
    """Each structure once, sizes of batches about as asked for, the same number in all epochs, none empty."""
    rng = np.random.default_rng(1)
    structures = labelled([{6: int(n), 1: 2 * int(n)} for n in rng.integers(1, 9, 200)], ATOMS)
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


def signature(batch: Any) -> tuple[list[int], float]:
    return batch.sample.tolist(), float(batch.graph.pair_vectors.double().square().sum())


def test_workers_yield_the_same_batches(structures: Structures) -> None:
    """Also of a data set in mapped files, after epochs that were given up, and long after the worker has gone on."""
    sampler = BatchSampler(np.arange(len(structures)), 2, 0)
    dataset = BatchDataset(structures, ELEMENTS, 4.0, torch.float32)
    by_worker = BatchLoader(dataset, sampler, num_workers=1)
    kept = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        next(iter(by_worker))
        kept += list(zip(by_worker, BatchLoader(dataset, sampler), strict=True))
    assert len(kept) == 4 * len(sampler)
    for batch, expected in kept:
        assert torch.equal(batch.sample, expected.sample)
        assert torch.equal(batch.graph.pair_vectors, expected.graph.pair_vectors)
        assert torch.equal(batch.labels["forces"], expected.labels["forces"])


def test_workers_read_the_memory_of_this_process(structures: Structures, tmp_path: Path) -> None:
    """Nothing is pickled, whatever way of starting processes Python prefers: a change of a mapped file arrives."""
    shape = structures.positions.shape
    structures.positions.tofile(tmp_path / "positions")
    positions = np.memmap(tmp_path / "positions", np.float64, "r+", shape=shape)
    dataset = BatchDataset(replace(structures, positions=positions), ELEMENTS, 4.0, torch.float32)
    loader = BatchLoader(dataset, BatchSampler(np.arange(len(structures)), 3), num_workers=1)
    before = torch.cat([batch.graph.positions for batch in loader])
    positions += 1.0
    after = torch.cat([batch.graph.positions for batch in loader])
    assert torch.equal(after, before + 1.0)


def test_nothing_is_prepared_before_the_first_batch_is_requested(structures: Structures) -> None:
    """The epoch may be set after the iterator was made, as Lightning does."""
    sampler = BatchSampler(np.arange(len(structures)), 2, 0)
    loader = BatchLoader(BatchDataset(structures, ELEMENTS, 4.0, torch.float32), sampler, num_workers=1)
    batches = iter(loader)
    sampler.set_epoch(7)
    found = [batch.sample.tolist() for batch in batches]
    assert found == [share.chosen.tolist() for share in sampler]


def test_all_tensors_of_a_batch_are_moved(structures: Structures) -> None:
    batch = BatchDataset(structures, ELEMENTS, 4.0, torch.float32)[ones([0, 1])]
    moved = to_device(batch, "meta")
    assert type(moved) is type(batch)
    assert type(moved.graph) is type(batch.graph)
    assert list(moved.labels) == list(batch.labels)
    tensors = [part for part in (*moved.graph, *moved.labels.values(), moved.sample) if isinstance(part, torch.Tensor)]
    assert len(tensors) > 15
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.graph.n_systems == 2


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_resumes_at_its_position(structures: Structures, num_workers: int) -> None:
    """Whatever workers have prepared ahead; in the next epoch it begins at the beginning."""

    def loader() -> Any:
        sampler = BatchSampler(np.arange(len(structures)), 2, 5)
        sampler.set_epoch(3)
        return BatchLoader(BatchDataset(structures, ELEMENTS, 4.0, torch.float32), sampler, num_workers)

    whole = [signature(batch) for batch in loader()]
    broken = loader()
    steps = iter(broken)
    first = [signature(next(steps)) for _ in range(2)]
    state = broken.state_dict()
    assert state == {"epoch": 3, "position": 2, "n_batches": len(whole)}
    rest = loader()
    rest.load_state_dict(state)
    assert len(rest) == len(whole)
    assert first + [signature(batch) for batch in rest] == whole
    rest.sampler.set_epoch(4)
    assert len(list(rest)) == len(whole)
    later = loader()
    later.sampler.set_epoch(4)
    later.load_state_dict(state)
    assert len(list(later)) == len(whole)


def order(seed: int | None, epoch: int, repeats: int = 1) -> list[int]:
    sampler = BatchSampler(np.arange(50), 8, seed)
    sampler.set_epoch(epoch)
    for _ in range(repeats):
        shares = [share.chosen for share in sampler]
    return np.concatenate(shares).tolist()


def test_order_is_a_pure_function_of_seed_and_epoch() -> None:
    """However often it was asked before, and whatever NumPy's global state is."""
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


def labelled(formulas: list[dict[int, int]], energy_of: dict[int, float], noise: float = 0.0) -> Structures:
    rng = np.random.default_rng(0)
    found = Collector("set.h5")
    for k, formula in enumerate(formulas):
        numbers = np.repeat(list(formula), list(formula.values()))
        energy = sum(energy_of[z] * count for z, count in formula.items()) + noise * rng.normal()
        found.add(str(k), numbers, rng.normal(size=(1, len(numbers), 3)), {"energy": np.array([energy])})
    return found.finish("train")


ATOMS = {1: -13.587222780835477, 6: -1029.4889999855063, 8: -2041.9816003861047}
FORMULAS = [{6: 1, 1: 4}, {8: 1, 1: 2}, {6: 1, 8: 2}, {6: 2, 1: 6, 8: 1}]


def test_e0_is_recovered_exactly() -> None:
    statistics = fit_statistics(labelled(FORMULAS, ATOMS), [1, 6, 8])
    np.testing.assert_allclose(statistics.e0[0], list(ATOMS.values()), rtol=1e-12)
    assert statistics.rank == 3
    assert statistics.residual < 1e-9


def test_e0_of_an_element_that_does_not_occur_is_zero() -> None:
    statistics = fit_statistics(labelled(FORMULAS, ATOMS), [6, 7, 1, 8])
    np.testing.assert_allclose(statistics.e0[0], [ATOMS[6], 0.0, ATOMS[1], ATOMS[8]], rtol=1e-12, atol=1e-9)
    assert statistics.rank == 3


def test_one_formula_only_gives_the_smallest_fit() -> None:
    """The composition matrix has rank one: energies are matched, and E0 is spread as least squares does."""
    statistics = fit_statistics(labelled([{6: 1, 1: 4}] * 5, ATOMS), [1, 6, 8])
    assert statistics.rank == 1
    total = ATOMS[6] + 4 * ATOMS[1]
    np.testing.assert_allclose(statistics.e0[0], total * np.array([4, 1, 0]) / 17, rtol=1e-12, atol=1e-9)
    assert statistics.residual < 1e-9
    assert statistics.scale > 0


def test_scale_is_that_of_the_forces_or_else_of_the_residual(structures: Structures) -> None:
    statistics = fit_statistics(structures, [1, 6, 7, 8])
    known = np.isfinite(structures.forces).all(axis=1)
    assert not known.all()
    assert statistics.scale == pytest.approx(float(np.sqrt((structures.forces[known] ** 2).mean())), rel=1e-12)

    noisy = labelled(FORMULAS * 20, ATOMS, noise=0.3)
    fitted = fit_statistics(noisy, [1, 6, 8])
    counts = np.array([[formula.get(z, 0) for z in (1, 6, 8)] for formula in FORMULAS * 20], float)
    left = noisy.energy - counts @ np.linalg.solve(counts.T @ counts, counts.T @ noisy.energy)
    assert 0.1 < left.std() < 0.5
    assert fitted.residual == pytest.approx(left.std(), rel=1e-6)
    assert fitted.scale == pytest.approx(float(np.sqrt((left**2 / noisy.sizes).mean())), rel=1e-6)


def test_missing_energies_do_not_enter(structures: Structures) -> None:
    known = structures.has_energy
    assert not known.all()
    without = structures.take(np.flatnonzero(known))
    np.testing.assert_array_equal(fit_statistics(structures, [1, 6, 7, 8]).e0, fit_statistics(without, [1, 6, 7, 8]).e0)


def test_forces_alone_are_enough_and_nothing_is_not(structures: Structures) -> None:
    forces_only = structures.with_labels(energy=np.full(len(structures), np.nan))
    statistics = fit_statistics(forces_only, [1, 6, 7, 8])
    assert not statistics.e0.any()
    assert statistics.scale > 0
    nothing = forces_only.with_labels(forces=np.full(structures.forces.shape, np.nan))
    with pytest.raises(DataError, match=r"set\.xyz.*neither energies nor forces"):
        fit_statistics(nothing, [1, 6, 7, 8])
