"""hiphop-invariants, and training with what it prints."""

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hiphop_train import cli
from hiphop_train.checkpoint import load
from hiphop_train.export.torchscript import verify
from tests.commands.conftest import FAST, Run


def table(text: str) -> dict[str, list[int]]:
    """Numbers in each row of the table, by the tensors that vanish."""
    lines = re.findall(r"^(none|[vqth ]+?) +(\d+) +(\d+) +(\d+) +(\d+)", text, flags=re.M)
    return {name: [int(number) for number in numbers] for name, *numbers in lines}


def test_flexible_set_of_order_four(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run("invariants", ["4", "4"]) == 0
    text = capsys.readouterr().out
    assert "flexible set for l_max=4, n_max=4: 30 of 51 invariants" in text
    assert "\n  v_i t_ijk t_jlm t_klm\n" in text
    found = table(text)
    assert len(found) == 16
    assert found["none"] == [22, 22, 22, 0]
    assert found["v h"] == [8, 8, 10, 2]
    assert all(chosen == reached and most - reached == gap for chosen, reached, most, gap in found.values())
    assert "misses" not in text


def test_published_set_misses_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run("invariants", ["3", "4", "--published"]) == 0
    text = capsys.readouterr().out
    assert "published set for l_max=3, n_max=4: 13 of 20 invariants" in text
    assert table(text)["q"] == [6, 7, 8, 1]
    assert [line.split()[0] for line in text.splitlines() if "misses 1" in line] == ["q"]
    assert text.count("misses") == 1


def test_what_is_not_published_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run("invariants", ["4", "4", "--published"]) == 2
    assert "end at l_max=3, n_max=4" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["6", "4"], ["4", "0"], ["4"], ["four", "4"]])
def test_bad_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run("invariants", arguments) == 2
    assert "_MAX" in capsys.readouterr().err


def test_fourth_order_trains_and_exports(run: Run, tmp_path: Path) -> None:
    settings = ["model=hiphop", "model.invariants=flexible", "model.l_max=4", "model.n_max=4"]
    code, out, err = run("train", *FAST, *settings, f"run_dir={tmp_path / 'run'}")
    assert code == 0, err
    assert "HIPHOP" in out
    loaded = load(str(tmp_path / "run"))
    assert OmegaConf.create(loaded.record["config"]).model.l_max == 4
    interaction = loaded.potential.terms[0].representation.interactions[0]
    assert interaction.mixing.shape[0] == 30
    assert verify(tmp_path / "run" / "model.pt").agrees


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (["model.l_max=4"], ["model.l_max=4, model.n_max=4", "end at l_max=3, n_max=4", "model.invariants=flexible"]),
        (["model.n_max=5"], ["model.n_max=5", "model.invariants=flexible"]),
        (["model.invariants=flexible", "model.l_max=6"], ["override 'model.l_max=6'", "0, 1, 2, 3, 4 or 5"]),
        (["model.invariants=flexible", "model.n_max=0"], ["override 'model.n_max=0'", "1, 2, 3, 4 or 5"]),
        (["model.invariants=complete"], ["'complete'", "'published' or 'flexible'"]),
    ],
)
def test_orders_out_of_reach_are_refused(settings: list[str], parts: list[str], run: Run, tmp_path: Path) -> None:
    code, _, err = run("train", *FAST, "model=hiphop", *settings, f"run_dir={tmp_path / 'run'}")
    assert code == 2
    for part in parts:
        assert part in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
