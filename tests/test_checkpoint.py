"""The checkpoint as a contract: plain, versioned, refused when damaged."""

from pathlib import Path

import pytest
import torch

from hiphop_train import checkpoint
from hiphop_train.errors import CheckpointError

STORED = sorted((Path(__file__).parent / "checkpoints").glob("*.ckpt"))


def test_every_version_is_stored() -> None:
    assert [file.stem for file in STORED] == [f"version{k}" for k in range(1, checkpoint.VERSION + 1)]


@pytest.mark.parametrize("file", STORED, ids=lambda file: file.stem)
def test_stored_checkpoint_gives_the_same_energy(file: Path) -> None:
    loaded = checkpoint.load(str(file))
    golden = torch.load(file.with_suffix(".golden.pt"), weights_only=True)
    from hiphop_train.graph.assemble import make_graph

    graph = make_graph(
        **{key: golden[key] for key in ("species", "positions", "cell", "pbc", "system")},
        n_systems=1,
        **{key: golden[key] for key in ("pair_i", "pair_j", "pair_shift")},
        dtype=torch.float64,
    )
    outputs = loaded.potential(graph)
    torch.testing.assert_close(outputs["energy"], golden["energy"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(outputs["forces"], golden["forces"], rtol=1e-8, atol=1e-8)
    assert loaded.record["units"] == {"energy": "eV", "length": "angstrom", "forces": "eV/angstrom"}


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    whole = STORED[0].read_bytes()
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(str(damaged))
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}}, foreign)
    with pytest.raises(CheckpointError, match="not written by hiphop-train"):
        checkpoint.load(str(foreign))
    newer = tmp_path / "newer.ckpt"
    content = torch.load(STORED[0], weights_only=True)
    content["hiphop_train"]["version"] = checkpoint.VERSION + 1
    torch.save(content, newer)
    with pytest.raises(CheckpointError, match="install that version"):
        checkpoint.load(str(newer))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"contains no checkpoints/best\.ckpt"):
        checkpoint.load(str(tmp_path / "empty"))
