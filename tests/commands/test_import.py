"""hiphop-import, and what can be done with its checkpoints: evaluate, export, start a training from their weights."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from hiphop_train import cli
from hiphop_train.checkpoint import load
from hiphop_train.commands.import_weights import Request, store
from hiphop_train.errors import ConfigError, DataError
from hiphop_train.importing.base import Imported
from tests.commands.conftest import FAST, Run

START = [*FAST, "trainer.limit_train_batches=2"]


def imported(trained: Path) -> Imported:
    """A trained potential as an importer returns it."""
    loaded = load(str(trained))
    return Imported(loaded.record["config"]["model"], loaded.potential.state_dict(), "somewhere else")


@pytest.fixture(scope="module")
def file(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of imported weights."""
    path = tmp_path_factory.mktemp("imported") / "weights.ckpt"
    store([imported(trained)], Request("hippynn", trained, path))
    return path


def test_imported_weights_are_evaluated_as_the_original(trained: Path, file: Path, run: Run) -> None:
    code, _, err = run("eval", f"checkpoint={file}", "data=tiny", "splits=[test]")
    assert code == 0, err
    found = json.loads((file.parent / "weights" / "eval" / "tiny" / "errors.json").read_text())["errors"]["test"]
    stored = json.loads((trained / "metrics.json").read_text())["errors"]["test"]
    assert found["energy"]["mae"] == pytest.approx(stored["energy"]["mae"], rel=1e-4)
    assert found["forces"]["rmse"] == pytest.approx(stored["forces"]["rmse"], rel=1e-4)


def test_data_to_evaluate_on_must_be_given(file: Path, run: Run) -> None:
    code, _, err = run("eval", f"checkpoint={file}")
    assert code == 2
    for part in ("imported weights (somewhere else)", "no data of its own", "data=comp6 data.root=FOLDER"):
        assert part in err


def test_imported_weights_are_exported(trained: Path, file: Path, run: Run) -> None:
    assert run("export", f"checkpoint={file}")[0] == 0
    ours, original = (torch.jit.load(path) for path in (file.parent / "weights" / "model.pt", trained / "model.pt"))
    assert json.loads(ours.metadata)["origin"] == "somewhere else"
    for mine, theirs in zip(ours.golden, original.golden, strict=True):
        torch.testing.assert_close(mine["energy"], theirs["energy"])


def test_training_starts_from_given_weights(trained: Path, file: Path, run: Run, tmp_path: Path) -> None:
    """With a vanishing learning rate the run ends with its initial weights, E0 and scale included."""
    arguments = [*START, f"init_weights={file}", "optimizer.lr=1e-30", f"run_dir={tmp_path / 'r'}"]
    code, out, err = run("train", *arguments, "data/split=random")
    assert code == 0, err
    assert f"weights    {file}, with its E0" in out
    before, after = load(str(file)).potential.state_dict(), load(str(tmp_path / "r")).potential.state_dict()
    assert before.keys() == after.keys()
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=1e-6, atol=0)  # averaging rounds
    config = yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())
    assert config["init_weights"] == str(file)
    assert config["model"] == load(str(file)).record["config"]["model"]
    assert run("train", *arguments, "data/split=random")[1].startswith("this run was completed before")


def test_fine_tuning_moves_the_weights_of_a_run_and_keeps_e0(trained: Path, run: Run, tmp_path: Path) -> None:
    assert run("train", *START, f"init_weights={trained}", f"run_dir={tmp_path / 'r'}", "dtype=float64")[0] == 0
    before, after = load(str(trained)).potential, load(str(tmp_path / "r")).potential
    assert torch.equal(before.e0, after.e0)
    assert torch.equal(before.terms[0].scale, after.terms[0].scale)
    first, second = before.terms[0].readout.layers[0].weight, after.terms[0].readout.layers[0].weight
    assert second.dtype == torch.float64
    assert 0 < float((first - second).detach().abs().max()) < 0.1


