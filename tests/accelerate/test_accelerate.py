"""`accelerate`: the same parameters and steps with and without, in any order of batch sizes; its report; refusals."""

import copy
import pickle
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from ase import Atoms
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hiphop_train import checkpoint, cli
from hiphop_train.accelerate import Part, accelerate, restore
from hiphop_train.commands.run_directory import run_name
from hiphop_train.config import load_config
from hiphop_train.errors import ConfigError
from hiphop_train.potential import Potential
from hiphop_train.types import Graph
from tests.accelerate.conftest import CPU
from tests.conftest import GraphOf, MakeAtoms, PotentialOf

NO_COMPILER = "no C compiler found (cc, gcc, clang); install gcc: apt install gcc libc6-dev"
PURPOSES = ["training", "inference", "export"]


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Compiler commands that are run from now on."""
    commands = []
    run = subprocess.run

    def watched(command: list[str], **options: Any) -> Any:
        commands.append(command)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", watched)
    return commands


def classes(potential: Potential) -> list[type]:
    return [type(module) for module in potential.modules()]


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-11, atol=1e-11, msg=key)


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


def test_same_steps(model_name: str, potential_of: PotentialOf, batches: list[Any]) -> None:
    plain, fast = (potential_of(model_name, group_norm=True) for _ in range(2))
    prepare = accelerate(fast, torch.float64, CPU, "training").prepare
    expected, found = train_steps(plain, batches[:5]), train_steps(fast, [prepare(graph) for graph in batches[:5]])
    assert found[0] == pytest.approx(expected[0], rel=1e-10)
    for forces, plain_forces in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(forces, plain_forces, rtol=1e-10, atol=1e-9)
    for (name, weight), plain_weight in zip(fast.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(weight, plain_weight, rtol=1e-10, atol=1e-10, msg=name)
    expected, found = plain.eval()(batches[-1], virial=True), fast.eval()(batches[-1], virial=True)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-10, atol=1e-9, msg=key)


def test_same_steps_in_single_precision(potential_of: PotentialOf, batches: list[Any]) -> None:
    graphs = [graph._replace(pair_vectors=graph.pair_vectors.float()) for graph in batches]
    results = []
    for choice in (False, True):
        potential = potential_of("hiphop", torch.float32, group_norm=True)
        accelerate(potential, torch.float32, CPU, "training", choice)
        results.append(train_steps(potential, graphs)[0])
    assert results[1] == pytest.approx(results[0], rel=1e-3)
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-5)


@pytest.mark.parametrize("purpose", PURPOSES)
def test_parameters_and_state_are_kept(model_name: str, purpose: Any, potential_of: PotentialOf, varied: Graph) -> None:
    """The same objects in the same order, under the same names; restored, so are all modules."""
    potential = potential_of(model_name)
    modules, parameters = list(potential.modules()), list(potential.named_parameters())
    buffers, state, outputs = list(potential.named_buffers()), list(potential.state_dict()), potential(varied)
    report = accelerate(potential, torch.float64, CPU, purpose)
    assert report.parts or list(potential.modules()) == modules
    for found, expected in ((potential.named_parameters(), parameters), (potential.named_buffers(), buffers)):
        assert [(name, id(tensor)) for name, tensor in found] == [(name, id(tensor)) for name, tensor in expected]
    assert list(potential.state_dict()) == state
    assert_same(potential(varied), outputs)
    restore(potential)
    assert [id(module) for module in potential.modules()] == [id(module) for module in modules]
    assert list(potential.state_dict()) == state


def test_repeated_calls_equal_one(model_name: str, potential_of: PotentialOf, varied: Graph) -> None:
    """Each call starts from the plain modules, whatever the purpose of the one before."""
    potential, once = potential_of(model_name), potential_of(model_name)
    plain = classes(potential)
    for purpose in (*PURPOSES, "inference"):
        again = accelerate(potential, torch.float64, CPU, purpose)
    expected = accelerate(once, torch.float64, CPU, "inference")
    assert again.parts == expected.parts
    assert classes(potential) == classes(once)
    assert_same(potential(varied), once(varied))
    restore(potential)
    restore(potential)
    assert classes(potential) == plain


def test_copies(model_name: str, potential_of: PotentialOf, varied: Graph) -> None:
    """Copies are accelerated, have parameters of their own, and can be restored; pickled ones too."""
    potential = potential_of(model_name)
    accelerate(potential, torch.float64, CPU, "training")
    expected = potential(varied)
    for copied in (copy.deepcopy(potential), pickle.loads(pickle.dumps(potential))):
        assert classes(copied) == classes(potential)
        with torch.no_grad():
            for parameter in copied.parameters():
                parameter.mul_(1.5)
        found = copied(varied)
        assert not torch.allclose(found["energy"], expected["energy"])
        restore(copied)
        assert_same(copied(varied), found)  # whose plain modules hold the copied parameters
    assert_same(potential(varied), expected)


def test_moving_average(model_name: str, potential_of: PotentialOf, varied: Graph) -> None:
    potential = potential_of(model_name)
    accelerate(potential, torch.float64, CPU, "training")
    average = AveragedModel(potential, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    average.update_parameters(potential)
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.mul_(1.1)
    average.update_parameters(potential)
    plain = potential_of(model_name)
    plain.load_state_dict(average.module.state_dict())
    assert_same(average(varied), plain(varied))
    restore(average.module)
    assert_same(average(varied), plain(varied))


@pytest.mark.parametrize("is_restored", [True, False], ids=["after restore", "before"])
def test_conversion_covers_all_parameters(
    model_name: str, is_restored: bool, potential_of: PotentialOf, varied: Graph
) -> None:
    """Buffers among them, which are replaced."""
    potential, plain = potential_of(model_name), potential_of(model_name).float()
    accelerate(potential, torch.float64, CPU, "inference")
    if is_restored:
        restore(potential)
    potential.float()
    restore(potential)
    single = varied._replace(pair_vectors=varied.pair_vectors.float())
    for key, value in plain(single).items():
        # not to the last bit: torch.matmul goes other ways where no gradient is wanted
        torch.testing.assert_close(potential(single)[key], value, rtol=2e-5, atol=2e-5)


def test_prepare_can_be_sent_to_other_processes(model_name: str, potential_of: PotentialOf, varied: Graph) -> None:
    """Adds extras and nothing else, equal ones in another process, and the numbers are those without."""
    potential = potential_of(model_name)
    prepare = accelerate(potential, torch.float64, CPU, "training").prepare
    sent = pickle.loads(pickle.dumps(prepare))
    assert sent == prepare
    prepared, again = prepare(varied), sent(varied)
    assert prepared._replace(extras=varied.extras) == varied
    assert varied.extras == {}
    assert prepared.extras.keys() == again.extras.keys()
    assert all(torch.equal(value, again.extras[key]) for key, value in prepared.extras.items())
    assert_same(potential(prepared), potential(varied))


def test_one_compilation_for_all_sizes(
    potential_of: PotentialOf, batches: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compilations: Any
) -> None:
    """One library for all layers' parts of one kind; steps and another start compile nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    potential = potential_of("hiphop", n_interactions=3, group_norm=True)
    first = accelerate(potential, torch.float64, CPU, "training", True)
    assert len([command for command in compilations if "-shared" in command]) == 5
    assert first.compiled.startswith("5 libraries compiled in ")
    assert str(first).endswith(f" ({first.compiled})")
    compilations.clear()
    assert len({len(graph.pair_i) for graph in batches}) > 8
    train_steps(potential, batches)
    assert compilations == []
    again = accelerate(potential_of("hiphop", group_norm=True), torch.float64, CPU, "training", True)
    assert again.compiled == ""
    assert again.parts == first.parts
    assert not [command for command in compilations if "-shared" in command]


