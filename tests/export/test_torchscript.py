"""The exported file does what the potential does, everywhere, and says what it is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hiphop_train import checkpoint
from hiphop_train.build import make_potential
from hiphop_train.errors import CheckpointError
from hiphop_train.export import torchscript
from hiphop_train.export.torchscript import ExportedPotential, export, load, verify
from hiphop_train.graph.assemble import make_graph
from hiphop_train.graph.neighbours import batch_neighbours, neighbours
from hiphop_train.potential import Potential
from tests.conftest import MODEL_FILES, model_section

MODELS = [file.stem for file in MODEL_FILES]
SMALL = {"n_features": 8, "n_sensitivities": 6, "n_atom_layers": 1}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
WEIGHT_FACTORS = {"newtonnet": 0.5}
"""What weights are multiplied by: with so few features, NewtonNet's products overflow in the golden crystal."""
TOLERANCE = {"float32": 1e-6, "float64": 1e-10}
METADATA = {"config": {"seed": 3}, "data_fingerprint": "abc", "validation": {"energy_mae": 0.5}}

MOLECULE = (
    [8, 1, 1, 6, 7],
    [[0.0, 0.0, 0.1], [0.8, 0.1, 0.6], [-0.7, 0.0, 0.7], [0.2, -1.2, -0.8], [1.6, -1.4, -1.1]],
)
STRUCTURES = {
    "open": (*MOLECULE, np.zeros((3, 3)), [False] * 3),
    "periodic": (*MOLECULE, np.array([[14.0, 0.0, 0.0], [1.0, 15.0, 0.0], [0.0, 2.0, 16.0]]), [True] * 3),
    "cell smaller than the cutoff": (
        *MOLECULE,
        np.array([[4.5, 0.0, 0.1], [0.3, 4.9, 0.0], [0.0, -0.4, 5.1]]),
        [True] * 3,
    ),
    "slab": (*MOLECULE, np.array([[4.5, 0.0, 0.1], [0.3, 4.9, 0.0], [0.0, 0.0, 0.0]]), [True, True, False]),
    "single atom": ([6], [[1.0, 2.0, 3.0]], np.zeros((3, 3)), [False] * 3),
}

WITHOUT_PACKAGE = """
import json, sys, warnings
sys.modules["hiphop_train"] = None
import torch
torch.set_num_threads(1)
warnings.simplefilter("ignore", DeprecationWarning)
found = []
for path in sys.argv[1:]:
    model = torch.jit.load(path)
    worst = 0.0
    for answer in model.golden:
        with torch.no_grad():
            outputs = model.energy_forces(answer["species"], answer["positions"], answer["cell"], answer["pbc"])
        for key in ("energy", "forces", "virial"):
            size = max(1.0, float(answer[key].abs().max()))
            worst = max(worst, float((outputs[key] - answer[key]).abs().max()) / size)
    loaded = [name for name in sys.modules if name.startswith("hiphop_train.")]
    found.append({"worst": worst, "n_golden": len(model.golden), "cutoff": model.cutoff, "loaded": loaded})
print(json.dumps(found))
"""


def small_potential(model: str, dtype: torch.dtype, n_levels: int = 1) -> Potential:
    section = model_section(model)
    for key in SMALL.keys() & section.keys():
        section[key] = SMALL[key]
    torch.manual_seed(5)
    potential = make_potential(section, dtype)
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.mul_(WEIGHT_FACTORS.get(model, 1.0))
    size = len(potential.elements)
    potential.e0 = -1000.0 * torch.arange(1, n_levels * size + 1, dtype=torch.float64).reshape(n_levels, size)
    return potential


def tensors(potential: Potential, structure):
    numbers, positions, cell, pbc = structure
    symbols = {1: "H", 6: "C", 7: "N", 8: "O"}
    species = torch.tensor([potential.elements.index(symbols[number]) for number in numbers])
    return species, torch.tensor(positions, dtype=torch.float64), torch.as_tensor(cell), torch.tensor(pbc)


def python_outputs(potential: Potential, structure, dtype: torch.dtype, n_owned: int | None = None):
    species, positions, cell, pbc = tensors(potential, structure)
    pairs = neighbours(positions, cell, pbc, potential.cutoff)
    graph = make_graph(species, positions, cell[None], pbc[None], torch.zeros_like(species), 1, *pairs, dtype)
    if n_owned is not None:
        graph = graph._replace(n_owned=n_owned)
    outputs = potential.eval()(graph, forces=True, virial=True)
    return {key: value.detach() for key, value in outputs.items()}


