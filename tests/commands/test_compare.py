"""hiphop-compare on real runs, and on runs that are unfinished, damaged or of other data."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from hiphop_train import cli
from hiphop_train.checkpoint import load
from tests.commands.conftest import FAST

Compare = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def hipnn(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs that differ in seed, and one of another split."""
    folder = tmp_path_factory.mktemp("runs")
    more = {"first": ["seed=0"], "second": ["seed=1"], "other": ["data/split=random"]}
    for name, settings in more.items():
        assert cli.run("train", [*FAST, "model=hipnn", *settings, f"run_dir={folder / name}"]) == 0
    return [folder / name for name in more]


@pytest.fixture
def compare(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Compare:
    """Run the command in this process; returns exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        given = [*map(str, arguments), "--output", str(tmp_path / "out")]
        code = cli.run("compare", given)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


def stored(path: Path, split: str, kind: str, measure: str) -> float:
    return float(json.loads((path / "metrics.json").read_text())["errors"][split][kind][measure])


def test_runs_are_compared(trained: Path, hipnn: list[Path], compare: Compare, tmp_path: Path) -> None:
    first, second, _ = hipnn
    code, out, err = compare(first, trained, second)
    assert code == 0, err
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    two, one = content["rows"]
    assert (two["label"], two["runs"], two["seeds"]) == ("hipnn", [str(first), str(second)], [0, 1])
    assert (one["label"], one["runs"]) == ("hiphop", [str(trained)])
    for split in ("test", "test_unseen"):
        for kind in ("energy", "relative_energy", "forces"):
            values = [stored(path, split, kind, "rmse") for path in (first, second)]
            found = two["errors"][split][kind]["rmse"]
            assert found == pytest.approx({"mean": sum(values) / 2, "low": min(values), "high": max(values)})
            assert one["errors"][split][kind]["mae"]["mean"] == pytest.approx(stored(trained, split, kind, "mae"))
    assert one["parameters"] == sum(p.numel() for p in load(str(trained)).potential.parameters())
    assert one["training_seconds"]["mean"] > 0
    assert 0 < one["microseconds_per_atom"]["minimum"] <= one["microseconds_per_atom"]["median"]
    assert content["timing"]["threads"] == 1
    assert content["timing"]["batches"][0]["structures"] == 64
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "comparison.json",
        "comparison.md",
        "pareto-test.png",
        "pareto-test_unseen.png",
    }
    for part in ("errors on test_unseen", "relative energy", "1 thread", "64 structures", f"{one['parameters']:,}"):
        assert part in " ".join(out.split())
    forces = two["errors"]["test"]["forces"]["mae"]
    assert f"{forces['mean']:.2f} / " in (tmp_path / "out" / "comparison.md").read_text()


def test_runs_of_other_data_are_refused_unless_allowed(hipnn: list[Path], compare: Compare, tmp_path: Path) -> None:
    code, _, err = compare(*hipnn)
    assert code == 2
    assert "different data or splits" in err
    assert "--mix-data" in err
    assert all(str(path) in err for path in hipnn)
    assert not (tmp_path / "out").exists()
    code, _, err = compare(hipnn[0], hipnn[2], "--mix-data")
    assert code == 0, err
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert len(content["rows"]) == 2
    assert len(content["timing"]["batches"]) == 2


def test_unfinished_and_damaged_runs_are_skipped(hipnn: list[Path], compare: Compare, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(hipnn[0], tmp_path / name))

    (copy("running") / "metrics.json").unlink()
    (copy("broken") / "metrics.json").write_text('{"status": "comp')
    (copy("empty") / "metrics.json").write_text("{}")
    (copy("foreign") / "config.yaml").unlink()
    (copy("yaml") / "config.yaml").write_text("a: [")
    (copy("cut") / "checkpoints" / "best.ckpt").write_bytes(b"PK")
    for name in ("stopped", "limited"):
        metrics = json.loads((copy(name) / "metrics.json").read_text())
        (tmp_path / name / "metrics.json").write_text(json.dumps({**metrics, "status": "stopped"}))
    config = yaml.safe_load((tmp_path / "limited" / "config.yaml").read_text())
    config["trainer"]["max_time"] = "00:00:07:00"
    (tmp_path / "limited" / "config.yaml").write_text(yaml.safe_dump(config))
    problems = {
        "running": "is unfinished",
        "broken": "is damaged",
        "empty": "is damaged",
        "foreign": "no config.yaml",
        "yaml": "is damaged",
        "cut": "cannot be read as a checkpoint",
        "stopped": "was stopped after epoch 1",
        "nowhere": "is not a folder",
    }
    bad = [tmp_path / name for name in problems]
    code, out, err = compare(*bad, hipnn[1], tmp_path / "limited")
    assert code == 0, err
    lines = [line for line in out.splitlines() if line.startswith("skipped")]
    for line, (name, problem) in zip(lines, problems.items(), strict=True):
        assert f"{tmp_path / name}: " in line
        assert problem in line
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"]
    assert [row["runs"] for row in rows] == [[str(hipnn[1]), str(tmp_path / "limited")]]  # max_time is incidental
    code, out, err = compare(*bad)
    assert code == 4
    assert "none of these runs" in err
    assert out.count("skipped") == len(bad)


def test_missing_data(hipnn: list[Path], compare: Compare, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(hipnn[0], tmp_path / "moved"))
    config = yaml.safe_load((moved / "config.yaml").read_text())
    config["data"]["reader"]["path"] = config["data"]["path"] = "nowhere.h5"
    config["data"]["split"]["data_path"] = "nowhere.h5"
    (moved / "config.yaml").write_text(yaml.safe_dump(config))
    code, _, err = compare(moved)
    assert code == 3
    assert "timing needs the data" in err
    assert "nowhere.h5 does not exist" in err
    assert compare(moved, hipnn[1])[0] == 0  # the other run has the same data


def test_output_must_be_writable(hipnn: list[Path], capfd: pytest.CaptureFixture[str]) -> None:
    given = [str(hipnn[0]), "--output", "/proc/nowhere"]
    assert cli.run("compare", given) == 2
    assert "cannot be written" in capfd.readouterr().err