def test_the_same_model_may_be_given(file: Path, run: Run) -> None:
    code, out, err = run("train", "--print-run-dir", "model=hiphop", "model.n_features=8", f"init_weights={file}")
    assert code == 0, err
    assert "tiny-hiphop-" in out


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["init_weights={file}", "model.n_features=9"], 2, ["model.n_features: stored 8, requested 9", "leave out"]),
        (["init_weights={file}", "model=hipnn"], 2, ["contains another model", "hipnn.HIPNN", "leave out model"]),
        (["init_weights={file}", "experiment=ani1x_hipnn"], 2, ["contains another model", "leave out experiment"]),
        (["init_weights=nowhere"], 4, ["nowhere does not exist", "init_weights=PATH"]),
        (["init_weights=3"], 4, ["3 does not exist"]),
        (["init_weights={trained}/config.yaml"], 4, ["cannot be read as a checkpoint"]),
        (["init_weights={file}", "resume={trained}"], 2, ["exclude each other"]),
        (["resume={file}"], 4, ["contains weights only", "init_weights={file}"]),
        (["resume=nowhere"], 4, ["nowhere does not exist", "resume=PATH"]),
    ],
)
def test_bad_start_is_refused_and_writes_nothing(
    arguments: list[str], code: int, parts: list[str], trained: Path, file: Path, run: Run, tmp_path: Path
) -> None:
    given = [argument.format(file=file, trained=trained) for argument in arguments]
    found, _, err = run("train", "trainer.accelerator=cpu", f"run_dir={tmp_path / 'r'}", *given)
    assert found == code
    assert err.startswith("error: ")
    for part in parts:
        assert part.format(file=file) in err
    assert not list(tmp_path.iterdir())


def test_networks_of_an_ensemble_get_numbers(trained: Path, tmp_path: Path) -> None:
    one = imported(trained)
    other = one._replace(weights={name: 2 * value for name, value in one.weights.items()})
    request = Request("neurochem", trained, tmp_path / "new" / "ani.ckpt", dtype="float64")
    files = store([one, other], request)
    assert files == [tmp_path / "new" / "ani-0.ckpt", tmp_path / "new" / "ani-1.ckpt"]
    assert sorted(files[0].parent.iterdir()) == files
    first, second = (load(str(file)).potential for file in files)
    torch.testing.assert_close(2 * first.e0, second.e0)
    assert first.terms[0].readout.layers[0].weight.dtype == torch.float64


def test_existing_files_stay_unless_forced(trained: Path, tmp_path: Path) -> None:
    one = imported(trained)
    (tmp_path / "ani-1.ckpt").write_text("precious")
    request = Request("neurochem", trained, tmp_path / "ani.ckpt")
    with pytest.raises(ConfigError, match=r"ani-1\.ckpt exists.*--force"):
        store([one, one], request)
    assert [path.name for path in tmp_path.iterdir()] == ["ani-1.ckpt"]
    store([one, one], Request("neurochem", trained, tmp_path / "ani.ckpt", force=True))
    assert load(str(tmp_path / "ani-1.ckpt")).record["origin"] == "somewhere else"


def test_nothing_is_left_half_written(trained: Path, tmp_path: Path) -> None:
    one = imported(trained)
    wrong = one._replace(weights={**one.weights, "e0": torch.zeros(1, 7)})
    with pytest.raises(DataError, match="the weights do not fit their model"):
        store([one, wrong], Request("neurochem", trained, tmp_path / "ani.ckpt"))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="cannot be written"):
        store([one], Request("neurochem", trained, Path("/proc/nowhere/ani.ckpt")))
    with pytest.raises(ConfigError, match="is a folder"):
        store([one], Request("neurochem", trained, tmp_path))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "FORMAT"),
        (["hipynn", "a", "b"], "choose from 'hippynn', 'neurochem'"),
        (["hippynn", "a", "b", "--dtype", "float16"], "float16"),
        (["hippynn", "a"], "OUTPUT"),
        (["neurochem", "a", "b", "--cutoff", "5"], "unrecognized arguments: --cutoff"),
    ],
)
def test_wrong_arguments_are_one_message(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run("import", arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert part in error
    assert "--help" in error
