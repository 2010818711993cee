"""The neighbour lists against ASE's and each other, for open, periodic and partly periodic systems."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.neighborlist import primitive_neighbor_list

from hiphop_train.graph.assemble import pair_vectors
from hiphop_train.graph.cells import complete_cells, linear_pairs
from hiphop_train.graph.neighbours import batch_neighbours, neighbours, open_pairs
from hiphop_train.graph.open_batches import open_pair_vectors

MakeAtoms = Callable[..., Atoms]
Pair = tuple[int, int, int, int, int]

PBC = [(a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)]


def found_by_us(atoms: Atoms, cutoff: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return neighbours(*tensors(atoms), cutoff)


def tensors(atoms: Atoms) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.from_numpy(atoms.positions), torch.from_numpy(atoms.cell.array), torch.from_numpy(atoms.pbc)


def arguments_of(atoms: Atoms) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    positions, cell, pbc = tensors(atoms)
    return positions, torch.tensor([len(atoms)]), cell[None], pbc[None]


def as_list(pairs: Sequence[torch.Tensor]) -> list[Pair]:
    i, j, shift = pairs
    return sorted((a, b, *s) for a, b, s in zip(i.tolist(), j.tolist(), shift.tolist(), strict=True))


def found_by_ase(atoms: Atoms, cutoff: float) -> list[Pair]:
    i, j, shift = primitive_neighbor_list("ijS", atoms.pbc, atoms.cell.array, atoms.positions, cutoff)
    return sorted((int(a), int(b), *map(int, s)) for a, b, s in zip(i, j, shift, strict=True))


@pytest.mark.parametrize("cutoff", [1.9, 2.5, 6.0])
@pytest.mark.parametrize("pbc", PBC)
def test_cells_smaller_and_larger_than_the_cutoff(
    make_box: MakeAtoms, pbc: tuple[bool, bool, bool], cutoff: float
) -> None:
    """Triclinic cells of about 3 Angstrom, periodic in 0 to 3 directions."""
    atoms = make_box(5, seed=7, pbc=pbc)
    expected = found_by_ase(atoms, cutoff)
    assert expected
    assert as_list(found_by_us(atoms, cutoff)) == expected


@pytest.mark.parametrize("pbc", PBC)
def test_atoms_far_outside_of_the_cell(make_box: MakeAtoms, pbc: tuple[bool, bool, bool]) -> None:
    """Moving atoms by lattice vectors in periodic directions changes shifts, not vectors."""
    atoms = make_box(5, seed=8, pbc=pbc)
    home = found_by_us(atoms, 4.0)
    away = atoms.copy()
    moves = np.random.default_rng(0).integers(-3, 4, (5, 3)) * np.array(pbc)
    away.positions += moves @ atoms.cell.array
    pairs = found_by_us(away, 4.0)
    assert as_list(pairs) == found_by_ase(away, 4.0)
    i, j, shift = (part.numpy() for part in pairs)
    back = sorted(zip(i.tolist(), j.tolist(), (shift + moves[j] - moves[i]).tolist(), strict=True))
    assert [(a, b, *s) for a, b, s in back] == as_list(home)


@pytest.mark.parametrize("seed", range(5))
def test_strongly_skewed_cells(seed: int) -> None:
    """Cells with faces much closer than their lattice vectors are long."""
    rng = np.random.default_rng(seed)
    cell = np.array([[2.5, 0.0, 0.0], [4.0, 1.8, 0.0], [-3.0, 2.0, 2.2]]) + rng.uniform(-0.2, 0.2, (3, 3))
    atoms = Atoms("HCO", rng.uniform(-4, 4, (3, 3)), cell=cell, pbc=True)
    assert as_list(found_by_us(atoms, 3.7)) == found_by_ase(atoms, 3.7)


def test_left_handed_cell(make_box: MakeAtoms) -> None:
    atoms = make_box(4, seed=9)
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    assert atoms.cell.handedness == -1
    assert as_list(found_by_us(atoms, 4.0)) == found_by_ase(atoms, 4.0)


@pytest.mark.parametrize("pbc", [(True, False, False), (True, True, False), (False, True, False)])
def test_lattice_vectors_of_open_directions_may_be_zero(make_box: MakeAtoms, pbc: tuple[bool, bool, bool]) -> None:
    atoms = make_box(5, seed=10, pbc=pbc)
    given = as_list(found_by_us(atoms, 5.0))
    zero = atoms.copy()
    zero.set_cell(atoms.cell.array * np.array(pbc)[:, None])
    assert as_list(found_by_us(zero, 5.0)) == given
    assert not np.array([pair[2:] for pair in given])[:, ~np.array(pbc)].any()


@pytest.mark.parametrize("pbc", PBC)
def test_completed_cell_keeps_periodic_vectors_and_adds_orthonormal_ones(
    make_box: MakeAtoms, pbc: tuple[bool, bool, bool]
) -> None:
    _, cell, periodic = tensors(make_box(1, seed=11, pbc=pbc))
    before = cell.clone()
    full = complete_cells(cell[None], periodic[None])[0]
    assert torch.equal(cell, before)
    assert torch.equal(full[periodic], cell[periodic])
    added = full[~periodic]
    torch.testing.assert_close(added @ added.T, torch.eye(len(added), dtype=torch.float64), rtol=0, atol=1e-14)
    torch.testing.assert_close(
        added @ cell[periodic].T, torch.zeros(len(added), int(periodic.sum()), dtype=torch.float64), rtol=0, atol=1e-13
    )


def test_open_pairs_of_a_batch(make_molecule: MakeAtoms) -> None:
    """Each system's pairs are ASE's, with indices into the batch; systems that overlap in space do not interact."""
    molecules = [make_molecule(n, seed=n) for n in (6, 1, 9, 2)]
    sizes = torch.tensor([len(atoms) for atoms in molecules])
    positions = torch.from_numpy(np.concatenate([atoms.positions for atoms in molecules]))
    pair_i, pair_j = open_pairs(positions, sizes, 2.2)
    expected, start = [], 0
    for atoms in molecules:
        expected += [(i + start, j + start) for i, j, *_ in found_by_ase(atoms, 2.2)]
        start += len(atoms)
    assert sorted(zip(pair_i.tolist(), pair_j.tolist(), strict=True)) == sorted(expected)
    assert len(expected) < int((sizes * (sizes - 1)).sum())  # the cutoff left something out


def test_batch_equals_singles(mixed_structures: list[Atoms]) -> None:
    sizes = torch.tensor([len(atoms) for atoms in mixed_structures])
    positions, cell, pbc = (
        torch.cat([tensors(atoms)[k].reshape(-1, *shape) for atoms in mixed_structures])
        for k, shape in enumerate([(3,), (3, 3), (3,)])
    )
    found = batch_neighbours(positions, sizes, cell, pbc, 4.0)
    singles = [found_by_us(atoms, 4.0) for atoms in mixed_structures]
    starts = (torch.cumsum(sizes, 0) - sizes).tolist()
    expected = [
        (i + start, j + start, *shift)
        for single, start in zip(singles, starts, strict=True)
        for i, j, *shift in as_list(single)
    ]
    assert as_list(found) == expected
    assert (found[0].diff() >= 0).all()
    scripted = torch.jit.script(batch_neighbours)(positions, sizes, cell, pbc, 4.0)
    assert all(torch.equal(a, b) for a, b in zip(scripted, found, strict=True))


def test_scripted_batch_of_open_systems_equals_eager(make_molecule: MakeAtoms) -> None:
    positions = torch.from_numpy(make_molecule(9, seed=0).positions)
    sizes, cell = torch.tensor([4, 5]), torch.zeros(2, 3, 3, dtype=torch.float64)
    pbc = torch.zeros(2, 3, dtype=torch.bool)
    eager = batch_neighbours(positions, sizes, cell, pbc, 3.0)
    scripted = torch.jit.script(batch_neighbours)(positions, sizes, cell, pbc, 3.0)
    assert len(eager[0]) > 0
    assert all(torch.equal(a, b) for a, b in zip(scripted, eager, strict=True))


@pytest.mark.parametrize("pbc", PBC)
def test_sorted_by_receiver_symmetric_and_inside(make_box: MakeAtoms, pbc: tuple[bool, bool, bool]) -> None:
    atoms = make_box(5, seed=12, pbc=pbc)
    pairs = found_by_us(atoms, 4.5)
    pair_i, pair_j, shift = pairs
    assert (pair_i.diff() >= 0).all()
    assert as_list(pairs) == as_list((pair_j, pair_i, -shift))
    assert len(set(as_list(pairs))) == len(pair_i)
    positions, cell, _ = tensors(atoms)
    vectors = pair_vectors(positions, cell[None], torch.zeros(5, dtype=torch.int64), pair_i, pair_j, shift)
    distance = vectors.norm(dim=1)
    assert (distance > 0.85).all()
    assert (distance < 4.5).all()
    _, _, expected = primitive_neighbor_list("ijd", atoms.pbc, atoms.cell.array, atoms.positions, 4.5)
    np.testing.assert_allclose(np.sort(distance.numpy()), np.sort(expected), rtol=1e-12)


def test_one_open_atom_has_no_pairs(isolated_atom: Atoms) -> None:
    pair_i, pair_j, shift = found_by_us(isolated_atom, 5.0)
    assert pair_i.shape == pair_j.shape == (0,)
    assert shift.shape == (0, 3)
    assert pair_i.dtype == pair_j.dtype == shift.dtype == torch.int64


def test_one_periodic_atom_meets_its_own_images() -> None:
    """In a simple cubic lattice there are 6 images at a, 12 at sqrt(2) a, 8 at sqrt(3) a."""
    atoms = Atoms("C", [[5.0, -3.0, 0.1]], cell=2 * np.eye(3), pbc=True)
    for cutoff, count in [(1.9, 0), (2.1, 6), (2.9, 18), (3.5, 26)]:
        pair_i, pair_j, shift = found_by_us(atoms, cutoff)
        assert len(pair_i) == count
        assert not pair_i.any()
        assert not pair_j.any()
        assert (shift != 0).any(dim=1).all()


def random_system(seed: int) -> tuple[Atoms, float]:
    """Return 1 to 12 atoms in and around any cell, skewed or flat, periodic in any directions, and a cutoff."""
    rng = np.random.default_rng(seed)
    while True:
        cell = rng.normal(size=(3, 3)) + np.diag(rng.uniform(1.0, 7.0, 3))
        heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
        if heights.min() > 0.6:
            break
    n_atoms = int(rng.integers(1, 13))
    atoms = Atoms(f"C{n_atoms}", rng.uniform(-6, 6, (n_atoms, 3)), cell=cell, pbc=rng.integers(0, 2, 3).astype(bool))
    return atoms, float(rng.uniform(1.0, 6.0))


def test_random_systems_one_by_one_and_as_a_batch() -> None:
    """Also with the default method, and scripted, as in the exported file."""
    systems = [random_system(seed)[0] for seed in range(100)]
    scripted = torch.jit.script(linear_pairs)
    expected, start, n_pairs = [], 0, 0
    for seed, atoms in enumerate(systems):
        positions, cell, pbc = tensors(atoms)
        cutoff = random_system(seed)[1]
        alone = found_by_ase(atoms, cutoff)
        n_pairs += len(alone)
        arguments = (positions, torch.tensor([len(atoms)]), cell[None], pbc[None], cutoff)
        for search in (linear_pairs, scripted, batch_neighbours):
            assert as_list(search(*arguments)) == alone, (seed, search)
        expected += [(i + start, j + start, *shift) for i, j, *shift in found_by_ase(atoms, 4.0)]
        start += len(atoms)
    assert n_pairs > 5000
    positions, cell, pbc = (
        torch.cat([tensors(atoms)[k].reshape(-1, *shape) for atoms in systems])
        for k, shape in enumerate([(3,), (3, 3), (3,)])
    )
    sizes = torch.tensor([len(atoms) for atoms in systems])
    assert as_list(batch_neighbours(positions, sizes, cell, pbc, 4.0)) == expected


@pytest.mark.parametrize("chunk", [1, 7, 1000, 10**9])
def test_linear_search_in_blocks_of_any_size(chunk: int) -> None:
    arguments = arguments_of(random_system(3)[0].repeat(2))
    found = linear_pairs(*arguments, 4.0, chunk)
    whole = linear_pairs(*arguments, 4.0)
    assert len(found[0]) > 100
    assert all(torch.equal(a, b) for a, b in zip(found, whole, strict=True))


def test_brute_force_and_linear_search_of_open_batches() -> None:
    """Clumps, a line, a gas and empty systems between them."""
    rng = np.random.default_rng(4)
    clouds = [rng.normal(size=(60, 3)), np.zeros((0, 3)), np.linspace(0, 90, 100)[:, None] * np.array([[1.0, 2, -1]])]
    clouds += [rng.uniform(-1e5, 1e5, (30, 3)), rng.uniform(0, 20, (150, 3)) + 1e4, np.zeros((0, 3))]
    positions = torch.from_numpy(np.concatenate(clouds))
    sizes = torch.tensor([len(cloud) for cloud in clouds])
    cell, pbc = torch.zeros(6, 3, 3, dtype=torch.float64), torch.zeros(6, 3, dtype=torch.bool)
    brute = open_pairs(positions, sizes, 5.0)
    linear = linear_pairs(positions, sizes, cell, pbc, 5.0)
    assert as_list(linear) == as_list((*brute, torch.zeros(len(brute[0]), 3, dtype=torch.int64)))
    for arrays in (torch.float32, torch.float64):
        *pairs, vectors = open_pair_vectors(
            positions.numpy(), sizes.numpy(), 5.0, torch.zeros(0, dtype=arrays).numpy().dtype
        )
        assert all(np.array_equal(a, b) for a, b in zip(pairs, brute, strict=True))
        assert torch.equal(torch.from_numpy(vectors), (positions[brute[1]] - positions[brute[0]]).to(arrays))
    assert len(brute[0]) > 4000
    assert brute[0].dtype == linear[0].dtype == linear[2].dtype == torch.int64


@pytest.mark.parametrize("pbc", [(False, False, False), (True, True, True), (True, False, True)])
def test_nothing_gives_nothing(pbc: tuple[bool, bool, bool]) -> None:
    empty = Atoms(cell=3 * np.eye(3), pbc=pbc)
    for found in (found_by_us(empty, 4.0), linear_pairs(*arguments_of(empty), 4.0)):
        assert [part.shape for part in found] == [(0,), (0,), (0, 3)]


@pytest.mark.parametrize("n_repeats", [2, 5])
def test_distance_equal_to_the_cutoff_is_outside_for_both_directions(n_repeats: int) -> None:
    """In a lattice whose neighbours are at the cutoff, exactly or up to rounding."""
    for lattice_constant in (2.0, 0.1 * 17, np.sqrt(3.1)):
        atoms = Atoms("C", cell=lattice_constant * np.eye(3), pbc=True).repeat(n_repeats)
        atoms.positions += 7.7
        pairs = linear_pairs(*arguments_of(atoms), float(lattice_constant))
        assert as_list(pairs) == as_list((pairs[1], pairs[0], -pairs[2]))
        shorter = linear_pairs(*arguments_of(atoms), float(lattice_constant) * 1.001)
        assert len(shorter[0]) == 6 * len(atoms)


def test_atoms_without_finite_positions_have_no_pairs(make_box: MakeAtoms) -> None:
    """An exploded simulation ends with NaN, not with a crash or a hang."""
    atoms = make_box(6, seed=5)
    atoms.positions[2] = np.nan
    atoms.positions[4, 1] = np.inf
    found = as_list(linear_pairs(*arguments_of(atoms), 4.0))
    rest = [0, 1, 3, 5]
    expected = [(rest[i], rest[j], *shift) for i, j, *shift in as_list(found_by_us(atoms[rest], 4.0))]
    assert found == expected
    atoms.positions[:] = np.nan
    assert as_list(linear_pairs(*arguments_of(atoms), 4.0)) == []


@pytest.mark.parametrize("pbc", [True, False])
def test_thousands_of_atoms(pbc: bool) -> None:
    """Against ASE, and a crystal of random cells, where each copy of an atom has the same neighbours."""
    atoms = Atoms("H2700", 30.0 * np.random.default_rng(0).uniform(size=(2700, 3)), cell=30.0 * np.eye(3), pbc=pbc)
    found = found_by_us(atoms, 4.0)
    assert as_list(found) == found_by_ase(atoms, 4.0)
    assert len(found[0]) > 50_000
    if pbc:
        n_neighbours = torch.bincount(found_by_us(atoms.repeat(3), 4.0)[0]).reshape(27, -1)
        assert torch.equal(n_neighbours, torch.bincount(found[0]).expand(27, -1))
