"""trainer.compile: the same steps with and without, in any order of batch sizes, one compilation, clear refusals."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from ase import Atoms
from hiphop_train.compilation import compile_potential
from torch import Tensor

from hiphop_train import checkpoint, cli
from hiphop_train.commands.run_directory import run_name
from hiphop_train.config import load_config
from hiphop_train.errors import ConfigError
from hiphop_train.potential import Potential
from tests.conftest import GraphOf, MakeAtoms, PotentialOf

CPU = torch.device("cpu")


def train_steps(potential: Potential, batches: Sequence[Any]) -> tuple[list[float], list[Tensor]]:
    """Losses and forces of Adam's steps, one per batch."""
    optimizer = torch.optim.Adam(potential.train().parameters(), lr=1e-3)
    losses, forces = [], []
    for graph in batches:
        outputs = potential(graph)
        loss = outputs["energy"].square().mean() * 1e-4 + (outputs["forces"] - 0.1).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        forces.append(outputs["forces"].detach())
    return losses, forces


@pytest.fixture(scope="module")
def batches(mixed_structures: list[Atoms], make_molecule: MakeAtoms, graph_of: GraphOf) -> list[Any]:
    """Graphs of different numbers of atoms, pairs and structures."""
    groups = [mixed_structures, [make_molecule(9, seed=7)], mixed_structures[2:3], mixed_structures[:4]]
    groups += [[make_molecule(n, seed=n)] * (12 - n) for n in range(2, 11)]
    return [graph_of(group) for group in groups]


def test_same_steps_compiled_and_not(model_name: str, potential_of: PotentialOf, batches: list[Any]) -> None:
    plain, compiled = potential_of(model_name, group_norm=True), potential_of(model_name, group_norm=True)
    keys = list(plain.state_dict())
    said = compile_potential(compiled, "auto", torch.float64, CPU)
    assert said.startswith("yes" if model_name.startswith("hip") else "no: nothing in this model")
    assert list(compiled.state_dict()) == keys
    expected, found = train_steps(plain, batches[:5]), train_steps(compiled, batches[:5])
    assert found[0] == pytest.approx(expected[0], rel=1e-10)
    for forces, plain_forces in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(forces, plain_forces, rtol=1e-10, atol=1e-9)
    for (name, weight), plain_weight in zip(compiled.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(weight, plain_weight, rtol=1e-10, atol=1e-10, msg=name)
    for potential in (plain, compiled):
        potential.eval()
    for key, value in plain(batches[-1], virial=True).items():
        torch.testing.assert_close(compiled(batches[-1], virial=True)[key], value, rtol=1e-10, atol=1e-9, msg=key)


def test_same_steps_in_single_precision(potential_of: PotentialOf, batches: list[Any]) -> None:
    graphs = [graph._replace(pair_vectors=graph.pair_vectors.float()) for graph in batches]
    results = []
    for choice in (False, True):
        potential = potential_of("hiphop", torch.float32, group_norm=True)
        compile_potential(potential, choice, torch.float32, CPU)
        results.append(train_steps(potential, graphs)[0])
    assert results[1] == pytest.approx(results[0], rel=1e-3)
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-5)


def test_one_compilation_for_all_sizes(
    potential_of: PotentialOf, batches: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One library for all layers' parts of one kind; the second start compiles nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    commands = []
    run = subprocess.run

    def watched(command: list[str], **options: Any) -> Any:
        commands.append(command)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", watched)
    potential = potential_of("hiphop", n_interactions=3, n_features=16, group_norm=True)
    started = time.perf_counter()
    assert compile_potential(potential, True, torch.float64, CPU).startswith("yes: ")
    first = time.perf_counter() - started
    assert len([command for command in commands if "-shared" in command]) == 5
    commands.clear()
    assert len({len(graph.pair_i) for graph in batches}) > 8
    train_steps(potential, batches)
    assert commands == []
    again = potential_of("hiphop", n_features=16, group_norm=True)
    started = time.perf_counter()
    assert compile_potential(again, True, torch.float64, CPU).startswith("yes: cached")
    assert time.perf_counter() - started < 0.7 * first
    assert not [command for command in commands if "-shared" in command]


def test_without_a_compiler(potential_of: PotentialOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    said = compile_potential(potential_of("hiphop"), "auto", torch.float32, CPU)
    assert said == "no: no C compiler found (cc, gcc, clang); install gcc: apt install gcc libc6-dev"
    with pytest.raises(
        ConfigError, match=r"^trainer.compile=true: no C compiler found .* install gcc.* leave it at auto"
    ):
        compile_potential(potential_of("hiphop"), True, torch.float32, CPU)
    assert compile_potential(potential_of("dtnn"), True, torch.float32, CPU).startswith("no: nothing in this model")
    assert compile_potential(potential_of("hiphop"), False, torch.float32, CPU) == "no: trainer.compile=false"


def test_on_another_device(potential_of: PotentialOf) -> None:
    said = compile_potential(potential_of("hiphop"), "auto", torch.float32, torch.device("cuda"))
    assert said == "no: what is compiled runs on CPUs, not on cuda"


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("trainer.compile=maybe", ["trainer.compile: got 'maybe'", "'auto'", "True", "False"]),
        ("trainer.compiled=true", ["unknown key 'compiled'", "did you mean 'compile'?"]),
    ],
)
def test_wrong_settings(override: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("train", [override])
    assert all(part in str(caught.value) for part in parts)


def test_setting_does_not_define_a_run() -> None:
    names = {run_name(load_config("train", [f"trainer.compile={choice}"])) for choice in ("auto", "true", "false")}
    assert len(names) == 1


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # each part has a directory of its own
def test_runs_go_on_with_and_without(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Checkpoints of compiled runs serve others and the other way round; the end of both is the same."""
    common = ["debug=fast", "trainer.accelerator=cpu", "model.n_features=8", "model.group_norm=true", "dtype=float64"]

    def run(name: str, *more: str) -> tuple[dict[str, Tensor], str]:
        capfd.readouterr()
        assert cli.run("train", [*common, f"run_dir={tmp_path / name}", *more]) == 0
        assert (tmp_path / name / "model.pt").is_file()
        return checkpoint.read(tmp_path / name / "checkpoints" / "last.ckpt")["state_dict"], capfd.readouterr().out

    longer = ["trainer.max_epochs=2"]
    said = {}
    for choice in ("true", "false"):
        said[choice] = run(choice, f"trainer.compile={choice}")[1]
    states = [
        run(f"{choice}-{other}", f"trainer.compile={other}", f"resume={tmp_path / choice}", *longer)[0]
        for choice, other in (("true", "false"), ("false", "true"))
    ]
    assert "compile    yes: " in said["true"]
    assert "compile    no: trainer.compile=false" in said["false"]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-9, atol=1e-11, msg=name)


def test_refusal_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    command = ["debug=fast", "trainer.accelerator=cpu", "trainer.compile=true", f"run_dir={tmp_path / 'run'}"]
    assert cli.run("train", command) == 2
    assert "trainer.compile=true: no C compiler found" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
