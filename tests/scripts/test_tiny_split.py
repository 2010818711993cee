"""The fixed split of the embedded set is as documented, recomputed from the geometries."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from scripts.connectivity import fragments

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "hiphop_train" / "data" / "tiny"
N_CONFORMATIONS = 2051


@pytest.fixture(scope="module")
def split() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((TINY / "split.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def structures() -> list[tuple[str, np.ndarray, list[str]]]:
    """Path, atomic numbers and fragment keys of every conformation, in reading order."""
    with h5py.File(TINY / "tiny.h5", "r") as file:
        return [
            (path.decode(), numbers, [f.key for f in fragments(numbers, points)])
            for group in file.values()
            for numbers in [group["atomic_numbers"][:]]
            for path, points in zip(group["path"][:], group["coordinates"][:], strict=True)
        ]


@pytest.fixture(scope="module")
def held_out_keys(split: dict[str, Any], structures: list[tuple[str, np.ndarray, list[str]]]) -> set[str]:
    """Every connectivity of one fragment that a held-out molecule has."""
    return {keys[0] for path, _, keys in structures if path in split["held_out_molecules"] and len(keys) == 1}


def test_belongs_to_the_file(split: dict[str, Any], structures: list[Any]) -> None:
    assert split["data_sha256"] == hashlib.sha256((TINY / "tiny.h5").read_bytes()).hexdigest()
    assert len(structures) == len(split["molecule"]) == N_CONFORMATIONS


def test_every_conformation_is_in_one_split(split: dict[str, Any]) -> None:
    assert list(split["splits"]) == ["train", "val", "test", "test_unseen"]
    indices = [i for part in split["splits"].values() for i in part] + split["left_out"]
    assert sorted(indices) == list(range(N_CONFORMATIONS))


def test_held_out_molecules_have_three_heavy_atoms(split: dict[str, Any], structures: list[Any]) -> None:
    assert len(set(split["held_out_molecules"])) == 8
    for name in split["held_out_molecules"]:
        numbers = next(numbers for path, numbers, _ in structures if path == name)
        assert (numbers > 1).sum() >= 3


def test_no_held_out_connectivity_is_seen(
    split: dict[str, Any], structures: list[Any], held_out_keys: set[str]
) -> None:
    assert len(held_out_keys) >= 8
    for part in ("train", "val", "test"):
        for i in split["splits"][part]:
            path, _, keys = structures[i]
            assert not held_out_keys & set(keys), f"conformation {i} ({path}) in {part}"
            assert path not in split["held_out_molecules"]


def test_unseen_contains_only_held_out_molecules(
    split: dict[str, Any], structures: list[Any], held_out_keys: set[str]
) -> None:
    unseen = set(split["splits"]["test_unseen"])
    for i in unseen:
        path, _, keys = structures[i]
        assert path in split["held_out_molecules"] or (path == "dimer" and set(keys) <= held_out_keys)
    assert {i for i, s in enumerate(structures) if s[0] in split["held_out_molecules"]} <= unseen


def test_left_out_dimers_mix_seen_and_held_out(
    split: dict[str, Any], structures: list[Any], held_out_keys: set[str]
) -> None:
    for i in split["left_out"]:
        path, _, keys = structures[i]
        assert path == "dimer"
        assert sum(key in held_out_keys for key in keys) == 1


def test_molecule_names(split: dict[str, Any], structures: list[Any]) -> None:
    for name, (path, _, _) in zip(split["molecule"], structures, strict=True):
        parts = name.split("+")
        if path == "dimer":
            assert len(parts) == 2
            assert parts == sorted(parts)
        else:
            assert name == path
    compositions: dict[str, set[bytes]] = {}
    for name, (_, numbers, _) in zip(split["molecule"], structures, strict=True):
        compositions.setdefault(name, set()).add(numbers.tobytes())
    assert all(len(c) == 1 for c in compositions.values())


def test_every_seen_molecule_is_divided_as_documented(split: dict[str, Any], structures: list[Any]) -> None:
    of = {i: part for part, indices in split["splits"].items() for i in indices}
    strata: dict[str, list[str]] = {}
    for i, (path, _, _) in enumerate(structures):
        if of.get(i, "test_unseen") != "test_unseen":
            strata.setdefault(path, []).append(of[i])
    for path, parts in strata.items():
        for part, fraction in (("train", 0.80), ("val", 0.06), ("test", 0.14)):
            assert abs(parts.count(part) - fraction * len(parts)) <= 1.0, path


def test_script_writes_the_same_file(tmp_path: Path) -> None:
    output = tmp_path / "split.json"
    command = [sys.executable, str(ROOT / "scripts" / "split_tiny.py"), "--output", str(output)]
    subprocess.run(command, check=True, capture_output=True, env={"PYTHONPATH": str(ROOT)})
    assert output.read_bytes() == (TINY / "split.json").read_bytes()