def parts(potential: Potential, *settings: Any) -> dict[str, Part]:
    return {part.part: part for part in accelerate(potential, torch.float32, *settings).parts}


def test_report(potential_of: PotentialOf) -> None:
    """What was chosen, once for all layers, and why nothing faster."""
    hiphop = potential_of("hiphop", torch.float32, n_interactions=2, group_norm=True)
    of_training, of_inference, of_export = (parts(hiphop, CPU, purpose) for purpose in PURPOSES)
    assert {name: part.chosen for name, part in of_training.items()} == {
        "convolutions": "neighbour tables, C where not differentiated twice",
        "scalars": "in blocks of atoms",
        "invariants": "C",
        "group norm": "C",
    }
    assert set(of_inference) == {*of_training, "sensitivities"}
    assert all(not part.why_not for part in (*of_training.values(), *of_inference.values()))
    assert of_export["convolutions"].chosen == "scripted neighbour tables"
    assert of_export["invariants"].chosen == "scripted program"
    assert str(accelerate(potential_of("dtnn"), torch.float64, CPU, "training")) == "plain modules"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ((torch.device("cuda"), "training"), "C runs on CPUs, not on cuda"),
        ((CPU, "training", False), "no C: trainer.compile=false"),
        ((CPU, "inference", False, "full", "bench.compile"), "no C: bench.compile=false"),
    ],
)
def test_reasons(settings: Sequence[Any], reason: str, potential_of: PotentialOf) -> None:
    potential = potential_of("hiphop", torch.float32, group_norm=True)
    report = accelerate(potential, torch.float32, *settings)
    for name in ("convolutions", "invariants", "group norm"):
        (part,) = [part for part in report.parts if part.part == name]
        assert part.why_not == reason
        assert part.chosen != "C"
    assert str(report).endswith(f" ({reason})")


