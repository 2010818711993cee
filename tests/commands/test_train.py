"""hiphop-train: what a run writes, how it resumes, how it stops, and what it refuses."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from hiphop_train.checkpoint import load
from tests.commands.conftest import FAST, Run

ARTEFACTS = {
    "checkpoints",
    "config.yaml",
    "error_by_hierarchicality.png",
    "learning_curves.png",
    "metrics.csv",
    "metrics.json",
    "model.pt",
    "parity.png",
    "splits.npz",
}
COMMAND = [sys.executable, "-m", "hiphop_train.cli"]


def weights(run_dir: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run_dir / "checkpoints" / name, weights_only=True)["state_dict"]
    return state


def test_run_writes_everything(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == ARTEFACTS
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["status"] == "completed"
    assert set(metrics["errors"]) == {"test", "test_unseen"}
    for table in metrics["errors"].values():
        for kind in ("energy", "relative_energy", "forces"):
            assert 0 < table[kind]["mae"] <= table[kind]["rmse"] <= table[kind]["max"]
    assert yaml.safe_load((trained / "config.yaml").read_text())["model"]["n_features"] == 8
    with (trained / "metrics.csv").open() as file:
        (row,) = [row for row in csv.DictReader(file) if row["val/forces_mae"]]
    assert float(row["val/energy_rmse"]) > 0


def test_names_need_no_quotes_on_the_command_line(trained: Path) -> None:
    assert not [path for path in trained.rglob("*") if set(path.name) & set("=()#,")]


def test_finished_run_is_not_touched(trained: Path, run: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    code, out, _ = run("train", *FAST, f"run_dir={trained}")
    assert code == 0
    assert "completed before" in out
    assert out.splitlines()[-1] == f"run directory: {trained}"
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_run_directory_of_another_configuration_is_refused(trained: Path, run: Run) -> None:
    code, _, err = run("train", *FAST, f"run_dir={trained}", "model.n_features=9", "optimizer.lr=0.5")
    assert code == 2
    assert "model.n_features: stored 8, requested 9" in err
    assert "optimizer.lr: stored 0.002, requested 0.5" in err


def test_new_start_keeps_the_earlier_run(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "run"
    path.mkdir()
    (path / "precious").write_text("x")
    code, out, _ = run("train", *FAST, f"run_dir={path}", "resume=never", "model=hipnn")
    assert code == 0
    assert (tmp_path / "run.1" / "precious").read_text() == "x"
    assert "kept the earlier run as" in out
    assert (path / "model.pt").is_file()


def test_default_directory_is_the_same_at_every_start(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = run("train", "--print-run-dir", "model=hipnn")[1].strip()
    assert Path(first).parent == tmp_path / "runs"
    assert Path(first).name.startswith("tiny-hipnn-")
    assert run("train", "--print-run-dir", "model=hipnn", "trainer.devices=2", "logger=wandb")[1].strip() == first
    assert run("train", "--print-run-dir", "model=hipnn", "seed=1")[1].strip() != first
    assert list(tmp_path.iterdir()) == []


def test_resumed_training_equals_an_uninterrupted_one(tmp_path: Path, run: Run) -> None:
    common = [*FAST, "model=hipnn", "dtype=float64", "trainer.max_epochs=3"]
    assert run("train", *common, f"run_dir={tmp_path / 'whole'}")[0] == 0
    assert run("train", *common, f"run_dir={tmp_path / 'broken'}", "trainer.max_time=00:00:00:01")[0] in (0, 124)
    epochs = json.loads((tmp_path / "broken" / "metrics.json").read_text())["epochs"]
    state = torch.load(tmp_path / "broken" / "checkpoints" / "last.ckpt", weights_only=True)
    before = state["callbacks"]["Clock"]["seconds"]
    code, out, _ = run("train", *common, f"run_dir={tmp_path / 'broken'}")
    assert code == 0
    after = json.loads((tmp_path / "broken" / "metrics.json").read_text())["training_seconds"]
    if epochs < 3:  # a fast machine is done within the second
        assert "resumes" in out
        assert after > before
    assert after >= before > 0
    curves = [(tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("whole", "broken")]
    assert [line.split(",")[0] for line in curves[1]] == ["epoch", "1", "2", "3"]  # nothing of the first part is lost
    assert curves[0][0] == curves[1][0]
    whole, broken = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert set(whole) == set(broken)
    for name in whole:
        torch.testing.assert_close(broken[name], whole[name], rtol=1e-10, atol=1e-12)


def test_raw_weights_resume_and_averaged_ones_are_used(trained: Path) -> None:
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    averaged, raw = content["state_dict"], content["current_model_state"]
    different = [name for name in averaged if not torch.equal(averaged[name], raw[name])]
    assert different
    used = load(str(trained)).potential.state_dict()
    for name in different:
        assert torch.equal(used[name.removeprefix("potential.")], averaged[name])


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    """Also where they divide the optimizer's state: its checkpoint is that of an undivided one, rehearsed or not."""
    common = [
        *FAST,
        *("dtype=float64", "callbacks=none", "trainer.max_epochs=2", "trainer.limit_train_batches=26"),
        "data.batch_size=7",  # an odd batch is divided unevenly
        "loss.energy.huber=0.5",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    two_processes = ["trainer.devices=2", "trainer.strategy=ddp"]
    divided = [*two_processes, "trainer.shard_optimizer=true", "preflight=off"]
    for name, more in (("one", []), ("two", two_processes), ("divided", divided)):
        command = [*COMMAND, *common, f"run_dir={tmp_path / name}", *more]
        done = subprocess.run(command, check=True, env=environment, timeout=200, stdout=subprocess.PIPE, text=True)
        assert ("divided among 2 processes" in done.stdout) == (name == "divided")
        assert ("per epoch of 26 steps" in done.stdout) == (name != "divided")
    assert torch.load(tmp_path / "two" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 52
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-8
    states = [torch.load(tmp_path / n / "checkpoints" / "last.ckpt", weights_only=True) for n in ("two", "divided")]
    assert all(torch.equal(value, states[1]["state_dict"][key]) for key, value in states[0]["state_dict"].items())
    moments = [state["optimizer_states"][0]["state"] for state in states]
    assert len(moments[0]) == len(moments[1]) > 10
    for key, values in moments[0].items():
        assert all(torch.equal(value, moments[1][key][name]) for name, value in values.items())
    errors = [json.loads((tmp_path / name / "metrics.json").read_text())["errors"] for name in ("one", "two")]
    assert errors[0]["test"]["energy"]["mae"] == pytest.approx(errors[1]["test"]["energy"]["mae"], rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["data=ani1x"], 3, ["ani1x-release.h5 does not exist", "hiphop-data download ani1x", "data.path=PATH"]),
        (["data=comp6"], 3, ["contains no COMP6v1 file", "data.root=FOLDER"]),
        (["data=extxyz", "data.path=none.xyz"], 3, ["none.xyz does not exist"]),
        (["model.elements=[H,C]"], 3, ["contains N", "'model.elements=[H,C,N]'"]),
        (["model.elements=[H,C,N,Ox]"], 2, ["'Ox' is not an element"]),
        (["data.reader.force_sign=gradient"], 3, ["opposite sign", "force_sign"]),
        (["data.reader.energy_unit=eV"], 3, ["stiffness", "energy_unit"]),
        (["data.reader.length_unit=bohr"], 3, ["unit of length is wrong", "length_unit"]),
        (["data/split=random", "data.split.val_fraction=0.0"], 3, ["split 'val' is empty"]),
        (["run_dir=/proc/nowhere"], 2, ["cannot be written", "run_dir=PATH"]),
        (["optimizer.lr=-1"], 2, ["optimizer cannot be built", "learning rate"]),
        (["trainer.devices=0"], 2, ["trainer cannot be built"]),
        (["resume=nowhere"], 4, ["nowhere does not exist"]),
        (["model.soft_max=9"], 2, ["soft_min < soft_max <= cutoff"]),
        (
            ["--epochs", "3"],
            2,
            ["unrecognized arguments: --epochs; settings are given as KEY=VALUE; see hiphop-train --help"],
        ),
    ],
)
def test_bad_input_is_refused_and_writes_nothing(
    arguments: list[str], code: int, parts: list[str], tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [*FAST, f"run_dir={tmp_path / 'run'}", *arguments]
    found, _, err = run("train", *given)
    assert found == code
    assert err.startswith("error: ")
    for part in parts:
        assert part in err
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_of_another_model_is_not_resumed(trained: Path, run: Run, tmp_path: Path) -> None:
    code, _, err = run("train", *FAST, f"run_dir={tmp_path / 'r'}", f"resume={trained}", "model.n_features=9")
    assert code == 4
    assert "model.n_features: stored 8, requested 9" in err
    assert not (tmp_path / "r").exists()


def test_extxyz_of_one_formula_trains(shared: Path, tmp_path: Path, run: Run) -> None:
    ethanol = shared / "data" / "extxyz" / "ethanol_train.xyz"
    code, out, _ = run("train", *FAST, "data=extxyz", f"data.path={ethanol}", f"run_dir={tmp_path / 'r'}")
    assert code == 0
    assert "determine only 1 of 4 values" in out
    assert json.loads((tmp_path / "r" / "metrics.json").read_text())["errors"]["test"]["n_structures"] == 100


@pytest.mark.parametrize("schedule", ["plateau", "raise_batch_size"])
def test_other_schedules_run(schedule: str, tmp_path: Path, run: Run) -> None:
    arguments = ["model=hipnn", f"scheduler={schedule}", "scheduler.patience=0", "trainer.max_epochs=3"]
    assert run("train", *FAST, f"run_dir={tmp_path / 'r'}", *arguments)[0] == 0


@pytest.mark.timeout(100)  # without a network, nothing waits for one
def test_wandb_without_login_logs_offline(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    code, out, _ = run("train", *FAST, "model=hipnn", "logger=wandb", f"run_dir={tmp_path / 'r'}")
    assert code == 0
    assert "logs offline" in out
    assert list((tmp_path / "r" / "wandb").glob("offline-run-*"))


def test_tensorboard_writes_events(tmp_path: Path, run: Run) -> None:
    assert run("train", *FAST, "model=hipnn", "logger=tensorboard", f"run_dir={tmp_path / 'r'}")[0] == 0
    assert list((tmp_path / "r" / "tensorboard").rglob("events.out.*"))
