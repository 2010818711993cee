"""Real models of hippynn, stored as hippynn does, give the same energies (E0 included) and forces when imported."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import nn

from hiphop_train import checkpoint, cli
from hiphop_train.errors import ConfigError, DataError
from hiphop_train.importing.hippynn import convert
from hiphop_train.types import Graph
from hiphop_train.units import ENERGY
from tests.hippynn_reference import hippynn_in_float64

CUTOFF = 4.0
SIZES: dict[str, Any] = {
    "n_features": 6,
    "n_sensitivities": 5,
    "n_interaction_layers": 2,
    "n_atom_layers": 1,
    "dist_soft_min": 0.8,
    "dist_soft_max": 3.5,
    "dist_hard_max": CUTOFF,
    "possible_species": [0, 1, 6, 7, 8],
}
HIPHOP = "hiphop_train.models.hiphop.HIPHOP"


@pytest.fixture(scope="module")
def hippynn() -> Iterator[ModuleType]:
    with hippynn_in_float64() as module:
        yield module


@pytest.fixture(scope="module")
def molecules(make_molecule: Callable[..., Atoms]) -> list[Atoms]:
    return [make_molecule(7, seed=1), make_molecule(4, seed=2), Atoms("O", [[0.1, 0.2, 0.3]]), make_molecule(9, seed=3)]


def whole_model(hippynn: ModuleType, node: str, e0: bool = True, charges: bool = False, **changes: Any) -> nn.Module:
    """Make a GraphModule of energies and forces in float64, with every parameter away from its default."""
    from hippynn.graphs import GraphModule, inputs, networks, physics, targets

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # beta state of HIP-HOP-NN
        species, positions = inputs.SpeciesNode(db_name="Z"), inputs.PositionsNode(db_name="R")
        network = getattr(networks, node)("net", (species, positions), module_kwargs={**SIZES, **changes})
        energy = targets.HEnergyNode("E", network, first_is_interacting=not e0)
        forces = physics.GradientNode("F", (energy, positions), sign=-1)
        outputs = [energy.main_output, forces]
        if charges:
            outputs.append(targets.HChargeNode("Q", network).main_output)
        model = GraphModule([species, positions], outputs).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
            if name.endswith("layers.0.weight") and e0:
                parameter.copy_(-100.0 * torch.rand_like(parameter))
    return model


def reference(model: nn.Module, structures: list[Atoms]) -> tuple[torch.Tensor, torch.Tensor]:
    """Energies (n_systems,) and forces (n_atoms, 3) by hippynn itself, its neighbour search included."""
    most = max(len(atoms) for atoms in structures)
    species = torch.zeros(len(structures), most, dtype=torch.int64)
    positions = torch.zeros(len(structures), most, 3, dtype=torch.float64)
    for k, atoms in enumerate(structures):
        species[k, : len(atoms)] = torch.from_numpy(atoms.numbers)
        positions[k, : len(atoms)] = torch.from_numpy(atoms.positions)
    energy, forces = (output.detach() for output in model(species, positions.requires_grad_(True))[:2])
    return energy[:, 0], torch.cat([f[: len(atoms)] for f, atoms in zip(forces, structures, strict=True)])


def save(model: nn.Module, path: Path) -> Path:
    torch.save(model.state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("node", "changes", "expected"),
    [
        ("Hipnn", {}, {"_target_": "hiphop_train.models.hipnn.HIPNN"}),
        ("Hipnn", {"n_interaction_layers": 1, "n_features": 4}, {"n_interactions": 1, "n_features": 4}),
        ("HipnnVec", {}, {"_target_": "hiphop_train.models.hipnn_ts.HIPNNTS", "l_max": 1, "cusp": 1e-6}),
        ("HipnnQuad", {"cusp_reg": 1e-3}, {"l_max": 2, "cusp": 1e-3}),
        ("HipHopnn", {}, {"_target_": HIPHOP, "l_max": 3, "n_max": 4, "group_norm": True}),
        ("HipHopnn", {"l_max": 2, "n_max": 3, "group_norm": False}, {"l_max": 2, "n_max": 3, "group_norm": False}),
        ("HipHopnn", {"l_max": 3, "n_max": 1}, {"l_max": 3, "n_max": 1}),
        ("HipHopnn", {"l_max": 1, "n_max": 4}, {"l_max": 1, "n_max": 2}),  # with vectors alone the same network
        ("Hipnn", {"n_sensitivities": 1, "n_atom_layers": 0}, {"n_sensitivities": 1, "n_atom_layers": 0}),
    ],
)
@pytest.mark.parametrize("unit", ["kcal/mol", "hartree"])
def test_imported_model_is_the_same(
    hippynn: ModuleType,
    molecules: list[Atoms],
    graph_of: Callable[..., Graph],
    tmp_path: Path,
    node: str,
    changes: dict[str, Any],
    expected: dict[str, Any],
    unit: str,
) -> None:
    model = whole_model(hippynn, node, **changes)
    source = save(model, tmp_path / "best_model.pt")
    output = tmp_path / "folder" / "imported.ckpt"
    assert cli.call("import", ["hippynn", str(source), str(output), "--cutoff", "4", "--energy-unit", unit]) == 0
    loaded = checkpoint.load(str(output))
    section = loaded.record["config"]["model"]
    assert expected.items() <= section.items()
    assert section["elements"] == ["H", "C", "N", "O"]
    assert loaded.record["config"]["dtype"] == "float64"

    energy, forces = reference(model, molecules)
    found = loaded.potential(graph_of(molecules, cutoff=CUTOFF))
    factor = ENERGY[unit]
    torch.testing.assert_close(found["energy"].detach(), factor * energy, rtol=1e-12, atol=1e-9)
    assert forces.abs().max() > 0.1
    torch.testing.assert_close(found["forces"].detach(), factor * forces, rtol=0, atol=1e-9 * float(forces.abs().max()))


def test_model_without_e0(
    hippynn: ModuleType, molecules: list[Atoms], graph_of: Callable[..., Graph], tmp_path: Path
) -> None:
    model = whole_model(hippynn, "Hipnn", e0=False)
    source, output = save(model, tmp_path / "m.pt"), tmp_path / "m.ckpt"
    assert cli.call("import", ["hippynn", str(source), str(output), "--cutoff", "4", "--energy-unit", "eV"]) == 0
    potential = checkpoint.load(str(output)).potential
    assert not potential.e0.any()
    energy = potential(graph_of(molecules, cutoff=CUTOFF))["energy"].detach()
    torch.testing.assert_close(energy, reference(model, molecules)[0], rtol=1e-12, atol=1e-9)


def test_elements_come_in_the_order_of_the_network(hippynn: ModuleType, tmp_path: Path) -> None:
    model = whole_model(hippynn, "Hipnn", possible_species=[0, 8, 1, 17])
    assert convert(model.state_dict(), 4.0, "eV").model["elements"] == ["O", "H", "Cl"]
    with pytest.raises(ConfigError, match="the file has O,H,Cl"):
        convert(model.state_dict(), 4.0, "eV", ["H", "O", "Cl"])


def test_energies_of_a_float32_model(
    hippynn: ModuleType, molecules: list[Atoms], graph_of: Callable[..., Graph], tmp_path: Path
) -> None:
    """The precision of the file is kept, unless another is requested; E0 is float64 in any case."""
    model = whole_model(hippynn, "HipnnQuad").float()  # HIP-HOP-NN's constants would be rounded too
    source = save(model, tmp_path / "m.pt")
    for arguments, dtype in (([], torch.float32), (["--dtype", "float64"], torch.float64)):
        output = tmp_path / f"{dtype}.ckpt"
        common = ["hippynn", str(source), str(output), "--cutoff", "4", "--energy-unit", "eV"]
        assert cli.call("import", [*common, *arguments]) == 0
        potential = checkpoint.load(str(output)).potential
        assert potential.terms[0].readout.layers[0].weight.dtype == dtype
        assert potential.e0.dtype == torch.float64
        graph = graph_of(molecules, cutoff=CUTOFF, dtype=dtype)
        energy = potential(graph)["energy"].detach()
        expected = reference(model.double(), molecules)[0]
        torch.testing.assert_close(energy, expected, rtol=1e-6 if dtype == torch.float32 else 1e-12, atol=1e-8)


def test_experiment_folder_and_lightning_checkpoint(hippynn: ModuleType, tmp_path: Path) -> None:
    model = whole_model(hippynn, "Hipnn")
    (tmp_path / "experiment").mkdir()
    save(model, tmp_path / "experiment" / "best_model.pt")
    wrapped = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, tmp_path / "lightning.ckpt")
    outputs = []
    for source in ("experiment", "lightning.ckpt"):
        outputs.append(tmp_path / f"from-{source}.ckpt")
        common = ["hippynn", str(tmp_path / source), str(outputs[-1]), "--cutoff", "4", "--energy-unit", "eV"]
        assert cli.call("import", common) == 0
    first, second = (checkpoint.load(str(output)).potential.state_dict() for output in outputs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_charges_are_not_mistaken_for_energies(hippynn: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    model = whole_model(hippynn, "Hipnn", charges=True)
    state = model.state_dict()
    with pytest.raises(ConfigError, match=r"2 layers have the shape of an energy.*--energy-layer moddict\.node\d+"):
        convert(state, 4.0, "eV")
    energy = next(name for name, module in model.named_modules() if type(module).__name__ == "HEnergy")
    charge = next(name for name, module in model.named_modules() if type(module).__name__ == "HCharge")
    imported = convert(state, 4.0, "eV", energy_layer=energy)
    assert torch.equal(imported.weights["e0"], state[f"{energy}.layers.0.weight"])
    assert imported.origin == f"ignored: {', '.join(f'{charge}.layers.{n}' for n in range(3))}"
    with pytest.raises(ConfigError, match="no such layer"):
        convert(state, 4.0, "eV", energy_layer="moddict.node0")


def parts(hippynn: ModuleType, n_target: int = 1, **changes: Any) -> dict[str, Any]:
    """State of a network and a separate energy layer, without a species encoder."""
    network = hippynn.networks.hipnn.Hipnn(**{**SIZES, **changes})
    energy = hippynn.layers.targets.HEnergy(network.feature_sizes, n_target=n_target)
    return nn.ModuleDict({"network": network, "energy": energy}).state_dict()


def test_what_the_file_does_not_say_must_be_given(hippynn: ModuleType) -> None:
    state = parts(hippynn)
    elements = ["H", "C", "N", "O"]
    with pytest.raises(ConfigError, match=r"4 elements of the network; give them .* --elements H,C,N,O"):
        convert(state, 4.0, "eV")
    with pytest.raises(ConfigError, match=r"--cutoff ANGSTROM.*--energy-unit UNIT"):
        convert(state, None, "eV", elements)
    with pytest.raises(ConfigError, match=r"--cutoff ANGSTROM.*--energy-unit UNIT"):
        convert(state, 4.0, None, elements)
    with pytest.raises(ConfigError, match="'Ox' is not an element"):
        convert(state, 4.0, "eV", ["H", "C", "N", "Ox"])
    with pytest.raises(ConfigError, match=r"2 elements \(H,C\), but the network has 4 inputs"):
        convert(state, 4.0, "eV", ["H", "C"])
    with pytest.raises(ConfigError, match="greater than 0"):
        convert(state, -1.0, "eV", elements)
    assert convert(state, 4.0, "eV", elements).model["elements"] == elements


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"resnet": False}, "resnet=False"),
        ({"resnet": 3}, "different widths"),
        ({"n_features": [6, 8], "n_interaction_layers": None}, "different widths"),
        ({"activation": nn.PReLU}, r"'network\.blocks\.0\.0\.activation\.weight' belongs to an unsupported network"),
        ({"n_target": 2}, "no energy layer that fits"),
    ],
)
def test_other_networks_are_refused(hippynn: ModuleType, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        convert(parts(hippynn, **changes), 4.0, "eV", ["H", "C", "N", "O"])


def test_files_with_other_content_are_refused(hippynn: ModuleType, tmp_path: Path) -> None:
    arguments = [str(tmp_path / "m.ckpt"), "--cutoff", "4", "--energy-unit", "eV", "--elements", "H,C,N,O"]
    contents: dict[str, tuple[Any, str]] = {
        "pickled.pt": (nn.Linear(1, 1), "contains pickled objects besides tensors.*not loaded"),
        "list.pt": ([torch.zeros(1)], "contains a list, not a state dictionary"),
        "other.pt": (nn.Linear(1, 1).state_dict(), "not a HIP-NN network of hippynn.*weight, bias"),
        "alone.pt": (hippynn.networks.hipnn.Hipnn(**SIZES).state_dict(), "no energy layer.*not of the network alone"),
        "two.pt": (
            nn.ModuleDict({"a": whole_model(hippynn, "Hipnn"), "b": whole_model(hippynn, "Hipnn")}).state_dict(),
            "2 networks in one file",
        ),
    }
    for name, (content, problem) in contents.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(DataError, match=problem):
            cli.call("import", ["hippynn", str(tmp_path / name), *arguments])
    whole = (tmp_path / "two.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.pt cannot be read as a state dictionary"):
        cli.call("import", ["hippynn", str(tmp_path / "cut.pt"), *arguments])
    with pytest.raises(DataError, match="does not exist"):
        cli.call("import", ["hippynn", str(tmp_path / "nowhere"), *arguments])
    assert np.all([path.suffix == ".pt" for path in tmp_path.iterdir()])
