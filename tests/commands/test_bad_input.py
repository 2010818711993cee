"""Values that no training can have, one message each, at once, with nothing written."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from tests.commands.conftest import FAST, Run

BASE = [*FAST, "model=hipnn"]
ALWAYS = ["seed=-1", "seed=99999999999999999999999", "seed=1.5", "seed=true"]
VALUES = {
    2: [
        *ALWAYS,
        *("model.elements=[H,H,C,N,O]", "model.elements=[]", "model.elements=[Xx,H,C]", "model.elements=[1,6]"),
        *("model.cutoff=inf", "model.cutoff=nan", "model.cutoff=0", "model.cutoff=-1", "model.cutoff=1e9"),
        *("model.n_features=0", "model.n_features=8.5", "model.n_features=1000000000", "model.n_interactions=0"),
        *("trainer.max_epochs=0", "trainer.max_epochs=-7", "trainer.max_epochs=-1", "trainer.max_epochs=null"),
        *("trainer.max_steps=0", "trainer.limit_train_batches=0", "trainer.check_val_every_n_epoch=0"),
        *("trainer.accumulate_grad_batches=0", "trainer.log_every_n_steps=-1", "trainer.gradient_clip_val=-1"),
        *("trainer.devices=0", "trainer.devices=-2", "trainer.devices=a", "trainer.accelerator=quantum"),
        *("trainer.spike=1", "trainer.spike=nan", "trainer.max_bad_batches=0", "trainer.bad_batches=ignore"),
        *("data.batch_size=0", "data.num_workers=-1", "data.num_workers=10000", "data.eval_batch_size=1.5"),
        *("optimizer.lr=nan", "optimizer.lr=inf", "optimizer.lr=0", "optimizer.lr=-1", "optimizer.lr=abc"),
        *("optimizer.weight_decay=-1", "optimizer.betas=[1,2]", "optimizer.betas=[0.9]", "optimizer.eps=-1"),
        *("loss.energy.mae=-1", "loss.energy.mae=nan", "loss.forces.rmse=inf", "dtype=float16", "dtype=null"),
        *("callbacks.ema.decay=2", "callbacks.ema.decay=nan", "callbacks.early_stopping.patience=0"),
        *("=5", "", "a=b=c", "model=", "model=../x", "+x=1", "~model", "séed=1", f"{'x' * 5000}=1", "hydra.xyz=1"),
        *("run_dir=/", "run_dir=", "run_dir=/dev/null", f"run_dir={'x' * 300}", 'run_dir="~"', "run_dir=/etc"),
    ],
    3: ["data.path=/dev/zero", "data.path=pipe", "data.path=loop", "data.path=nothing", "data.path=.", "data.path=''"],
    4: [
        *(f"{key}={path}" for key in ("init_weights", "resume") for path in ("/dev/zero", "pipe", "loop", "''", ".")),
    ],
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with things that are no files."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    os.symlink("loop", "loop")
    os.symlink("missing", "nothing")
    return tmp_path


@pytest.mark.parametrize(("code", "given"), [(code, given) for code, values in VALUES.items() for given in values])
def test_a_value_that_no_training_can_have(code: int, given: str, place: Path, run: Run) -> None:
    before = sorted(place.iterdir())
    arguments = [*BASE, given] if given.startswith("run_dir=") else [*BASE, f"run_dir={place / 'run'}", given]
    begun = time.monotonic()
    found, _, err = run("train", *arguments)
    assert found == code, err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert time.monotonic() - begun < 20
    assert sorted(place.iterdir()) == before


def test_no_weight_in_the_loss(place: Path, run: Run) -> None:
    none = ["loss.energy.mae=0", "loss.energy.rmse=0", "loss.forces.mae=0", "loss.forces.rmse=0"]
    code, _, err = run("train", *BASE, f"run_dir={place / 'run'}", *none)
    assert code == 2
    assert "all weights are 0" in err


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("/dev/zero", "is a device"),
        ("pipe", "is a named pipe"),
        ("loop", "Too many levels of symbolic links"),
        ("nothing", "is a link to nothing"),
        (".", "is a folder"),
    ],
)
def test_what_is_no_file_is_called_what_it_is(path: str, what: str, place: Path, run: Run) -> None:
    assert what in run("train", *BASE, "data=extxyz", f"data.path={path}", "run_dir=run")[2]
    assert path == "." or what in run("train", *BASE, f"init_weights={path}", "run_dir=run")[2]
    assert path == "." or what in run("eval", f"checkpoint={path}")[2]


def test_a_folder_of_someone_else_is_not_written_into(place: Path, run: Run) -> None:
    """Also with the names of our own files; a folder with no more than logs is free."""
    foreign = place / "foreign"
    foreign.mkdir()
    (foreign / "config.yaml").write_text("flask: true\n")
    (foreign / "model.pt").write_text("precious")
    code, _, err = run("train", *BASE, f"run_dir={foreign}")
    assert code == 2
    assert "holds other things (config.yaml, model.pt) and no run of hiphop-train" in err
    assert sorted(path.name for path in foreign.iterdir()) == ["config.yaml", "model.pt"]
    assert (foreign / "model.pt").read_text() == "precious"
    (place / "job").mkdir()
    (place / "job" / "slurm-1.out").write_text("")
    assert run("train", *BASE, f"run_dir={place / 'job'}")[0] == 0


def frame(symbols: list[str], positions: list[float], force: float = 0.0, energy: float = -1000.0) -> str:
    """Atoms on the x axis, the first of which has a force."""
    lines = [f"{len(symbols)}", f"Properties=species:S:1:pos:R:3:forces:R:3 energy={energy} pbc=F"]
    lines += [
        f"{s} {x} 0 0 {force if k == 0 else 0.0} 0 0" for k, (s, x) in enumerate(zip(symbols, positions, strict=True))
    ]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (frame(["O", "H"], [0.0, 0.97], force=1e6), "forces: infinite or impossibly large values (1e+06"),
        (frame(["O", "H"], [0.0, 1e-4]), "atoms 0 and 1 of conformation 0 are 0.0001 Angstrom apart"),
        (frame(["O", "H", "H"], [0.0, 0.97, 0.0]), "atoms 0 and 2 of conformation 0 are 0 Angstrom apart"),
        (frame(["Xx", "H"], [0.0, 0.97]), "'Xx' is not an element"),
        (frame(["O", "H"], [0.0, float("nan")]), "coordinates contain NaN"),
    ],
)
def test_structures_that_cannot_be(wrong: str, said: str, place: Path, run: Run) -> None:
    rng = np.random.default_rng(0)
    good = [frame(["O", "H"], [0.0, 0.9 + 0.1 * rng.random()], energy=-2040.0) for _ in range(20)]
    (place / "data.xyz").write_text("".join([*good, wrong]))
    code, _, err = run("train", *BASE, "data=extxyz", "data.path=data.xyz", "data.check=false", "run_dir=run")
    assert code == 3
    assert said in err
    assert "structure 20" in err
    assert not (place / "run").exists()


def test_ids_of_wandb(tmp_path: Path) -> None:
    """Runs of one name have records of their own; a resumed one continues its record, also under another path."""
    from hiphop_train.training.loggers import _identifier

    one, other = (tmp_path / folder / "run:1 #2" for folder in "ab")
    assert _identifier(one) != _identifier(other)
    assert set(_identifier(one)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
    (one / "wandb" / "offline-run-20261126_010203-run-of-before").mkdir(parents=True)
    assert _identifier(one) == "run-of-before"
    one.parent.rename(tmp_path / "moved")
    assert _identifier(tmp_path / "moved" / one.name) == "run-of-before"