def assert_equal(outputs, expected, tolerance: float) -> None:
    for key in ("energy", "atomic_energy", "level_energies", "hierarchicality", "forces", "virial"):
        assert outputs[key].dtype == torch.float64
        assert not outputs[key].requires_grad
        learned = expected["level_energies"][:, 1:] if "energ" in key else expected[key]  # without E0
        size = max(1.0, float(learned.abs().max()))
        difference = (outputs[key].reshape(-1) - expected[key].to(torch.float64).reshape(-1)).abs().max()
        assert float(difference) <= tolerance * size, key


@pytest.fixture(scope="module", params=[(model, dtype) for model in MODELS for dtype in DTYPES], ids=str)
def exported(request, tmp_path_factory):
    model, dtype = request.param
    potential = small_potential(model, DTYPES[dtype])
    path = tmp_path_factory.mktemp("export") / "model.pt"
    export(potential, path, METADATA)
    return potential, path, dtype


@pytest.fixture(scope="module")
def model_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("export") / "hipnn.pt"
    export(small_potential("hipnn", torch.float32), path, METADATA)
    return path


def test_there_are_models():
    assert MODELS


def test_exported_equals_python(exported):
    potential, path, dtype = exported
    model = load(path)
    for structure in STRUCTURES.values():
        with torch.jit.optimized_execution(False):
            outputs = model.energy_forces(*tensors(potential, structure))
        assert_equal(outputs, python_outputs(potential, structure, DTYPES[dtype]), TOLERANCE[dtype])
        assert outputs["energy"].shape == ()
        assert outputs["virial"].shape == (3, 3)


def test_golden_agree(exported):
    _, path, dtype = exported
    report = verify(path)
    assert report.agrees
    assert report.relative <= TOLERANCE[dtype]


def test_stress_is_in_the_file(exported):
    """Of crystals, in float64 like all outputs; where there is no volume it is zero."""
    potential, path, _ = exported
    model = load(path)
    for name, (_, _, cell, pbc) in STRUCTURES.items():
        with torch.jit.optimized_execution(False):
            outputs = model.energy_forces(*tensors(potential, STRUCTURES[name]))
        volume = abs(np.linalg.det(cell)) if all(pbc) else np.inf
        assert outputs["stress"].dtype == torch.float64
        np.testing.assert_allclose(outputs["stress"], -outputs["virial"] / volume, rtol=1e-5)


def test_file_of_an_older_version_is_read():
    """One that d8c3435 wrote of tests/checkpoints/version2.ckpt, before there was a stress in it."""
    file = Path(__file__).with_name("format1.pt")
    assert verify(file).agrees
    potential = checkpoint.load(str(file.parents[1] / "checkpoints" / "version2.ckpt")).potential
    with torch.jit.optimized_execution(False):
        outputs = load(file).energy_forces(*tensors(potential, STRUCTURES["periodic"]))
    assert "stress" not in outputs
    assert_equal(outputs, python_outputs(potential, STRUCTURES["periodic"], torch.float64), 1e-10)


def test_group_norm_is_exported(tmp_path):
    """The published setting, which conf/model/hiphop.yaml leaves off."""
    section = model_section("hiphop") | SMALL | {"group_norm": True}
    torch.manual_seed(5)
    potential = make_potential(section, torch.float64)
    export(potential, tmp_path / "model.pt", METADATA)
    outputs = load(tmp_path / "model.pt").energy_forces(*tensors(potential, STRUCTURES["open"]))
    assert_equal(outputs, python_outputs(potential, STRUCTURES["open"], torch.float64), 1e-10)


def test_optimised_execution_equals_python(tmp_path):
    potential = small_potential("hiphop", torch.float32)
    export(potential, tmp_path / "model.pt", METADATA)
    model = load(tmp_path / "model.pt")
    for name in ("open", "cell smaller than the cutoff", "open", "single atom", "periodic"):
        outputs = model.energy_forces(*tensors(potential, STRUCTURES[name]))
        assert_equal(outputs, python_outputs(potential, STRUCTURES[name], torch.float32), 5e-6)


def test_forward_takes_batches(model_file):
    potential = small_potential("hipnn", torch.float32)
    model = load(model_file)
    names = ["cell smaller than the cutoff", "single atom", "periodic"]
    parts = [tensors(potential, STRUCTURES[name]) for name in names]
    sizes = torch.tensor([len(part[0]) for part in parts])
    species, positions = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    cell, pbc = torch.stack([part[2] for part in parts]), torch.stack([part[3] for part in parts])
    system = torch.repeat_interleave(torch.arange(3), sizes)
    pairs = batch_neighbours(positions, sizes, cell, pbc, model.cutoff)
    with torch.jit.optimized_execution(False):
        outputs = model(species, positions, cell, pbc, system, 3, *pairs, len(species), True, True)
    expected = [python_outputs(potential, STRUCTURES[name], torch.float32) for name in names]
    joined = {key: torch.cat([part[key] for part in expected]) for key in expected[0]}
    assert_equal(outputs, joined, 1e-6)
    with torch.jit.optimized_execution(False):
        energy_only = model(species, positions, cell, pbc, system, 3, *pairs, len(species), False, False)
    assert "forces" not in energy_only
    torch.testing.assert_close(energy_only["energy"], outputs["energy"])


