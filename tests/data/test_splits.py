"""Splits are disjoint, reproducible and true to their fractions; bad ones are refused with advice."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import molecule

from hiphop_train.data.formats.collector import Collector
from hiphop_train.data.molecules import molecule_hashes
from hiphop_train.data.splits import (
    FilesSplit,
    IndexFileSplit,
    RandomSplit,
    Splits,
    StoredSplit,
    SubsetSplit,
    check_splits,
    formula_hashes,
    store_splits,
)
from hiphop_train.data.structures import Structures, concatenate
from hiphop_train.errors import DataError
from scripts.connectivity import molecule_key


def make_structures(group_sizes: list[int], subset: str = "all") -> Structures:
    rng = np.random.default_rng(len(group_sizes))
    found = Collector("set.h5")
    for k, size in enumerate(group_sizes):
        found.add(f"{subset}{k}", np.array([1, 1]), rng.normal(size=(size, 2, 3)), {"energy": np.arange(float(size))})
    return found.finish(subset)


def assert_divides(splits: Splits, n: int) -> None:
    """Every structure is in exactly one part."""
    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(n))


def as_lists(splits: Splits) -> dict[str, list[int]]:
    return {name: index.tolist() for name, index in splits.items()}


@pytest.mark.parametrize(("n", "sizes"), [(100, (70, 10, 20)), (37, (26, 4, 7)), (10, (7, 1, 2))])
def test_random_split_of_structures(n: int, sizes: tuple[int, int, int]) -> None:
    structures = make_structures([n])
    splits = RandomSplit(0.1, 0.2, seed=3).divide(structures, "")
    assert_divides(splits, n)
    assert tuple(len(splits[name]) for name in ("train", "val", "test")) == sizes
    check_splits(splits, structures)


@pytest.mark.parametrize("by", ["structure", "group"])
def test_random_split_is_a_function_of_its_seed(by: Any) -> None:
    structures = make_structures([5] * 20)
    first, again, other = (as_lists(RandomSplit(0.2, 0.2, seed, by).divide(structures, "")) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert first["val"] != list(range(len(first["val"])))


def test_random_split_of_groups_keeps_conformers_together() -> None:
    structures = make_structures([1, 7, 3, 10, 2, 8, 4, 5, 6, 9])
    splits = RandomSplit(0.2, 0.3, seed=0, by="group").divide(structures, "")
    assert_divides(splits, 55)
    groups = {name: set(structures.group[index].tolist()) for name, index in splits.items()}
    assert {name: len(members) for name, members in groups.items()} == {"train": 5, "val": 2, "test": 3}
    assert sum(len(members) for members in groups.values()) == 10


def test_subset_split_takes_what_is_given() -> None:
    parts = [make_structures([6], "train"), make_structures([3], "val"), make_structures([2], "test")]
    splits = SubsetSplit(0.5, 0.5, seed=0).divide(concatenate(parts, "set"), "")
    assert as_lists(splits) == {"train": [0, 1, 2, 3, 4, 5], "val": [6, 7, 8], "test": [9, 10]}


@pytest.mark.parametrize("given", ["val", "test"])
def test_subset_split_draws_what_is_missing_from_train(given: str) -> None:
    parts = [make_structures([4], given), make_structures([10, 10], "train")]
    splits = SubsetSplit(0.1, 0.2, seed=0).divide(concatenate(parts, "set"), "")
    assert_divides(splits, 24)
    assert splits[given].tolist() == [0, 1, 2, 3]
    drawn = {"val": "test", "test": "val"}[given]
    assert len(splits[drawn]) == {"val": 2, "test": 4}[drawn]
    assert (splits[drawn] >= 4).all()


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A data file, and a split made for it."""
    data, split = tmp_path / "data.h5", tmp_path / "split.json"
    data.write_bytes(b"some data")
    digest = hashlib.sha256(b"some data").hexdigest()
    split.write_text(json.dumps({"data_sha256": digest, "splits": {"train": [4, 0, 1], "val": [2], "test_x": [3]}}))
    return data, split


