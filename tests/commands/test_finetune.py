"""init_weights with finetune: more elements, other levels of theory, old data watched and replayed."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import h5py
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import Hartree

from hiphop_train.checkpoint import load, read, to_bytes
from tests.commands.conftest import FAST, Run
from tests.training.test_middle_of_epoch import stop_after

START = [*FAST, "trainer.limit_train_batches=2", "data/split=random", "trainer.accelerator=cpu"]
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def sulphur(make_conformers: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Molecules with and without sulphur, with energies of another program: 3 eV per atom away."""
    path = tmp_path_factory.mktemp("sulphur") / "sulphur.xyz"
    frames = []
    for name in ("CH3SH", "SH2", "CH3OH"):
        conformers = make_conformers(name, 14, seed=1)
        for positions, energy, forces in zip(conformers.positions, conformers.energy, conformers.forces, strict=True):
            atoms = Atoms(conformers.numbers, positions)
            shifted = energy + 3.0 * len(atoms)
            atoms.calc = SinglePointCalculator(atoms, energy=shifted, forces=forces)
            frames.append(atoms)
    ase.io.write(path, frames)
    return path


def words(path: Path, base: Path, run_dir: Path, *more: str) -> list[str]:
    return [*START, "data=extxyz", f"data.path={path}", f"init_weights={base}", f"run_dir={run_dir}", *more]


MORE = "model.elements=[S,H,C,N,O]"


def test_new_elements_get_their_own_e0(sulphur: Path, trained: Path, tmp_path: Path, run: Run) -> None:
    """Behind the old ones, whatever the order; with a vanishing rate the energies are those of E0 alone."""
    code, out, err = run("train", *words(sulphur, trained, tmp_path / "r", MORE, "optimizer.lr=1e-30"))
    assert code == 0, err
    before, after = load(str(trained)).potential, load(str(tmp_path / "r")).potential
    assert after.elements == [*before.elements, "S"]
    assert torch.equal(after.e0[:, :4], before.e0)
    assert abs(float(after.e0[0, 4])) > 10.0
    assert "old data   tiny: 102 validation structures watched" in out
    assert json.loads((tmp_path / "r" / "metrics.json").read_text())["status"] == "completed"
    assert (tmp_path / "r" / "model.pt").is_file()
    assert run("train", *words(sulphur, trained, tmp_path / "r", MORE, "optimizer.lr=1e-30"))[1].startswith("this run")


def test_fitted_e0_take_the_mean_error_away(sulphur: Path, trained: Path, tmp_path: Path, run: Run) -> None:
    errors = {}
    for e0 in ("keep", "fit"):
        run_dir = tmp_path / e0
        assert run("train", *words(sulphur, trained, run_dir, MORE, f"finetune.e0={e0}", "optimizer.lr=1e-30"))[0] == 0
        errors[e0] = json.loads((run_dir / "metrics.json").read_text())["errors"]["test"]["energy"]["mae"]
    assert errors["fit"] < 0.2 * errors["keep"]


def test_both_levels_of_theory_live_in_one_model(sulphur: Path, trained: Path, tmp_path: Path, run: Run) -> None:
    """The new one first, as it is the one that is exported; old structures are replayed and keep theirs."""
    level = ["finetune.e0=new_level", "data.level_of_theory=new", "finetune.replay=0.5"]
    code, out, err = run(
        "train", *words(sulphur, trained, tmp_path / "r", MORE, *level, "finetune.forgetting_limit=null")
    )
    assert code == 0, err
    loaded, before = load(str(tmp_path / "r")), load(str(trained))
    assert loaded.record["levels"] == ["new", *before.record["levels"]]
    assert torch.equal(loaded.potential.e0[1:, :4], before.potential.e0)
    assert "of 1,380 replayed in each epoch" in out
    rows = list(csv.DictReader((tmp_path / "r" / "metrics.csv").read_text().splitlines()))
    assert float(rows[-1]["old/energy_mae"]) > 0
    code, out, err = run("eval", f"checkpoint={tmp_path / 'r'}")
    assert code == 0, err
    code, out, err = run("eval", f"checkpoint={tmp_path / 'r'}", "data=tiny", "splits=[test]")
    assert code == 0, err