def test_ghosts_carry_no_energy(model_file):
    potential = small_potential("hipnn", torch.float32)
    model = load(model_file)
    species, positions, cell, pbc = tensors(potential, STRUCTURES["open"])
    pairs = neighbours(positions, cell, pbc, model.cutoff)
    system = torch.zeros_like(species)
    with torch.jit.optimized_execution(False):
        outputs = model(species, positions, cell[None], pbc[None], system, 1, *pairs, 2, True, True)
    assert_equal(outputs, python_outputs(potential, STRUCTURES["open"], torch.float32, n_owned=2), 1e-6)
    assert not outputs["atomic_energy"][2:].any()
    assert outputs["forces"][2:].abs().max() > 0


def test_gradients_may_be_off(model_file):
    potential = small_potential("hipnn", torch.float32)
    model = load(model_file)
    with torch.jit.optimized_execution(False), torch.no_grad():
        outputs = model.energy_forces(*tensors(potential, STRUCTURES["open"]))
        assert not torch.is_grad_enabled()
    assert_equal(outputs, python_outputs(potential, STRUCTURES["open"], torch.float32), 1e-6)


def test_float32_positions_are_cast(model_file):
    potential = small_potential("hipnn", torch.float32)
    species, positions, cell, pbc = tensors(potential, STRUCTURES["open"])
    with torch.jit.optimized_execution(False):
        outputs = load(model_file).energy_forces(species, positions.float(), cell.float(), pbc)
    assert_equal(outputs, python_outputs(potential, STRUCTURES["open"], torch.float32), 1e-5)


def test_every_model_runs_in_a_fresh_process_without_the_package(tmp_path):
    files = [tmp_path / f"{model}.pt" for model in MODELS]
    for model, file in zip(MODELS, files, strict=True):
        export(small_potential(model, torch.float32), file, METADATA)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, *map(str, files)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    for model, said in zip(MODELS, json.loads(done.stdout), strict=True):
        assert said["n_golden"] == 4, model
        assert said["cutoff"] == model_section(model)["cutoff"], model
        assert said["loaded"] == [], model
        assert said["worst"] < 1e-5, model


def test_describes_itself(model_file):
    model = load(model_file)
    assert model.format_version == torchscript.FORMAT_VERSION
    assert model.elements == ["H", "C", "N", "O"]
    assert model.atomic_numbers == [1, 6, 7, 8]
    assert (model.energy_unit, model.length_unit, model.forces_unit) == ("eV", "angstrom", "eV/angstrom")
    assert model.units == {"energy": "eV", "forces": "eV/angstrom", "stress": "eV/angstrom^3"}
    assert model.dtype == "float32"
    assert model.e0.tolist() == [-1000.0, -2000.0, -3000.0, -4000.0]
    metadata = json.loads(model.metadata)
    assert metadata["data_fingerprint"] == "abc"
    assert {"code_version", "torch_version", "config", "validation"} <= metadata.keys()
    assert model.species_of(torch.tensor([8, 1, 7])).tolist() == [3, 0, 2]
    for answer in model.golden:
        assert answer.keys() == {"species", "positions", "cell", "pbc", "energy", "forces", "virial"}
    assert any(len(answer["species"].unique()) == 4 for answer in model.golden)
    assert any(bool(answer["pbc"].all()) for answer in model.golden)


@pytest.mark.parametrize(("number", "name"), [(14, "element Si"), (0, "element"), (-1, "element"), (999, "element")])
def test_unknown_element_is_named(model_file, number, name):
    with pytest.raises(torch.jit.Error, match=rf"{name}.*atomic number {number}\).*H, C, N, O"):
        load(model_file).species_of(torch.tensor([1, number]))


def test_golden_of_the_caller(tmp_path):
    export(small_potential("hipnn", torch.float64), tmp_path / "model.pt", {}, golden=[STRUCTURES["slab"]])
    golden = load(tmp_path / "model.pt").golden
    assert len(golden) == 1
    assert golden[0]["species"].tolist() == [3, 0, 0, 1, 2]


def test_original_is_left_alone_and_first_level_exported(tmp_path):
    potential = small_potential("hipnn", torch.float32, n_levels=3).train()
    export(potential, tmp_path / "model.pt", {})
    assert potential.training
    assert potential.e0.shape == (3, 4)
    assert all(parameter.requires_grad for parameter in potential.parameters())
    assert load(tmp_path / "model.pt").e0.tolist() == potential.e0[0].tolist()


