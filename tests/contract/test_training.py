"""What every model of conf/model must do in the application: train, be saved, be exported, refuse what it cannot."""

from pathlib import Path

import ase.io
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from torch import Tensor

from hiphop_train import checkpoint, cli
from hiphop_train.accelerate import accelerate
from hiphop_train.build import make_data, make_part, make_potential
from hiphop_train.config import load_config
from hiphop_train.errors import ConfigError
from hiphop_train.interfaces.ase import HipHopCalculator
from hiphop_train.models.base import Representation
from hiphop_train.potential import Potential
from hiphop_train.training.statistics import fit_representation
from hiphop_train.types import Batch
from tests.conftest import MODEL_FILES, model_section

KEYS = {file.stem: set(model_section(file.stem)) for file in MODEL_FILES}
"""Settings of each model."""

SMALLER = {"n_features": 16, "n_interactions": 2, "radial_hidden": [16]}
"""Settings of short trainings."""

STEPS = {"tfn": 40}
"""Numbers of steps, where twenty are too few: TFN's first energies are small, since each layer shrinks its scalars."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run directories of short trainings, made when first needed."""
    return {name: tmp_path_factory.mktemp(name) / "run" for name in KEYS}


@pytest.fixture
def trained(model_name: str, runs: dict[str, Path]) -> Path:
    """Run directory of a short training of the model."""
    path = runs[model_name]
    if not path.exists():
        settings = [
            "debug=fast",
            "trainer.accelerator=cpu",
            f"model={model_name}",
            f"run_dir={path}",
            "preflight=off",
            "pictures=false",
        ]
        settings += [f"model.{key}={value}" for key, value in SMALLER.items() if key in KEYS[model_name]]
        assert cli.run("train", settings) == 0
    return path


def loss_of(potential: Potential, batch: Batch, loss: torch.nn.Module) -> Tensor:
    n_atoms = torch.bincount(batch.graph.system, minlength=batch.graph.n_systems)
    value: Tensor = loss(potential(batch.graph), batch.labels, n_atoms)
    return value


def test_a_few_steps_lower_the_loss(model_name: str) -> None:
    """On structures outside the training steps; accelerated, as it trains.

    At a rate of the warm-up's first steps, but at the full one where that is higher than for most models: lower ones
    hardly change their weights in twenty steps.
    """
    config = load_config("train", [f"model={model_name}", "data.check=false"])
    if config.optimizer.lr <= Representation.learning_rate:
        config.optimizer.lr = 3e-4
    torch.manual_seed(0)
    potential = make_potential(config.model, torch.float32)
    data = make_data(config.data, potential, torch.float32, seed=0)
    statistics = data.statistics()
    potential.set_statistics(statistics.e0, statistics.scale)
    fit_representation(potential, data)
    loss = make_part(config.loss, "loss")
    optimizer = make_part(config.optimizer, "optimizer", params=list(potential.parameters()))
    unseen = next(iter(data.val_dataloader()))
    before = float(loss_of(potential.eval(), unseen, loss).detach())
    potential.train()
    data.prepare = accelerate(potential, torch.float32, torch.device("cpu"), "training").prepare
    steps = 0
    for batch in data.train_dataloader():
        optimizer.zero_grad()
        loss_of(potential, batch, loss).backward()
        torch.nn.utils.clip_grad_norm_(potential.parameters(), config.trainer.gradient_clip_val)
        optimizer.step()
        steps += 1
        if steps == STEPS.get(model_name, 20):
            break
    after = float(loss_of(potential.eval(), unseen, loss).detach())
    assert steps == STEPS.get(model_name, 20)
    assert after < 0.95 * before


def test_checkpoint_and_exported_file_are_the_trained_model(trained: Path, model_name: str) -> None:
    loaded = checkpoint.load(str(trained))
    again = make_potential(loaded.record["config"]["model"], torch.float32)
    again.load_state_dict(loaded.potential.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), loaded.potential.parameters(), strict=True))
    assert KEYS[model_name] <= set(loaded.record["config"]["model"])
    code = cli.run("export", [f"checkpoint={trained}", f"output={trained / 'again.pt'}"])
    assert code == 0
    energies = []
    for name in ("model.pt", "again.pt"):
        atoms = molecule("CH3CH2OH")
        atoms.calc = HipHopCalculator(trained / name)
        energies.append(atoms.get_potential_energy())
    assert energies[0] == pytest.approx(energies[1], abs=1e-6)


def test_unknown_element_is_refused_by_name(trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    thiol = Atoms("SH2", [[0.0, 0.0, 0.1], [0.96, 0.0, -0.8], [-0.96, 0.0, -0.8]])
    thiol.info["energy"] = -1.0
    ase.io.write(tmp_path / "thiol.xyz", thiol, format="extxyz")
    capfd.readouterr()
    code = cli.run("eval", [f"checkpoint={trained}", "data=extxyz", f"data.path={tmp_path / 'thiol.xyz'}"])
    error = capfd.readouterr().err
    assert code == 3
    assert "S" in error.replace("thiol.xyz", "").split(":", 1)[1]
    assert "H, C, N, O" in error


def test_setting_of_another_model_is_refused_by_name(model_name: str) -> None:
    others = sorted(set().union(*KEYS.values()) - KEYS[model_name])
    assert others
    for key in others[sorted(KEYS).index(model_name) % 6 :: 6]:  # each by some of the models
        with pytest.raises(ConfigError, match=f"unknown key '{key}'"):
            load_config("train", [f"model={model_name}", f"model.{key}=1"])