def test_a_stopped_fine_tuning_goes_on_as_if_unbroken(
    sulphur: Path, trained: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replayed structures are those of the epoch, in the same order, for any number of starts."""
    common = [MORE, "finetune.replay=0.4", "trainer.max_epochs=3", "trainer.limit_train_batches=3", "dtype=float64"]
    common += ["~debug", "data.batch_size=8", "scheduler=exponential", "finetune.layer_decay=0.7"]
    states = []
    for name, stops in (("whole", []), ("broken", [2, 5])):
        for step in [*stops, -1]:
            with monkeypatch.context() as patch:
                stop_after(step, patch)
                code, _, err = run("train", *words(sulphur, trained, tmp_path / name, *common))
            assert code == (0 if step < 0 else 143), err
        states.append(torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_lost_knowledge_ends_the_training(sulphur: Path, trained: Path, tmp_path: Path, run: Run) -> None:
    stop = [
        "finetune.on_forgetting=stop",
        "finetune.forgetting_limit=1.05",
        "optimizer.lr=0.03",
        "trainer.max_epochs=6",
    ]
    code, out, err = run("train", *words(sulphur, trained, tmp_path / "r", MORE, *stop, "~debug"))
    assert code == 0, err
    assert "old knowledge is lost" in err
    assert "the training ends here" in err
    rows = list(csv.DictReader((tmp_path / "r" / "metrics.csv").read_text().splitlines()))
    assert len(rows) < 6
    assert "validation MAE of best.ckpt" in out


def test_missing_old_data_are_said_or_refused(sulphur: Path, trained: Path, tmp_path: Path, run: Run) -> None:
    """A training that continues from one whose file is gone goes on unwatched; with replay it cannot."""
    moved = tmp_path / "first.xyz"
    moved.write_bytes(sulphur.read_bytes())
    assert run("train", *words(moved, trained, tmp_path / "first", MORE))[0] == 0
    moved.unlink()
    code, out, err = run("train", *START, f"init_weights={tmp_path / 'first'}", f"run_dir={tmp_path / 'r'}")
    assert code == 0, err
    assert "old knowledge is lost is not watched" in err
    assert "old data" not in out
    code, _, err = run(
        "train", *START, f"init_weights={tmp_path / 'first'}", f"run_dir={tmp_path / 'q'}", "finetune.replay=0.5"
    )
    assert code == 2
    assert "the old data cannot be had" in err
    assert not (tmp_path / "q").exists()


def test_data_that_a_stranger_names_are_not_built(sulphur: Path, trained: Path, tmp_path: Path, run: Run) -> None:
    content = read(trained / "checkpoints" / "best.ckpt")
    content["hiphop_train"]["config"]["data"] = {"_target_": "pathlib.Path.touch", "self": str(tmp_path / "made")}
    strange = tmp_path / "strange.ckpt"
    strange.write_bytes(to_bytes(content))
    code, _, err = run("train", *words(sulphur, strange, tmp_path / "r", MORE))
    assert code == 0, err
    assert "not watched" in err
    assert "pathlib.Path.touch" in err
    code, _, err = run("train", *words(sulphur, strange, tmp_path / "q", MORE, "finetune.replay=0.5"))
    assert code == 2
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (["finetune.freeze=[readout]"], ["finetune.freeze", "init_weights=RUN"]),
        (["init_weights={trained}", "finetune.freez=[readout]"], ["unknown key 'freez'", "did you mean 'freeze'"]),
        (["init_weights={trained}", "finetune.e0=guess"], ["finetune.e0", "'keep', 'fit' or 'new_level'"]),
        (["init_weights={trained}", "finetune.replay=1.0"], ["finetune.replay", "less than 1"]),
        (["init_weights={trained}", "finetune.freeze=[nothing]"], ["fits no parameter", "readout"]),
        (["init_weights={trained}", "finetune.e0=new_level"], ["wb97x_dz", "data.level_of_theory=NAME"]),
        (["init_weights={trained}", "model.elements=[H,C]"], ["lacks elements", "model.elements=[H,C,N,O]"]),
        (["init_weights={trained}", "finetune.replay=0.2"], ["the training's own"]),
        (["init_weights={trained}", "finetune.old_data=nowhere"], ["nowhere", "finetune.old_data=RUN"]),
    ],
)
def test_what_cannot_be_is_refused(more: list[str], parts: list[str], trained: Path, tmp_path: Path, run: Run) -> None:
    given = [word.format(trained=trained) for word in more]
    code, _, err = run("train", *FAST[:2], f"run_dir={tmp_path / 'r'}", *given)
    assert code == 2, err
    assert all(part in err for part in parts), err
    assert "Traceback" not in err
    assert not (tmp_path / "r").exists()


def test_coupled_cluster_from_dft(make_conformers: Callable[..., Any], tmp_path: Path, run: Run) -> None:
    """The experiment, on a small file in the release's layout: energies alone, at another level."""
    path = tmp_path / "ani1x-release.h5"
    with h5py.File(path, "w") as file:
        for k in range(20):
            conformers = make_conformers(["CH4", "H2O", "NH3", "CH3OH"][k % 4], 6, seed=k)
            group = file.create_group(f"group{k}")
            group["atomic_numbers"] = conformers.numbers.astype("u1")
            group["coordinates"] = conformers.positions.astype("f4")
            group["wb97x_dz.energy"] = conformers.energy / Hartree
            group["wb97x_dz.forces"] = conformers.forces / Hartree
            group["ccsd(t)_cbs.energy"] = np.where(np.arange(6) % 2, np.nan, (conformers.energy - 2.0) / Hartree)
    first = ["trainer.max_epochs=1", "trainer.accelerator=cpu", f"data.path={path}", "data.num_workers=0"]
    code, _, err = run("train", "experiment=ani1x_ani", *first, f"run_dir={tmp_path / 'dft'}")
    assert code == 0, err
    code, out, err = run(
        "train",
        "experiment=ani1ccx_from_ani1x",
        *first,
        f"init_weights={tmp_path / 'dft'}",
        f"run_dir={tmp_path / 'cc'}",
    )
    assert code == 0, err
    assert "rates " in out
    before, after = load(str(tmp_path / "dft")).potential.e0, load(str(tmp_path / "cc")).potential.e0
    assert not torch.equal(before, after)
    code, _, err = run("train", "experiment=ani1ccx_from_ani1x", f"data.path={path}", f"run_dir={tmp_path / 'no'}")
    assert code == 2
    assert "give them: init_weights=RUN" in err
