"""Each sentence of docs/security.md that promises something, shown: `SENTENCES` maps its tests to it."""

import io
import os
import pickle
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from hiphop_train import HipHopCalculator, checkpoint, files, stored
from hiphop_train.accelerate import compiler
from hiphop_train.errors import CheckpointError, HipHopError
from tests.commands.conftest import FAST, Run

DOCS = Path(__file__).parents[2] / "docs" / "security.md"
SENTENCES = {
    "test_a_record_runs_no_foreign_code": "A `_target_` in a checkpoint's record names a model, a readout or a part of",
    "test_trust_is_explicit": "`HIPHOP_TRUST=my_package`",
    "test_pickles_run_nothing": "Checkpoints are read with torch's restricted reader",
    "test_crafted_records_are_one_sentence": "A record that hiphop-train has not written is refused in one sentence",
    "test_data_files_run_nothing": "Data files are numbers",
    "test_files_of_other_libraries_are_not_opened": "Files of mace-torch and nequip are pickles, which `hiphop-import`",
    "test_a_configuration_of_ones_own_is_ones_own_code": "What you write yourself, on the command line",
    "test_an_exported_file_has_no_python": "An exported `model.pt` is a TorchScript program",
    "test_libraries_of_others_are_not_loaded": "Compiled kernels are loaded only from a folder",
    "test_a_changed_library_is_built_again": "and only while their SHA-256 is the one stored",
    "test_the_cache_is_where_it_should_be": "An empty or relative `XDG_CACHE_HOME` counts as unset",
    "test_written_files_name_no_secret": "Nothing of your environment is written",
}


@pytest.mark.parametrize("name", SENTENCES)
def test_each_promise_has_its_test(name: str) -> None:
    assert SENTENCES[name] in " ".join(DOCS.read_text().split())
    assert name in globals()


@pytest.fixture
def crafted(trained: Path, tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], None]], Path]:
    """Return a function that changes a good checkpoint and seals it, as a stranger would."""

    def craft(change: Callable[[dict[str, Any]], None]) -> Path:
        content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
        change(content)
        path = tmp_path / "stranger" / "checkpoints" / "best.ckpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(checkpoint.to_bytes(content))
        return path

    return craft


FOREIGN: list[dict[str, Any]] = [
    {"_target_": "torch.load", "f": "evil.pt", "weights_only": False},
    {"_target_": "numpy.load", "file": "evil.npy", "allow_pickle": True},
    {"_target_": "pandas.read_pickle", "filepath_or_buffer": "evil.pkl"},
    {"_target_": "urllib.request.urlretrieve", "url": "file:///etc/passwd", "filename": "stolen"},
    {"_target_": "os.mkdir", "path": "stolen"},
    {"_target_": "subprocess.run", "args": ["touch", "stolen"]},
    {"_target_": "hiphop_train.accelerate.compiler._output_of", "command": ["touch", "stolen"]},
    {"_target_": "hiphop_train.cli.run", "name": "train", "arguments": []},
    {"_target_": "hiphop_train.models.hipnn.torch.load", "f": "evil.pt"},
    {"_target_": "hiphop_train.data.module.DataModule"},
    {"_target_": "hydra.utils.get_object", "path": "os.system"},
    {"_target_": ["os.mkdir"], "path": "stolen"},
    {"_target_": None},
]


