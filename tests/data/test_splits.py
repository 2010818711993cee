"""Splits are disjoint, reproducible and true to their fractions; bad ones are refused with advice."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hiphop_train.data.splits import IndexFileSplit, RandomSplit, Splits, SubsetSplit, check_splits
from hiphop_train.data.structures import Collector, Structures, concatenate
from hiphop_train.errors import DataError


def make_structures(group_sizes: list[int], subset: str = "all") -> Structures:
    found = Collector("set.h5", 1.0, 1.0, 1.0)
    for k, size in enumerate(group_sizes):
        found.add(f"{subset}{k}", np.array([1, 1]), np.zeros((size, 2, 3)), np.arange(float(size)), None)
    return found.finish(subset)


def assert_divides(splits: Splits, n: int) -> None:
    """Every structure is in exactly one part."""
    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(n))


def as_lists(splits: Splits) -> dict[str, list[int]]:
    return {name: index.tolist() for name, index in splits.items()}


@pytest.mark.parametrize(("n", "sizes"), [(100, (70, 10, 20)), (37, (26, 4, 7)), (10, (7, 1, 2))])
def test_random_split_of_structures(n: int, sizes: tuple[int, int, int]) -> None:
    splits = RandomSplit(0.1, 0.2, seed=3).divide(make_structures([n]))
    assert_divides(splits, n)
    assert tuple(len(splits[name]) for name in ("train", "val", "test")) == sizes
    check_splits(splits, "set.h5")


@pytest.mark.parametrize("by", ["structure", "group"])
def test_random_split_is_a_function_of_its_seed(by: Any) -> None:
    structures = make_structures([5] * 20)
    first, again, other = (as_lists(RandomSplit(0.2, 0.2, seed, by).divide(structures)) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert first["val"] != list(range(len(first["val"])))


def test_random_split_of_groups_keeps_conformers_together() -> None:
    structures = make_structures([1, 7, 3, 10, 2, 8, 4, 5, 6, 9])
    splits = RandomSplit(0.2, 0.3, seed=0, by="group").divide(structures)
    assert_divides(splits, 55)
    groups = {name: set(structures.group[index].tolist()) for name, index in splits.items()}
    assert {name: len(members) for name, members in groups.items()} == {"train": 5, "val": 2, "test": 3}
    assert sum(len(members) for members in groups.values()) == 10


def test_subset_split_takes_what_is_given() -> None:
    parts = [make_structures([6], "train"), make_structures([3], "val"), make_structures([2], "test")]
    splits = SubsetSplit(0.5, 0.5, seed=0).divide(concatenate(parts, "set"))
    assert as_lists(splits) == {"train": [0, 1, 2, 3, 4, 5], "val": [6, 7, 8], "test": [9, 10]}


@pytest.mark.parametrize("given", ["val", "test"])
def test_subset_split_draws_what_is_missing_from_train(given: str) -> None:
    parts = [make_structures([4], given), make_structures([10, 10], "train")]
    splits = SubsetSplit(0.1, 0.2, seed=0).divide(concatenate(parts, "set"))
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
    splits = IndexFileSplit(str(split), str(data)).divide(make_structures([5]))
    assert as_lists(splits) == {"train": [4, 0, 1], "val": [2], "test_x": [3]}


def test_index_file_of_another_data_file(files: tuple[Path, Path]) -> None:
    data, split = files
    data.write_bytes(b"other data")
    with pytest.raises(DataError, match=r"(?s)split\.json.*data\.h5.*data/split=random"):
        IndexFileSplit(str(split), str(data)).divide(make_structures([5]))


@pytest.mark.parametrize("index", [5, -1])
def test_index_file_with_an_index_outside(files: tuple[Path, Path], index: int) -> None:
    data, split = files
    content = json.loads(split.read_text())
    content["splits"]["val"] = [index]
    split.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"(?s)split\.json.*'val'.*0 to 4"):
        IndexFileSplit(str(split), str(data)).divide(make_structures([5]))


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
        IndexFileSplit(str(split), str(data)).divide(make_structures([5]))


@pytest.mark.parametrize("empty", ["train", "val", "test"])
def test_empty_split_is_refused(empty: str) -> None:
    splits = {name: np.arange(3) + 3 * k for k, name in enumerate(("train", "val", "test"))}
    splits[empty] = np.zeros(0, np.int64)
    with pytest.raises(DataError, match=rf"(?s)set\.h5.*'{empty}' is empty.*data\.split"):
        check_splits(splits, "set.h5")


def test_missing_validation_is_refused() -> None:
    with pytest.raises(DataError, match="'val' is empty"):
        check_splits({"train": np.arange(3)}, "set.h5")


def test_too_few_structures_for_the_fractions() -> None:
    splits = RandomSplit(0.1, 0.1, seed=0).divide(make_structures([3]))
    with pytest.raises(DataError, match="'val' is empty; give more structures"):
        check_splits(splits, "set.h5")


def test_structure_in_two_splits_is_refused() -> None:
    splits = {"train": np.array([0, 1, 2]), "val": np.array([3]), "test": np.array([2])}
    with pytest.raises(DataError, match=r"set\.h5: structure 2 is in more than one split"):
        check_splits(splits, "set.h5")
