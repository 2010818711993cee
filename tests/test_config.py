"""Configurations compose and are checked before any data is read; every mistake names where it comes from."""

import sys
from pathlib import Path

import pytest

from hiphop_train import build, config, config_files
from hiphop_train.commands.run_directory import run_name
from hiphop_train.config import load_config
from hiphop_train.config_files import config_directory, options
from hiphop_train.errors import ConfigError
from hiphop_train.schema import ConfigName
from tests.conftest import model_section

CONF = config_directory()


@pytest.mark.parametrize(
    "override",
    [
        f"{group}={name}"
        for group in ("model", "loss", "optimizer", "scheduler", "callbacks", "logger", "experiment", "debug")
        for name in options(group)
    ],
)
def test_every_choice_composes(override: str) -> None:
    must_give = ["data.path=x"] if "one_molecule" in override else []
    assert load_config("train", [override, *must_give]).model._target_


@pytest.mark.parametrize("name", options("data"))
def test_every_data_set_composes(name: str) -> None:
    must_give = name in ("ase", "extxyz", "md17", "packed", "rmd17")
    config = load_config("train", [f"data={name}", "data.path=x"] if must_give else [f"data={name}"])
    assert config.data.name == name
    if name == "packed":
        return  # the set itself says its units
    assert config.data.reader.energy_unit
    assert config.data.reader.length_unit
    if name not in ("ani1", "qm7", "qm9"):  # energies only
        assert config.data.reader.force_sign in ("force", "gradient")


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["model.cuttoff=5"], ["override 'model.cuttoff=5'", "'cuttoff' in 'model'", "did you mean 'cutoff'"]),
        (["+model.cuttoff=5"], ["override '+model.cuttoff=5'", "did you mean 'cutoff'"]),
        (["loss.energy.maee=1"], ["'maee' in 'loss.energy'", "did you mean 'mae'"]),
        (["data.reader.enregy_unit=x"], ["'enregy_unit' in 'data.reader'", "did you mean 'energy_unit'"]),
        (["callbacks.ema.decy=0.9"], ["'decy' in 'callbacks.ema'", "did you mean 'decay'"]),
        (["trainer.max_epoch=3"], ["did you mean 'max_epochs'"]),
        (["sed=3"], ["unknown key 'sed'", "did you mean 'seed'"]),
        (["a.b.c=1"], ["override 'a.b.c=1'", "unknown key 'a'"]),
        (["model=hiphopp"], ["'hiphopp' is not one of the files of model", "did you mean 'hiphop'", "hipnn"]),
        (["model=hipnn", "model.l_max=2"], ["'l_max' in 'model'", "allowed: cutoff"]),
        (["model.n_features=wide"], ["model.n_features: got 'wide'", "valid integer"]),
        (["model.n_features=0"], ["greater than 0"]),
        (["model.l_max=7"], ["must be 0, 1, 2, 3, 4 or 5"]),
        (
            ["data/split=random", "data.split.by=atom"],
            ["must be 'structure', 'group', 'formula', 'molecule' or 'subset'"],
        ),
        (["dtype=float16"], ["must be 'float32' or 'float64'"]),
        (["data.batch_size=-1"], ["data.batch_size: got -1", "greater than 0"]),
        (["data=extxyz"], ["data.path must be given: data.path=VALUE"]),
        (["model.elements=H"], ["model.elements: got 'H'", "valid list"]),
        (["model.readout._target_=nothing.there"], ["model.readout._target_", "cannot be imported"]),
        (["data.level=ccsd(t)_cbs"], ["cannot be read", """'data.level="ccsd(t)_cbs"'"""]),
        (["optimizer.params=[1]"], ["'params' in 'optimizer'"]),
        (["data.elements=[H]"], ["'elements' in 'data'"]),
        (["logger=null"], ["override 'logger=null'", "allowed: csv, tensorboard, wandb"]),
        (["data=3"], ["override 'data=3'", "the name of one of its files", "extxyz"]),
        (["data/split=randm"], ["'randm' is not one of the files of data/split; did you mean 'random'?"]),
        (["data/split=random", "data.split.by.deeper=1"], ["'deeper' in 'data.split.by'"]),
        (["model={cuttoff: 5}"], ["override 'model={cuttoff: 5}': model.cuttoff: unknown key", "'cutoff'"]),
        (["+model.cutoff=5"], ["already at 'model.cutoff'"]),
        (["~model.cuttoff"], ["'model.cuttoff' does not exist"]),
        (["evaluation.x=1"], ["override 'evaluation.x=1': evaluation: unknown key 'evaluation'", "allowed: callbacks"]),
        (["evaluation=1"], ["override 'evaluation=1'", "unknown key"]),
        (["3"], ["'3' is not a setting; settings are given as KEY=VALUE"]),
        (["seed=0,1"], ["--multirun"]),
        (["callbacks.mine.x=1"], ["unknown key 'mine' in 'callbacks'"]),
    ],
)
def test_mistake_is_explained(overrides: list[str], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("train", overrides)
    for part in parts:
        assert part in str(caught.value)


def test_mistake_in_a_file_names_file_and_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    shutil.copytree(CONF, tmp_path / "conf")
    file = tmp_path / "conf" / "experiment" / "mine.yaml"
    file.write_text("# @package _global_\nmodel:\n  n_features: 32\n  cuttoff: 5.0\n")
    hidden = tmp_path / "conf" / "model" / "other.yaml"
    hidden.write_text((CONF / "model" / "hipnn.yaml").read_text() + "extra: 1\n")
    for module in (config, config_files):
        monkeypatch.setattr(module, "config_directory", lambda: tmp_path / "conf")
    with pytest.raises(ConfigError, match=r"mine\.yaml:4: model\.cuttoff: unknown key.*did you mean 'cutoff'"):
        load_config("train", ["experiment=mine"])
    with pytest.raises(ConfigError, match=r"other\.yaml:\d+: model\.extra: unknown key 'extra' in 'model'"):
        load_config("train", ["model=other"])
    value = tmp_path / "conf" / "experiment" / "value.yaml"
    value.write_text("# @package _global_\nmodel:\n  n_features: wide\n")
    with pytest.raises(ConfigError, match=r"value\.yaml:3: model\.n_features: got 'wide'"):
        load_config("train", ["experiment=value"])
    file.write_text("# @package _global_\ndefaults:\n  - override /model: hipn\n")
    with pytest.raises(ConfigError, match=r"file chooses model=hipn: 'hipn' is not one of.*did you mean 'hipnn'"):
        load_config("train", ["experiment=mine"])
    file.write_text("# @package _global_\nmodel: [\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config("train", ["experiment=mine"])


def test_a_target_s_default_can_be_set_without_a_plus() -> None:
    config = load_config("train", ["loss.energy.huber=0.5", "trainer.accumulate_grad_batches=2"])
    assert config.loss.energy.huber == 0.5
    assert config.trainer.accumulate_grad_batches == 2


def test_last_of_two_overrides_wins() -> None:
    config = load_config("train", ["seed=1", "loss.energy.huber=0.5", "seed=2", "loss.energy.huber=0.6"])
    assert (config.seed, config.loss.energy.huber) == (2, 0.6)


def test_all_forms_of_overrides() -> None:
    overrides = ["model.elements.0=N", "~callbacks.ema", "+callbacks.mine._target_=hiphop_train.training.callbacks.ema"]
    config = load_config("train", [*overrides, "callbacks.mine.decay=0.5", "logger=[csv,wandb]", "hydra.run.dir=x"])
    assert config.model.elements[0] == "N"
    assert "ema" not in config.callbacks
    assert config.callbacks.mine.decay == 0.5
    assert "wandb" in config.logger
    arguments = load_config("bench", ["peers.ase.arguments={rc: 5.0}"]).peers.ase.arguments
    assert arguments == {"rc": 5.0}
    config = load_config("train", ["loss.energy={huber: 0.5, mae: 2.0}"])
    assert (config.loss.energy.huber, config.loss.energy.mae) == (0.5, 2.0)


@pytest.mark.parametrize(
    ("command", "overrides", "parts"),
    [
        ("eval", ["checkpoint=x", "data.root=y"], ["nothing is chosen for data; choose it too: data=NAME", "comp6"]),
        ("eval", ["checkpoint=x", "model=hipnn"], ["'model' cannot be set here: model and training come from"]),
        ("eval", ["checkpoint=x", "dtype=float64"], ["'dtype' cannot be set here"]),
        ("eval", ["checkpont=x"], ["override 'checkpont=x'", "did you mean 'checkpoint'?"]),
        ("export", ["checkpoint=x", "data=tiny"], ["unknown key 'data'", "allowed: checkpoint, output"]),
        ("bench", ["trainer.devices=2"], ["override 'trainer.devices=2'", "unknown key 'trainer'"]),
        ("bench", ["checkpoint=x", "model=hipnn", "dtype=float64"], ["leave out model=hipnn, dtype=float64, or"]),
        ("bench", ["rounds=0"], ["rounds: got 0", "greater than 0"]),
        ("data", ["data=tiny", "data.levl=x"], ["unknown key 'levl' in 'data'"]),
    ],
)
def test_mistakes_of_other_commands(command: ConfigName, overrides: list[str], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(command, overrides)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("command", ["eval", "export"])
def test_model_cannot_be_set_after_training(command: ConfigName) -> None:
    with pytest.raises(ConfigError, match=r"'model.cutoff' cannot be set here: model and training come from"):
        load_config(command, ["checkpoint=x", "model.cutoff=3"])
    with pytest.raises(ConfigError, match="checkpoint must be given"):
        load_config(command, [])


def test_no_file_outside_of_model_interpolates_the_model() -> None:
    for file in CONF.rglob("*.yaml"):
        if file.parent.name != "model":
            assert "${model." not in file.read_text(), file


def test_further_targets_are_weighted_like_energies_and_name_a_run_only_then() -> None:
    """Runs from before there were further targets are found again."""
    plain, without, with_stress = (
        load_config("train", overrides)
        for overrides in ([], ["~loss.stress", "~loss.dipole"], ["loss.stress.rmse=0.1"])
    )
    assert with_stress.loss.stress.rmse == 0.1
    assert run_name(plain) == run_name(without) != run_name(with_stress)
    with pytest.raises(ConfigError, match=r"loss\.stress\.rmsd: unknown key 'rmsd'.* did you mean 'rmse'"):
        load_config("train", ["loss.stress.rmsd=1"])


def test_model_section_is_composed() -> None:
    """A file may build on another one."""
    flexible, published = model_section("hiphop_flexible"), model_section("hiphop")
    assert flexible == {**published, "invariants": "flexible"}


@pytest.mark.parametrize("name", ["hipnn", "hipnn_ts", "hiphop"])
def test_experiments_build_on_each_other(name: str) -> None:
    config = load_config("train", [f"experiment=ani1x_{name}_256", "data.root=nowhere"])
    own = {**model_section(name), "n_features": 256, "cutoff": 6.5, "n_sensitivities": 20, "soft_max": 5.5}
    assert config.model == own | ({"group_norm": True} if name == "hiphop" else {})
    assert config.scheduler.max_batch_size == 2048


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["data=tiny"], "tiny-hiphop-48b5fa46"),
        (["data=tiny", "model=hipnn", "loss=mse"], "tiny-hipnn-5ac74863"),
        (["data=packed", "data.path=X"], "packed-hiphop-d37ad477"),
        (["data=extxyz", "data.path=a.xyz"], "extxyz-hiphop-940e48a0"),
        (["experiment=ani1x_hipnn_ts"], "ani1x-hipnn_ts-f20e129d"),
    ],
)
def test_runs_begun_before_targets_and_rooms_are_found_again(overrides: list[str], name: str) -> None:
    """Names that commit d8c3435 gave."""
    assert run_name(load_config("train", overrides)) == name


@pytest.mark.parametrize(
    ("name", "rate"), [("hiphop", 2e-3), ("mace", 1e-2), ("nequip", 5e-3), ("tfn", 5e-3), ("newtonnet", 1e-3)]
)
def test_the_default_rate_is_that_of_the_model(name: str, rate: float) -> None:
    assert load_config("train", [f"model={name}"]).optimizer.lr == rate
    assert load_config("train", [f"model={name}", "optimizer.lr=3e-4"]).optimizer.lr == 3e-4


def test_the_rate_of_a_model_of_others_imports_nothing() -> None:
    assert build.learning_rate("antigravity.Model") == 2e-3
    assert "antigravity" not in sys.modules
    assert build.learning_rate("hiphop_train.models.none.Model") == 2e-3