def test_index_file(files: tuple[Path, Path]) -> None:
    data, split = files
    splits = IndexFileSplit(str(split), str(data)).divide(make_structures([5]), "")
    assert as_lists(splits) == {"train": [4, 0, 1], "val": [2], "test_x": [3]}


def test_index_file_of_another_data_file(files: tuple[Path, Path]) -> None:
    data, split = files
    data.write_bytes(b"other data")
    with pytest.raises(DataError, match=r"(?s)split\.json.*data\.h5.*data/split=random"):
        IndexFileSplit(str(split), str(data)).divide(make_structures([5]), "")


@pytest.mark.parametrize("index", [5, -1])
def test_index_file_with_an_index_outside(files: tuple[Path, Path], index: int) -> None:
    data, split = files
    content = json.loads(split.read_text())
    content["splits"]["val"] = [index]
    split.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"(?s)split\.json.*'val'.*0 to 4"):
        IndexFileSplit(str(split), str(data)).divide(make_structures([5]), "")


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "{",
        "[]",
        "{}",
        '{"splits": {"train": [0]}}',
        '{"data_sha256": "x", "splits": [0, 1]}',
        '{"data_sha256": "x", "splits": {"train": ["a"]}}',
    ],
    ids=repr,
)
def test_damaged_index_file_is_named(files: tuple[Path, Path], content: str | None) -> None:
    data, split = files
    if content is None:
        split.unlink()
    else:
        split.write_text(content)
    with pytest.raises(DataError, match=r"split\.json cannot be read as a split"):
        IndexFileSplit(str(split), str(data)).divide(make_structures([5]), "")


@pytest.mark.parametrize("empty", ["train", "val", "test"])
def test_empty_split_is_refused(empty: str) -> None:
    splits = {name: np.arange(3) + 3 * k for k, name in enumerate(("train", "val", "test"))}
    splits[empty] = np.zeros(0, np.int64)
    with pytest.raises(DataError, match=rf"(?s)set\.h5.*'{empty}' is empty.*data\.split"):
        check_splits(splits, make_structures([9]))


def test_missing_validation_is_refused() -> None:
    with pytest.raises(DataError, match="'val' is empty"):
        check_splits({"train": np.arange(3)}, make_structures([3]))


def test_too_few_structures_for_the_fractions() -> None:
    structures = make_structures([3])
    splits = RandomSplit(0.1, 0.1, seed=0).divide(structures, "")
    with pytest.raises(DataError, match="'val' is empty; add structures"):
        check_splits(splits, structures)


def test_structure_in_two_splits_is_refused() -> None:
    splits = {"train": np.array([0, 1, 2]), "val": np.array([3]), "test": np.array([2])}
    with pytest.raises(DataError, match=r"set\.h5: structure 2 is in more than one split"):
        check_splits(splits, make_structures([4]))


def molecules(names: list[str], count: int = 6) -> Structures:
    """Thermal conformers of molecules, each with its own order of atoms and orientation."""
    rng = np.random.default_rng(0)
    found = Collector("set.h5")
    for name in names:
        reference = molecule(name)
        for _ in range(count):
            atoms = reference.copy()
            atoms.rotate(float(rng.uniform(0, 360)), rng.normal(size=3))
            atoms.rattle(0.03, seed=int(rng.integers(1 << 30)))
            order = rng.permutation(len(atoms))
            found.add(name, atoms.numbers[order], atoms.positions[order][None], {"energy": np.zeros(1)})
    return found.finish("all")


def test_molecules_are_distinguished_by_connectivity() -> None:
    """As the canonical names of `connectivity` do, of isomers too, whatever the order of the atoms."""
    isomers = ["CH3CH2OH", "CH3OCH3", "C3H4_C3v", "C3H4_D2d", "C3H4_C2v", "isobutane", "trans-butane", "C6H6", "H2O"]
    structures = molecules(isomers)
    hashes = molecule_hashes(structures)
    keys = [molecule_key(s.numbers, s.positions) for s in (structures.take(np.array([k])) for k in range(54))]
    assert len(set(keys)) == len(isomers) == len(set(hashes.tolist()))
    assert len({(key, value) for key, value in zip(keys, hashes.tolist(), strict=True)}) == len(isomers)
    assert len(set(formula_hashes(structures).tolist())) == 5


