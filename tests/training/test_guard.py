"""Bad batches are left out and shown; a training that leads away ends, and says why."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch

from hiphop_train import cli
from hiphop_train.training.guard import Guard
from hiphop_train.training.module import PotentialModule
from hiphop_train.types import Batch

COMMON = [
    "pictures=false",
    "model=hipnn",
    "model.n_features=8",
    "dtype=float64",
    "trainer.accelerator=cpu",
    "trainer.limit_val_batches=1",
]


def start(run_dir: Path, *arguments: str) -> int:
    return cli.run("train", [*COMMON, f"run_dir={run_dir}", *arguments])


def state(run_dir: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    return content


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Steps -> factor of their loss."""
    spoiled: dict[int, float] = {}
    original = PotentialModule._loss

    def loss(self: PotentialModule, batch: Batch) -> torch.Tensor:
        return original(self, batch) * spoiled.get(self.trainer.global_step, 1.0)

    monkeypatch.setattr(PotentialModule, "_loss", loss)
    return spoiled


@pytest.mark.parametrize(("model", "rate"), [("hipnn", "10"), ("hiphop", "10"), ("hipnn", "1e30")])
def test_a_rate_that_is_too_high_is_said_at_every_start(
    model: str, rate: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"model={model}", f"optimizer.lr={rate}", "trainer.max_epochs=30"]
    for _ in range(2):
        assert start(tmp_path / "run", *arguments) == 5
        err = capfd.readouterr().err
        assert "Most often the rate is too high" in err
        assert "try optimizer.lr=0.001" in err
        assert "Traceback" not in err
        assert not (tmp_path / "run" / "model.pt").exists()
        assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e8])
def test_a_bad_batch_is_left_out_and_written(
    factor: float, spoil: dict[int, float], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil[60] = factor
    arguments = ["trainer.max_steps=70", "data.batch_size=16"]
    assert start(tmp_path / "run", *arguments) == 0
    err = capfd.readouterr().err
    assert "warning: bad batch 1 is left out, step 60: loss" in err
    drawn = ase.io.read(tmp_path / "run" / "bad_batches" / "step00000060.xyz", ":")
    assert len(drawn) == 16
    assert all(np.isfinite(atoms.get_potential_energy()) and atoms.get_forces().shape for atoms in drawn)
    assert {"structure", "group", "batch_loss", "batch_gradient"} <= drawn[0].info.keys()
    assert all(value.isfinite().all() for value in state(tmp_path / "run")["state_dict"].values())
    assert state(tmp_path / "run")["callbacks"]["Guard"]["bad"] == 1


def test_a_step_that_is_left_out_changes_nothing(spoil: dict[int, float], tmp_path: Path) -> None:
    """Neither weights nor the optimizer's moments nor its count."""
    spoil[3] = float("nan")
    common = ["callbacks=none", "scheduler=plateau"]  # whose rates do not depend on the number of steps
    assert start(tmp_path / "a", *common, "trainer.max_steps=3") == 0
    assert start(tmp_path / "b", *common, "trainer.max_steps=4") == 0
    one, other = state(tmp_path / "a"), state(tmp_path / "b")
    assert other["global_step"] == one["global_step"] + 1
    for name, value in one["state_dict"].items():
        assert torch.equal(other["state_dict"][name], value)
    for key, moments in one["optimizer_states"][0]["state"].items():
        for name, value in moments.items():
            assert torch.equal(other["optimizer_states"][0]["state"][key][name], value)


def test_too_many_bad_batches_end_the_training(
    spoil: dict[int, float], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil.update(dict.fromkeys(range(10, 50), float("nan")))
    arguments = ["trainer.max_bad_batches=3", "trainer.limit_train_batches=8"]
    assert start(tmp_path / "run", *arguments) == 5
    err = capfd.readouterr().err
    assert "3 bad batches, trainer.max_bad_batches=3; step 12" in err
    assert "init_weights=RUN" in err
    assert state(tmp_path / "run")["global_step"] == 8  # of the epoch before: whole, and finite
    assert start(tmp_path / "other", *arguments, "trainer.bad_batches=stop") == 5
    assert "step 10" in capfd.readouterr().err


def test_roll_back_returns_to_the_last_state_with_half_the_rate(
    spoil: dict[int, float], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil[5] = float("nan")
    rates, weights = [], []
    original = Guard._roll_back

    def roll_back(self: Guard, trainer: Any, module: Any) -> bool:
        rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        done = original(self, trainer, module)
        rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        weights.append({name: value.clone() for name, value in module.state_dict().items()})
        return done

    monkeypatch.setattr(Guard, "_roll_back", roll_back)
    arguments = ["trainer.bad_batches=roll_back", "trainer.limit_train_batches=4", "trainer.max_epochs=2"]
    assert start(tmp_path / "run", *arguments) == 0
    assert "returned to the last saved state, with half the rate" in capfd.readouterr().err
    assert rates[1] == pytest.approx(0.5 * rates[0])
    previous = torch.load(tmp_path / "run" / "checkpoints" / "previous.ckpt", weights_only=True)
    for name, value in previous["current_model_state"].items():
        assert torch.equal(weights[0][name], value)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["status"] == "completed"


@pytest.mark.parametrize("model", ["hipnn", "hiphop"])
def test_a_healthy_training_has_no_bad_batch(model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert start(tmp_path / "run", f"model={model}", "trainer.max_epochs=1", "data.batch_size=8") == 0
    assert "bad batch" not in capfd.readouterr().err


def test_a_fused_optimizer_leaves_a_step_out_on_the_device() -> None:
    """What a GPU is asked to do, on the fused optimizer's CPU form."""
    parameter = torch.nn.Parameter(torch.ones(5))
    optimizer = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.5, fused=True)
    for bad in (0.0, 1.0):
        parameter.grad = torch.full((5,), float("nan") if bad else 1.0)
        before = parameter.detach().clone(), {k: v.clone() for k, v in optimizer.state[parameter].items()}
        optimizer.found_inf = torch.tensor(bad)
        optimizer.step()
        if bad:
            assert torch.equal(parameter, before[0])
            assert all(torch.equal(optimizer.state[parameter][key], value) for key, value in before[1].items())
        else:
            assert not torch.equal(parameter, before[0])


def test_memory_that_is_too_small_names_batch_and_setting(tmp_path: Path) -> None:
    """A process whose address space ends 300 MB above what its start-up takes."""
    script = tmp_path / "small.py"
    script.write_text(
        "import resource, sys\nfrom hiphop_train import cli\nfrom hiphop_train.training.guard import Guard\n"
        "def limit(self, trainer, module):\n"
        "    used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000, -1))\n"
        "Guard.on_train_start = limit\nsys.exit(cli.run('train', sys.argv[1:]))\n"
    )
    arguments = ["model=hiphop", "trainer.accelerator=cpu", "data.batch_size=1380", "trainer.max_epochs=1"]
    command = [sys.executable, script, *arguments, "trainer.compile=false", f"run_dir={tmp_path / 'run'}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 5, ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert "memory ended in a batch of 1,380 structures" in line
    assert "data.batch_size=690" in line
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
