"""The published ANI-1x network through hiphop-import and hiphop-eval: the errors that torchani has on S66x8."""

import json
from pathlib import Path

import pytest

from hiphop_train import cli
from tests.commands.conftest import Run

ERRORS = {
    "energy": (2.1495, 3.5776),  # kcal/mol
    "relative_energy": (1.9166, 3.2518),  # kcal/mol
    "forces": (2.1349, 3.9963),  # kcal/mol/Angstrom
}
"""MAE and RMSE, found with torchani in double precision."""


def test_published_network_has_the_known_errors(shared: Path, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "ani.ckpt"
    assert cli.call("import", ["neurochem", str(shared / "data" / "neurochem"), str(file), "--dtype", "float64"]) == 0
    folder = tmp_path / "errors"
    code, _, err = run(
        "eval", f"checkpoint={file}", "data=comp6", f"data.root={shared / 'data' / 'comp6'}", f"output_dir={folder}"
    )
    assert code == 0, err
    found = json.loads((folder / "errors.json").read_text())["errors"]["S66x8"]
    assert found["n_structures"] == 528
    for kind, expected in ERRORS.items():
        assert (found[kind]["mae"], found[kind]["rmse"]) == pytest.approx(expected, abs=5e-5), kind