@pytest.mark.parametrize("by", ["formula", "molecule"])
def test_conformers_stay_together(by: Any) -> None:
    structures = molecules(["CH3CH2OH", "CH3OCH3", "C6H6", "H2O", "NH3", "CH4", "isobutane", "trans-butane"])
    splits = RandomSplit(0.2, 0.2, seed=1, by=by).divide(structures, "")
    assert_divides(splits, len(structures))
    sides = {name: {structures.group_names[k] for k in structures.group[index]} for name, index in splits.items()}
    assert all(not sides[a] & sides[b] for a, b in [("train", "val"), ("train", "test"), ("val", "test")])
    if by == "formula":
        assert any({"CH3CH2OH", "CH3OCH3"} <= side for side in sides.values())
        assert any({"isobutane", "trans-butane"} <= side for side in sides.values())


def test_theories_of_one_conformation_stay_together() -> None:
    found = Collector("set.h5")
    positions = np.random.default_rng(0).normal(size=(40, 2, 3))
    for level, index in (("low", np.arange(40)), ("high", np.arange(0, 40, 3))):
        found.add(
            "H2", np.array([1, 1]), positions[index], {"energy": np.zeros(len(index))}, theory=level, conformation=index
        )
    structures = found.finish("all")
    splits = RandomSplit(0.2, 0.3, seed=0).divide(structures, "")
    assert_divides(splits, 54)
    check_splits(splits, structures)
    sides = [set(structures.conformation[index].tolist()) for index in splits.values()]
    assert sum(map(len, sides)) == 40


def test_leak_is_refused_unless_allowed() -> None:
    structures = make_structures([6])
    twin = structures.take(np.array([0, 1, 2, 3, 4, 5, 2]))
    splits = {"train": np.arange(5), "val": np.array([5]), "test": np.array([6])}
    with pytest.raises(DataError, match=r"1 of 1 structures of the split 'test' are also in the training split.*molec"):
        check_splits(splits, twin)
    check_splits(splits, twin, allow_leak=True)


def test_a_stored_split_is_reused_for_the_same_data_only(tmp_path: Path) -> None:
    structures = make_structures([30])
    splits = RandomSplit(0.2, 0.3, seed=0).divide(structures, "abc")
    store_splits(tmp_path / "splits.npz", splits, "abc")
    again = StoredSplit(str(tmp_path / "splits.npz")).divide(structures, "abc")
    assert as_lists(again) == as_lists(splits)
    with pytest.raises(DataError, match="is for data with checksum"):
        StoredSplit(str(tmp_path / "splits.npz")).divide(structures, "other")
    (tmp_path / "broken.npz").write_bytes((tmp_path / "splits.npz").read_bytes()[:60])
    for name in ("broken.npz", "missing.npz"):
        with pytest.raises(DataError, match=rf"{name}.*cannot be read as a split"):
            StoredSplit(str(tmp_path / name)).divide(structures, "abc")


def test_split_by_files_of_indices(tmp_path: Path) -> None:
    structures = make_structures([20])
    (tmp_path / "train.csv").write_text("0\n3\n7\n8\n9\n10\n11\n12\n13\n14\n")
    np.save(tmp_path / "test.npy", np.array([1, 2]))
    split = FilesSplit(str(tmp_path / "train.csv"), str(tmp_path / "test.npy"))
    splits = split.divide(structures, "")
    assert splits["test"].tolist() == [1, 2]
    assert len(splits["val"]) == 1
    assert sorted([*splits["train"], *splits["val"]]) == [0, 3, *range(7, 15)]
    (tmp_path / "train.csv").write_text("0 25")
    with pytest.raises(DataError, match=r"train\.csv .*conformation 25.*0 to 19"):
        split.divide(structures, "")
    (tmp_path / "train.csv").write_text("a,b")
    with pytest.raises(DataError, match=r"train\.csv .*cannot be read as conformation numbers"):
        split.divide(structures, "")
