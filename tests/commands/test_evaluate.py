"""hiphop-eval and hiphop-export on a trained run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hiphop_train.checkpoint import load
from hiphop_train.data.formats.comp6 import COMP6Reader
from hiphop_train.evaluation.errors import predict
from tests.commands.conftest import Run


def test_own_tests_repeat_the_run_s_errors(trained: Path, run: Run, tmp_path: Path) -> None:
    code, out, _ = run("eval", f"checkpoint={trained}", f"output_dir={tmp_path / 'out'}")
    assert code == 0
    found = json.loads((tmp_path / "out" / "errors.json").read_text())["errors"]
    stored = json.loads((trained / "metrics.json").read_text())["errors"]
    for split, table in stored.items():
        assert found[split]["forces"]["mae"] == pytest.approx(table["forces"]["mae"], rel=1e-4)
    assert "energy error by R" in out


def test_comp6_subset_against_an_independent_calculation(trained: Path, run: Run, tmp_path: Path, shared: Path) -> None:
    root = shared / "data" / "comp6"
    arguments = [f"checkpoint={trained}", "data=comp6", f"data.root={root}", f"output_dir={tmp_path}"]
    code, out, _ = run("eval", *arguments)
    assert code == 0
    assert "COMP6 is not complete here" in out
    assert "MACE" not in out  # totals are published for the complete set
    table = json.loads((tmp_path / "errors.json").read_text())["errors"]["S66x8"]
    assert table["n_structures"] == 528
    assert table["relative_energy"]["n"] == 66 * 28

    loaded = load(str(trained))
    files = {"S66x8": ["s66x8_wb97x6-31gd.h5"]}
    structures = COMP6Reader(str(root), files, "hartree", "angstrom", "gradient").read()
    predictions = predict(loaded.potential, structures, torch.float32)
    error = ((predictions.targets["energy"] - structures.energy) * 23.060547830619).reshape(66, 8)
    relative = [row[j] - row[i] for row in error for i in range(8) for j in range(i + 1, 8)]
    assert table["energy"]["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-4)
    assert table["relative_energy"]["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(relative))), rel=1e-4)


def test_comp6_with_the_wrong_sign_stops(trained: Path, run: Run, tmp_path: Path, shared: Path) -> None:
    arguments = ["data=comp6", f"data.root={shared / 'data' / 'comp6'}", "data.reader.force_sign=force"]
    code, _, err = run("eval", f"checkpoint={trained}", *arguments, f"output_dir={tmp_path / 'out'}")
    assert code == 3
    assert "opposite sign" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["checkpoint=nowhere"], 4, "nowhere does not exist"),
        (["checkpoint={trained}/config.yaml"], 4, "cannot be read as a checkpoint"),
        (["checkpoint={trained}", "splits=[tset]"], 2, "did you mean 'test'"),
        (["checkpoint={trained}", "device=cuda"], 2, "no CUDA device"),
        (["checkpoint={trained}", "model=hipnn"], 2, "come from the checkpoint"),
        (["checkpoint={trained}", "output_dir=/proc/nowhere"], 2, "cannot be written"),
    ],
)
def test_bad_input_is_refused(arguments: list[str], code: int, part: str, trained: Path, run: Run) -> None:
    if torch.cuda.is_available() and "device=cuda" in arguments:
        arguments, part, code = ["checkpoint=nowhere"], "nowhere", 4
    found, _, err = run("eval", *(argument.format(trained=trained) for argument in arguments))
    assert found == code
    assert part in err


def test_export_again(trained: Path, run: Run, tmp_path: Path) -> None:
    code, out, _ = run("export", f"checkpoint={trained}", f"output={tmp_path / 'm.pt'}")
    assert code == 0
    assert "m.pt" in out
    assert (tmp_path / "m.pt").is_file()
    assert run("export", f"checkpoint={trained}", "output=/proc/m.pt")[0] == 7
