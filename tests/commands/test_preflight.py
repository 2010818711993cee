"""Before the first epoch: what is said is true, what cannot be is refused, and nothing changes."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hiphop_train.commands import preflight
from hiphop_train.errors import StorageError
from hiphop_train.models.dtnn import DTNN
from hiphop_train.types import Graph
from tests.commands.conftest import Run

SMALL = ["model=hipnn", "model.n_features=8", "dtype=float64", "trainer.accelerator=cpu", "callbacks=none"]
EPOCH = ["trainer.max_epochs=1", "data.batch_size=20"]  # 69 steps


def state(run_dir: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    return content


@pytest.mark.parametrize("more", [[], ["data.batch_by=atoms", "data.batch_size=200", "data.num_workers=1"]])
def test_training_is_the_same_with_and_without(more: list[str], tmp_path: Path, run: Run) -> None:
    """Weights, moments, metrics; and the rates come back from those that were tried."""
    for form in ("short", "off"):
        code, out, err = run("train", *SMALL, *EPOCH, *more, f"preflight={form}", f"run_dir={tmp_path / form}")
        assert code == 0, err
        assert ("memory  " in out) == ("time       about" in out) == (form == "short")
    one, other = state(tmp_path / "short"), state(tmp_path / "off")
    assert all(torch.equal(value, other["state_dict"][key]) for key, value in one["state_dict"].items())
    for key, moments in one["optimizer_states"][0]["state"].items():
        assert all(torch.equal(value, other["optimizer_states"][0]["state"][key][k]) for k, value in moments.items())
    assert (tmp_path / "short" / "metrics.csv").read_bytes() == (tmp_path / "off" / "metrics.csv").read_bytes()


def test_the_full_form_trains_nothing_and_says_more(tmp_path: Path, run: Run) -> None:
    """The time that it tells is that of the training, as far as a busy machine lets one say so."""
    run_dir = tmp_path / "run"
    words = [*SMALL, *EPOCH, f"run_dir={run_dir}"]
    code, out, err = run("train", *words, "preflight=full")
    assert code == 0, err
    for part in ("memory  ", "time  ", "loader  ", "checkpoint ", "export  ", "rate  ", "nothing was trained"):
        assert part in out
    found = json.loads((run_dir / "preflight.json").read_text())
    assert found["largest"][0] == 20
    assert found["growth"] < 1.5
    assert found["curve"][0][0] < found["turns_at"] < found["curve"][-1][0]
    assert (run_dir / "preflight.png").read_bytes().startswith(b"\x89PNG")
    assert not (run_dir / "checkpoints").exists()
    assert not list(run_dir.glob("*.ckpt"))
    assert run("train", *words)[0] == 0
    seconds = json.loads((run_dir / "metrics.json").read_text())["training_seconds"]
    assert seconds / 5 < found["whole"] < 5 * seconds


def test_a_training_of_few_steps_is_its_own_rehearsal(tmp_path: Path, run: Run) -> None:
    code, out, err = run("train", *SMALL, "debug=fast", f"run_dir={tmp_path / 'run'}")
    assert code == 0, err
    assert "time       about" not in out


def test_too_high_a_rate_is_said_before_the_first_epoch(tmp_path: Path, run: Run) -> None:
    _, _, err = run("train", *SMALL, *EPOCH, "optimizer.lr=3", f"run_dir={tmp_path / 'run'}")
    found = re.search(r"the rate 3 is too high: .* try optimizer.lr=(\S+)", err)
    assert found is not None, err
    assert 1e-5 < float(found[1]) < 0.1


def test_a_disk_that_is_too_small_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With weights of which the disk's real free space holds none, few, or many copies."""

    def potential(n_bytes: float) -> Any:
        module = nn.Module()
        module.weight = nn.Parameter(torch.empty(int(n_bytes / 4), device="meta"))
        return module

    import shutil

    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(StorageError, match=r"will be written and .* are free; free space"):
        preflight.check_disk(potential(free / 10), tmp_path)
    preflight.check_disk(potential(free / 30), tmp_path)
    assert "are free, and" in capsys.readouterr().err
    preflight.check_disk(potential(1000.0), tmp_path)
    assert capsys.readouterr().err == ""


class Unscriptable(DTNN):
    """A model that runs, and cannot be exported."""

    def forward(self, graph: Graph) -> list[Tensor]:
        """Use what TorchScript lacks."""
        try:
            return super().forward(graph)
        except KeyError:
            return []


def test_what_cannot_be_exported_is_said_before_training(tmp_path: Path, run: Run) -> None:
    run_dir = tmp_path / "run"
    words = ["model=dtnn", f"model._target_={__name__}.Unscriptable", "model.n_features=8", *SMALL[2:], *EPOCH]
    code, _, err = run("train", *words, f"run_dir={run_dir}")
    assert code == 5
    assert "cannot be exported, as it would be after the training" in err
    assert "preflight=off" in err
    assert "Traceback" not in err
    assert not (run_dir / "checkpoints").exists()
    code, _, err = run("train", *words, "debug=fast", f"run_dir={tmp_path / 'few'}")
    assert code == 4
    assert "model.pt: not written, because TorchScript cannot take the model" in err
    assert (tmp_path / "few" / "checkpoints" / "best.ckpt").is_file()


def test_memory_that_ends_is_said_with_the_batch(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the step of the largest batch, as torch says it."""
    from hiphop_train.training import rehearsal

    original: Callable[..., Any] = rehearsal._Rehearsing.gradients

    def gradients(self: Any, batch: Any) -> Any:
        if self.guard._batch is batch:
            torch.empty(2**50)
        return original(self, batch)

    monkeypatch.setattr(rehearsal._Rehearsing, "gradients", gradients)
    code, _, err = run("train", *SMALL, *EPOCH, f"run_dir={tmp_path / 'run'}")
    assert code == 5, err
    assert "memory ended in a batch of 20 structures" in err
    assert "data.batch_size=10" in err