def test_types_that_are_not_elements():
    potential = small_potential("hipnn", torch.float32)
    potential.elements = ["bead_a", "bead_b", "H", "bead_c"]
    module = ExportedPotential(potential, "{}")
    assert module.atomic_numbers == [0, 0, 1, 0]
    assert all(bool(answer["forces"].isfinite().all()) for answer in module.golden)
    with pytest.raises(RuntimeError, match="bead_a"):
        module.species_of(torch.tensor([0]))


@pytest.mark.parametrize("key", ["energy", "forces", "virial"])
@pytest.mark.parametrize("error", [0.1, float("nan")])
def test_corrupted_golden_is_detected(model_file, tmp_path, key, error):
    model = load(model_file)
    model.golden[1][key].add_(error)
    with pytest.warns(DeprecationWarning, match="torch.jit.save"):
        torch.jit.save(model, str(tmp_path / "corrupted.pt"))
    report = verify(tmp_path / "corrupted.pt")
    assert not report.agrees
    if error == 0.1:
        n_atoms = 1 if key == "forces" else 6
        assert getattr(report, key) == pytest.approx(0.1 / n_atoms, rel=1e-3)


def test_disagreement_leaves_no_file(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    path.write_text("older")
    monkeypatch.setattr(torchscript, "TOLERANCE", {"float32": -1.0})
    monkeypatch.setattr(torchscript, "ROUNDING_FACTOR", -1.0)
    with pytest.raises(CheckpointError, match="disagrees"):
        export(small_potential("hipnn", torch.float32), path, {})
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]
    assert path.read_text() == "older"


def ill_conditioned() -> Potential:
    """Energies that are small differences of large numbers, as barely trained potentials may have them."""
    potential = small_potential("schnet", torch.float32)
    last = [part for part in potential.modules() if isinstance(part, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight.copy_(1e4 * torch.linspace(-1.0, 1.0, last.weight.numel()).reshape(last.weight.shape))
    return potential


def test_deviation_is_judged_by_the_rounding_of_the_potential(tmp_path, monkeypatch):
    monkeypatch.setattr(torchscript, "TOLERANCE", {"float32": 1e-9, "float64": 1e-10})
    path = tmp_path / "model.pt"
    export(ill_conditioned(), path, {})
    report = verify(path)
    assert 1e-9 < report.relative <= report.tolerance == 4 * load(path).rounding
    export(small_potential("schnet", torch.float64), path, {})
    assert load(path).rounding == 0.0
    assert verify(path).tolerance == 1e-10


def test_rounding_excuses_no_other_formula(tmp_path, monkeypatch):
    """A form that differs in double precision too is refused, however coarse the potential's float32 is."""
    monkeypatch.setattr(torchscript, "TOLERANCE", {"float32": 1e-9, "float64": 1e-10})
    monkeypatch.setattr(torchscript, "ROUNDING_FACTOR", 1e9)

    def wrong(potential, *_):
        with torch.no_grad():
            next(potential.terms[0].readout.parameters()).mul_(1.0 + 1e-6)

    monkeypatch.setattr(torchscript, "accelerate", wrong)
    with pytest.raises(CheckpointError, match="disagrees"):
        export(ill_conditioned(), tmp_path / "model.pt", {})
    assert not list(tmp_path.iterdir())


def test_diverged_potential_is_refused(tmp_path):
    potential = small_potential("hipnn", torch.float32)
    potential.e0.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="not finite"):
        export(potential, tmp_path / "model.pt", {})
    assert not list(tmp_path.iterdir())


def test_refused_arguments(tmp_path):
    potential = small_potential("hipnn", torch.float32)
    with pytest.raises(CheckpointError, match="does not exist"):
        export(potential, tmp_path / "nowhere" / "model.pt", {})
    with pytest.raises(TypeError):
        export(potential, tmp_path / "model.pt", {"path": tmp_path})
    with pytest.raises(RuntimeError, match="Si"):
        export(potential, tmp_path / "model.pt", {}, golden=[([14], [[0.0, 0.0, 0.0]], np.zeros((3, 3)), [False] * 3)])
    assert not list(tmp_path.iterdir())


def test_wrong_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load(tmp_path / "missing.pt")
    (tmp_path / "text.pt").write_text("no zip")
    torch.save({"state_dict": {}}, tmp_path / "checkpoint.pt")
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), str(tmp_path / "other.pt"))
    for name in ("text.pt", "checkpoint.pt", "other.pt"):
        with pytest.raises(CheckpointError, match="not an exported potential"):
            load(tmp_path / name)


def test_newer_format_is_refused(model_file, monkeypatch):
    monkeypatch.setattr(torchscript, "FORMAT_VERSION", 0)
    with pytest.raises(CheckpointError, match="format 1"):
        load(model_file)