def test_reason_of_widths(potential_of: PotentialOf) -> None:
    found = parts(potential_of("hiphop", torch.float32, n_features=24), CPU, "training")
    assert found["convolutions"] == Part("convolutions", "neighbour tables", "n_features=24 is not a multiple of 16")
    assert found["invariants"] == Part("invariants", "C", "")


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler(model_name: str, potential_of: PotentialOf, varied: Graph) -> None:
    """Everything runs; where C is required, the refusal leaves the plain modules' numbers."""
    potential, plain = potential_of(model_name), potential_of(model_name)
    report = accelerate(potential, torch.float64, CPU, "inference")
    assert {part.why_not for part in report.parts} <= {"", NO_COMPILER}
    assert_same(potential(varied, virial=True), plain(varied, virial=True))
    if NO_COMPILER in str(report):
        with pytest.raises(ConfigError) as refused:
            accelerate(potential, torch.float64, CPU, "training", True)
        message = f"trainer.compile=true: {NO_COMPILER}; or set trainer.compile=auto, which falls back to PyTorch"
        assert str(refused.value) == message
    else:
        accelerate(potential, torch.float64, CPU, "training", True)
    assert_same(potential(varied), plain(varied))


def test_failing_compiler(potential_of: PotentialOf, monkeypatch: pytest.MonkeyPatch, varied: Graph) -> None:
    monkeypatch.setenv("CC", "false")
    potential, plain = potential_of("hiphop"), potential_of("hiphop")
    report = accelerate(potential, torch.float64, CPU, "inference")
    assert "false fails: exit code 1" in str(report)
    assert_same(potential(varied), plain(varied))
    with pytest.raises(ConfigError, match=r"^trainer\.compile=true: false fails: exit code 1; or set"):
        accelerate(potential, torch.float64, CPU, "training", True)


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
def test_runs_resume_with_and_without(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Checkpoints of runs with C resume without, and vice versa; both end with the same weights."""
    common = [
        "debug=fast",
        "pictures=false",
        "trainer.accelerator=cpu",
        "model.n_features=16",
        "model.group_norm=true",
        "dtype=float64",
    ]

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
    assert "C where not differentiated twice" in said["true"]
    assert "no C: trainer.compile=false" in said["false"]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-9, atol=1e-11, msg=name)


def test_refusal_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    command = [
        "debug=fast",
        "pictures=false",
        "trainer.accelerator=cpu",
        "trainer.compile=true",
        f"run_dir={tmp_path / 'run'}",
    ]
    assert cli.run("train", command) == 2
    assert "trainer.compile=true: no C compiler found" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