@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda foreign: str(foreign["_target_"]))
@pytest.mark.parametrize("place", ["model", "readout", "argument"])
def test_a_record_runs_no_foreign_code(
    foreign: dict[str, Any],
    place: str,
    crafted: Callable[[Callable[[dict[str, Any]], None]], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def change(content: dict[str, Any]) -> None:
        config = content["hiphop_train"]["config"]
        if place == "model":
            config["model"] = {**foreign, "readout": config["model"]["readout"]}
        else:
            config["model"]["readout" if place == "readout" else "n_features"] = foreign

    path = crafted(change)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=r"names|is no section"):
        checkpoint.load(str(path))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("key", ["_partial_", "_args_", "_convert_", "_recursive_"])
def test_keys_of_hydra_are_refused(key: str, crafted: Callable[[Callable[[dict[str, Any]], None]], Path]) -> None:
    path = crafted(lambda content: content["hiphop_train"]["config"]["model"].update({key: True}))
    with pytest.raises(CheckpointError, match=f"has the key '{key}'"):
        checkpoint.load(str(path))


def test_every_entry_refuses_a_strangers_checkpoint(
    crafted: Callable[[Callable[[dict[str, Any]], None]], Path], tmp_path: Path, run: Run
) -> None:
    marker = tmp_path / "stolen"
    foreign = {"_target_": "os.mkdir", "path": str(marker)}
    path = crafted(lambda content: content["hiphop_train"]["config"]["model"].update(readout=foreign))
    commands = [
        ("eval", f"checkpoint={path}"),
        ("export", f"checkpoint={path}"),
        ("train", *FAST, f"init_weights={path}", f"run_dir={tmp_path / 'r'}"),
        ("train", *FAST, f"resume={path}", f"run_dir={tmp_path / 'r'}"),
        ("bench", f"checkpoint={path}", "water=[5]"),
        ("compare", str(path.parents[1])),
    ]
    for command, *arguments in commands:
        code, _, err = run(command, *arguments)
        assert code in (2, 3, 4), (command, arguments, err)
        assert "Traceback" not in err
        assert not marker.exists(), (command, arguments)
    with pytest.raises(HipHopError):
        HipHopCalculator(str(path))
    assert not marker.exists()


def test_the_data_of_a_record_run_no_foreign_code(
    crafted: Callable[[Callable[[dict[str, Any]], None]], Path], tmp_path: Path, run: Run
) -> None:
    marker = tmp_path / "stolen"
    foreign = {"_target_": "os.mkdir", "path": str(marker)}
    path = crafted(lambda content: content["hiphop_train"]["config"]["data"].update(reader=foreign))
    code, _, err = run("eval", f"checkpoint={path}")
    assert code == 4
    assert "data.reader._target_ names 'os.mkdir'" in err
    assert not marker.exists()


def test_trust_is_explicit(
    crafted: Callable[[Callable[[dict[str, Any]], None]], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A readout of one's own package: refused, and named with the remedy; loaded with it."""
    (tmp_path / "my_package.py").write_text(
        "from hiphop_train.readout.hierarchical import HierarchicalEnergy\nclass Mine(HierarchicalEnergy): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = crafted(
        lambda content: content["hiphop_train"]["config"]["model"]["readout"].update(_target_="my_package.Mine")
    )
    with pytest.raises(CheckpointError, match="HIPHOP_TRUST=my_package before"):
        checkpoint.load(str(path))
    assert "my_package" not in sys.modules
    assert checkpoint.load(str(path), ["my_package.Mine"])
    monkeypatch.setenv(stored.TRUST, "other,my_package")
    assert checkpoint.load(str(path))


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_pickles_run_nothing(
    crafted: Callable[[Callable[[dict[str, Any]], None]], Path], tmp_path: Path, run: Run
) -> None:
    marker = tmp_path / "stolen"
    raw = tmp_path / "raw.ckpt"
    raw.write_bytes(pickle.dumps(Bomb(marker)))
    for path in (crafted(lambda content: content.update(more=Bomb(marker))), raw):
        code, _, err = run("eval", f"checkpoint={path}")
        assert code == 4
        assert "cannot be read as a checkpoint" in err
        assert not marker.exists()


@pytest.mark.parametrize("library", ["mace", "nequip", "allegro", "hippynn"])
def test_files_of_other_libraries_are_not_opened(library: str, tmp_path: Path, run: Run) -> None:
    marker = tmp_path / "stolen"
    torch.save(Bomb(marker), tmp_path / "library.model")
    code, _, err = run("import", library, str(tmp_path / "library.model"), str(tmp_path / "out.ckpt"))
    assert code == 3
    assert err.startswith("error: ")
    assert "can run any code" in err
    assert [path.name for path in tmp_path.iterdir()] == ["library.model"]


CRAFTED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "config a string": lambda content: content["hiphop_train"].update(config="x"),
    "no config": lambda content: content["hiphop_train"].pop("config"),
    "model a list": lambda content: content["hiphop_train"]["config"].update(model=[1]),
    "data a number": lambda content: content["hiphop_train"]["config"].update(data=3),
    "version two": lambda content: content["hiphop_train"].update(version="two"),
    "version null": lambda content: content["hiphop_train"].update(version=None),
    "version 99": lambda content: content["hiphop_train"].update(version=99),
    "version 1": lambda content: content["hiphop_train"].update(version=1, config=None),
    "levels null": lambda content: content["hiphop_train"].update(levels=None),
    "levels empty": lambda content: content["hiphop_train"].update(levels=[]),
    "dtype": lambda content: content["hiphop_train"]["config"].update(dtype="float128"),
    "state a list": lambda content: content.update(state_dict=[1, 2]),
    "state of texts": lambda content: content.update(state_dict={"potential.e0": "x"}),
    "state empty": lambda content: content.update(state_dict={}),
    "record a list": lambda content: content.update(hiphop_train=[]),
    "elements": lambda content: content["hiphop_train"]["config"]["model"].update(elements=["Xx"]),
    "elements a number": lambda content: content["hiphop_train"]["config"]["model"].update(elements=7),
    "features a text": lambda content: content["hiphop_train"]["config"]["model"].update(n_features="many"),
    "features huge": lambda content: content["hiphop_train"]["config"]["model"].update(n_features=10**13),
    "unknown argument": lambda content: content["hiphop_train"]["config"]["model"].update(colour="red"),
    "interpolation": lambda content: content["hiphop_train"]["config"]["model"].update(n_features="${oc.env:HOME}"),
}


@pytest.mark.parametrize("change", CRAFTED)
def test_crafted_records_are_one_sentence(
    change: str, crafted: Callable[[Callable[[dict[str, Any]], None]], Path], run: Run
) -> None:
    code, _, err = run("eval", f"checkpoint={crafted(CRAFTED[change])}")
    assert code == 4, err
    assert err.startswith("error: ")
    assert "Traceback" not in err


@pytest.mark.parametrize("length", [0, 1, 100, 70_000])
def test_random_bytes_are_no_checkpoint(length: int, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "random.ckpt"
    path.write_bytes(np.random.default_rng(length).bytes(length))
    code, _, err = run("eval", f"checkpoint={path}")
    assert code == 4
    assert err.startswith("error: ")


def test_data_files_run_nothing(tmp_path: Path, run: Run) -> None:
    marker = tmp_path / "stolen"
    bomb = np.array([Bomb(marker)], dtype=object)
    np.savez(tmp_path / "a.npz", z=np.array([1]), R=bomb, E=bomb, F=bomb, allow_pickle=True)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["CH4/atomic_numbers"] = np.void(pickle.dumps(Bomb(marker)))
    (tmp_path / "a.xyz").write_text(
        f"1\nProperties=species:S:1:pos:R:3 energy=\"_JSON __import__('os').mkdir('{marker}')\"\nH 0 0 0\n"
    )
    (tmp_path / "a.yaml").write_text(f"x: !!python/object/apply:os.mkdir ['{marker}']\n")
    arguments = [
        ["data=rmd17", f"data.path={tmp_path / 'a.npz'}"],
        ["data=ani1x", f"data.path={tmp_path / 'a.h5'}"],
        ["data=extxyz", f"data.path={tmp_path / 'a.xyz'}"],
        [f"data.split.path={tmp_path / 'a.npz'}", "data/split=stored"],
        [f"data={tmp_path / 'a.yaml'}"],
    ]
    for given in arguments:
        code, _, err = run("train", *FAST, f"run_dir={tmp_path / 'run'}", *given)
        assert code in (2, 3), err
        assert "Traceback" not in err
        assert not marker.exists()


def test_a_configuration_of_ones_own_is_ones_own_code(tmp_path: Path) -> None:
    """A class of one's own trains, is evaluated and exported within the run, without any trust."""
    (tmp_path / "my_package.py").write_text(
        "from hiphop_train.readout.hierarchical import HierarchicalEnergy\nclass Mine(HierarchicalEnergy): pass\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "hiphop_train.cli", *FAST, "model=hipnn"]
    command += ["model.readout._target_=my_package.Mine", f"run_dir={tmp_path / 'run'}"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "run" / "model.pt").is_file()


def test_an_exported_file_has_no_python(trained: Path) -> None:
    """It has code of TorchScript and tensors; torch's reader knows no other functions than its own operators."""
    with zipfile.ZipFile(trained / "model.pt") as archive:
        pickles = [archive.read(name) for name in archive.namelist() if name.endswith(".pkl")]
        code = [archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")]
    assert code
    assert not any(word in text for text in code for word in ("import ", "os.system", "exec(", "eval("))
    for content in pickles:  # names of classes: of the program itself, of torch
        names = {line.split()[0] for line in content.split(b"c")[1:] if b"\n" in line and line.split()}
        assert not any(name in (b"os", b"posix", b"builtins", b"subprocess") for name in names)


def _without_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


def test_libraries_of_others_are_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _without_user(tmp_path, monkeypatch)
    folder = tmp_path / "hiphop-train" / "kernels"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(compiler.CompilationError, match="writable by others"):
        compiler.cache_folder()
    folder.chmod(0o700)
    monkeypatch.setattr(os, "getuid", lambda: os.stat(folder).st_uid + 1)
    with pytest.raises(compiler.CompilationError, match="belongs to another user"):
        compiler.cache_folder()


def test_a_changed_library_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _without_user(tmp_path, monkeypatch)
    source = tmp_path / "one.c"
    source.write_text("int one(int threads) { return 1; }\n")

    def build() -> tuple[Path, bool]:
        library, is_new = compiler.compile_library("one.c", torch.float64, {}, sources=tmp_path)
        return library.file, is_new

    file, is_new = build()
    assert is_new
    assert not build()[1]
    assert stat.S_IMODE(file.stat().st_mode) == 0o700
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        other = file.with_name("other")  # a loaded library is never overwritten in place
        other.write_bytes(content)
        other.replace(file)
        assert build() == (file, True)
        assert file.read_bytes() == whole


@pytest.mark.parametrize("value", ["", "relative/cache", None])
def test_the_cache_is_where_it_should_be(value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    if value is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert compiler.cache_folder() == tmp_path / ".cache" / "hiphop-train" / "kernels"


def test_written_files_name_no_secret(tmp_path: Path) -> None:
    environment = {**os.environ, "WANDB_API_KEY": "s3cretw0rd", "WANDB_MODE": "disabled", "OTHER": "s3cretw0rd"}
    command = [sys.executable, "-m", "hiphop_train.cli", *FAST, "model=hipnn", f"run_dir={tmp_path / 'run'}"]
    subprocess.run(command, env=environment, check=True, timeout=120, capture_output=True)
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(io.BytesIO(content)) as archive:
                    content += b"".join(map(archive.read, archive.namelist()))
            assert b"s3cretw0rd" not in content, path
    assert files.damage(tmp_path / "run" / "model.pt") is None
