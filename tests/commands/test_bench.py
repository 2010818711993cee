"""hiphop-bench on tiny systems."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from ase.build import molecule
from ase.io import write

from hiphop_train.benchmark import measure, rounds, settings, systems
from tests.commands.conftest import Run

TINY = ["model.n_features=8", "model.n_sensitivities=6", "rounds=2", "threads=1", "device=cpu", "batch_size=3"]


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "PERIOD", 5.0)


@pytest.fixture
def ethanol(tmp_path: Path) -> Path:
    file = tmp_path / "ethanol.xyz"
    write(file, molecule("CH3CH2OH"))
    return file


@pytest.mark.slow
def test_compared_with_hippynn_and_the_exported_file(run: Run, tmp_path: Path, ethanol: Path) -> None:
    output = tmp_path / "out.json"
    arguments = ["water=[24,96]", f"structures=[{ethanol}]", "against=[hippynn,exported,ase]"]
    code, out, err = run("bench", *TINY, *arguments, "peers.hippynn.kernels=pytorch", f"output={output}")
    assert code == 0, err
    found: dict[str, Any] = json.loads(output.read_text())
    assert found["complete"] is True
    assert found["same_weights"] == ["ase", "exported", "hippynn"]
    assert [(row["system"], row["atoms"]) for row in found["md"]] == [("ethanol", 9), ("water", 24), ("water", 96)]
    for row in found["md"]:
        assert 0 < row["differences"]["hippynn"]["forces"] < 1e-4
        assert row["differences"]["exported"]["forces"] < 1e-4
        assert row["differences"]["ase"]["forces"] < 1e-4
        assert set(row["programs"]["ase"]) == {"included"}
        assert set(row["programs"]["ours"]) == {"excluded", "included"}
        assert set(row["programs"]["hippynn"]) == {"excluded"}
        for variants in row["programs"].values():
            for times in variants.values():
                assert len(times["rounds"]) == 2
                assert 0 < times["lowest"] <= times["median"] <= times["highest"]
        theirs, ours = (row["programs"][name]["excluded"]["rounds"] for name in ("hippynn", "ours"))
        ratios = sorted(a / b for a, b in zip(theirs, ours, strict=True))
        assert row["ratios"]["hippynn"]["excluded"]["lowest"] == pytest.approx(ratios[0], rel=1e-3)
        assert set(row["ratios"]["exported"]) == {"excluded", "included"}
    peaks = [row["programs"]["ours"]["included"]["peak_bytes"] for row in found["md"]]
    assert peaks[0] < peaks[2]
    assert found["scaling"]["ours"]["included"]["points"] == 2
    steps = found["training"]
    assert steps["batch"] == {"structures": 3, "atoms": 45, "source": "methoxyethane and water"}
    assert set(steps["programs"]) == {"ours", "hippynn"}
    assert steps["differences"]["hippynn"]["forces"] < 1e-4
    rate = steps["throughput"]
    ratio = rate["atoms_per_second"]["median"] / rate["conformations_per_second"]["median"]
    assert ratio == pytest.approx(15.0, rel=1e-3)
    parts = found["breakdown"]["training"]["milliseconds"]
    assert {"loader", "neighbours", "forward", "force", "loss", "backward", "optimiser", "sync"} <= set(parts)
    assert set(found["breakdown"]["water, 96 atoms"]["milliseconds"]) == {"neighbours", "vectors", "forward", "force"}
    assert output.with_suffix(".png").stat().st_size > 10_000
    assert "ratio to ours" in out
    assert "breakdown of a step" in out


def test_own_data_and_default_output(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TOP_PAD_", "65536")
    monkeypatch.chdir(tmp_path)
    code, _, err = run("bench", *TINY, "model=hipnn", "data=tiny", "data.batch_size=5", "measure=[training,breakdown]")
    assert code == 0, err
    (file,) = (tmp_path / "bench").glob("hipnn-*.json")
    found = json.loads(file.read_text())
    assert found["training"]["batch"]["structures"] == 5
    assert "md" not in found
    assert found["machine"]["environment"]["MALLOC_TOP_PAD_"] == "65536"
    assert not list((tmp_path / "bench").glob("*.png"))


def test_run_and_exported_file(trained: Path, run: Run, tmp_path: Path) -> None:
    common = ["rounds=1", "threads=1", "water=[24]", f"output={tmp_path / 'out.json'}"]
    code, _, err = run("bench", f"checkpoint={trained}", *common, "measure=[md]", "against=[exported,hippynn]",
                       "peers.hippynn.kernels=pytorch")  # fmt: skip
    assert code == 0, err
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["model"]["n_features"] == 8
    for name in ("exported", "hippynn"):  # with E0 and the scale of the training
        assert found["md"][0]["differences"][name]["forces"] < 1e-4
        assert found["md"][0]["differences"][name]["energy"] < 1e-5
    assert found["md"][0]["ratios"]["hippynn"]["excluded"]["median"] > 0

    code, out, err = run("bench", f"checkpoint={trained}/model.pt", *common)
    assert code == 0, err
    assert "left out   training, breakdown" in out
    found = json.loads((tmp_path / "out.json").read_text())
    assert "TorchScript" in found["programs"]["ours"]["version"]
    assert "training" not in found


def test_lack_of_memory_is_reported(run: Run, tmp_path: Path) -> None:
    arguments = ["water=[24,15000]", "measure=[md]", "rounds=1", "memory_limit=0.1", f"output={tmp_path / 'out.json'}"]
    code, out, err = run("bench", *TINY, *arguments)
    assert code == 0, err
    assert "does not fit in memory" in out
    small, large = json.loads((tmp_path / "out.json").read_text())["md"]
    assert small["programs"]["ours"]["included"]["median"] > 0
    assert large["programs"]["ours"]["included"] == {"problem": "does not fit in memory"}


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["against=[hipynn]"], 2, "did you mean 'hippynn'"),
        (["against=[hippynn,hippynn]"], 2, "hippynn is given twice"),
        (["against=[mace]", "peers.mace.python=/nowhere/python"], 2, "no such program"),
        (["peers.mace.sise=large"], 2, "did you mean 'size'"),
        (["peers.mace.size=huge"], 2, "'small', 'medium' or 'large'"),
        (["water=[100]"], 2, "nearest: 99"),
        (["structures=[nowhere.pdb]"], 2, "nowhere.pdb does not exist"),
        (["structures=[{ethanol}]", "model.elements=[H,C]"], 2, "ethanol contains O, which the model does not support"),
        (["rounds=0"], 2, "greater than 0"),
        (["memory_limit=-1"], 2, "greater than 0"),
        (["measure=[speed]"], 2, "'md', 'training' or 'breakdown'"),
        (["measure=[]"], 2, "nothing to measure"),
        (["loss.stress.rmse=1"], 2, "loss.stress: training steps are timed with energies and forces only"),
        (["measure=[md]"], 2, "structures=[FILES] or water=[N_ATOMS]"),
        (["output=nowhere/out.json"], 2, "the folder nowhere does not exist"),
        (["output=out.txt"], 2, "give output=out.json"),
        (["output=/proc/out.json"], 2, "/proc cannot be written"),
        (["checkpoint=nowhere"], 4, "nowhere does not exist"),
        (["checkpoint={trained}", "model.n_features=16"], 2, "come from the checkpoint"),
        (["checkpoint={trained}", "dtype=float64"], 2, "come from the checkpoint"),
        (["checkpoint={trained}/model.pt", "against=[hippynn]", "water=[3]"], 2, "give the run directory"),
        (["checkpoint={trained}/model.pt", "measure=[training]"], 2, "is an exported file"),
        (["model.elements=[H,N]"], 2, "contain C, which is not an element of the model"),
        (["model.cuttoff=4"], 2, "did you mean 'cutoff'"),
        (["warter=[3]"], 2, "did you mean 'water'"),
    ],
)
def test_bad_input_is_refused(
    arguments: list[str], code: int, part: str, trained: Path, ethanol: Path, run: Run, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    found, _, err = run("bench", *(argument.format(trained=trained, ethanol=ethanol) for argument in arguments))
    assert part in err
    assert found == code
    assert not (tmp_path / "bench").exists()


def test_interruption_keeps_what_was_measured(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dynamics, output = measure.dynamics, tmp_path / "out.json"

    def stop_at_24(programs: measure.Programs, system: systems.System, *more: Any) -> dict[str, Any]:
        if len(system) == 24:
            raise KeyboardInterrupt
        return dynamics(programs, system, *more)

    monkeypatch.setattr(measure, "dynamics", stop_at_24)
    code, _, _ = run("bench", *TINY, "water=[6,24]", "measure=[md]", f"output={output}")
    assert code == 130
    found = json.loads(output.read_text())
    assert [row["atoms"] for row in found["md"]] == [6]
    assert found["complete"] is False


def test_program_that_is_not_installed(run: Run, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without any package
    python.chmod(0o755)
    arguments = ["against=[torchani]", f"peers.torchani.python={python}", f"output={tmp_path / 'out.json'}"]
    code, _, err = run("bench", *TINY, "water=[3]", *arguments)
    assert code == 2
    assert "torchani cannot be imported" in err
    assert "pip install torchani" in err
    assert "peers.torchani.python=" in err
    assert not (tmp_path / "out.json").exists()


def test_other_ase_calculator(run: Run, tmp_path: Path) -> None:
    """Its outputs need not be ours."""
    arguments = ["water=[24]", "measure=[md]", "against=[ase]", "peers.ase.calculator=ase.calculators.lj.LennardJones"]
    code, _, err = run("bench", *TINY, *arguments, "peers.ase.arguments={rc: 5.0}", f"output={tmp_path / 'out.json'}")
    assert code == 0, err
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["programs"]["ase"]["settings"]["calculator"] == "ase.calculators.lj.LennardJones"
    assert found["same_weights"] == []
    assert found["md"][0]["ratios"]["ase"]["included"]["median"] > 0


def test_other_programs_need_a_checkout(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings.Hippynn, "file", tmp_path / "benchmarks" / "peers" / "hippynn.py")
    code, _, err = run("bench", "against=[hippynn]", "water=[3]")
    assert code == 2
    assert "the repository's folder benchmarks/peers" in err
    assert "allowed without one: " in err
    assert "exported, ase" in err


def test_compilation_without_compiler_is_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(tmp_path / "nothing"))
    arguments = ["water=[3]", "measure=[md]", "compile=true", f"output={tmp_path / 'out.json'}"]
    code, _, err = run("bench", "model=hiphop", *arguments)
    assert code == 2
    assert "error: compile=true: no C compiler found" in err
    assert not (tmp_path / "out.json").exists()
