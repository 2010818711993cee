"""Networks of NeuroChem: the published one gives torchani's numbers, and so do small ones written here."""

import bz2
import itertools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

from hiphop_train.build import make_potential
from hiphop_train.errors import DataError
from hiphop_train.importing.base import Imported
from hiphop_train.importing.neurochem import read
from hiphop_train.potential import Potential
from hiphop_train.schema import Source, check_section
from hiphop_train.types import Graph
from hiphop_train.units import HARTREE

GraphOf = Callable[..., Graph]
MakeAtoms = Callable[..., Atoms]

ELEMENTS = ["C", "H", "O"]
CONSTANTS = """TM = 1
Rcr = 4.6000e+00
Rca = 3.1000e+00
EtaR = [1.2300000e+01]
ShfR = [9.0000000e-01,1.7000000e+00,2.5000000e+00]
Zeta = [1.4100000e+01]
ShfZ = [3.9269908e-01,1.1780972e+00,1.9634954e+00,2.7488936e+00]
EtaA = [6.7000000e+00]
ShfA = [9.0000000e-01,2.0000000e+00]
Atyp = [C,H,O]
"""
SELF_ENERGIES = "C,0=-38.08316124\nH,1=-0.60095298\nO,2=-75.19446356\n"
N_INPUTS = 3 * 3 + 6 * 2 * 4
WIDTHS = {"C": [N_INPUTS, 6, 5, 1], "H": [N_INPUTS, 7, 1], "O": [N_INPUTS, 4, 3, 1]}
LAYER = """layer [
nodes={n_out};
activation={activation};
type=0;
blocksize={n_in};
dropout=0;
dropset=0.000000;
maskupdate=0.000000;
maxnorm=0;
norm=0.000000;
normupdate=0.000000;
l2norm=1;
l2valu=0.000100;
btchnorm=0;
weights=FILE:ANN-{element}.nnf-l{depth}.wparam[{n_weights}];
biases=FILE:ANN-{element}.nnf-l{depth}.bparam[{n_out}];
]
"""


def description(element: str, widths: list[int]) -> str:
    text = f"inputsize={widths[0]};\natom_net {element} $\n"
    for depth, (n_in, n_out) in enumerate(itertools.pairwise(widths), start=1):
        activation = 6 if depth == len(widths) - 1 else 9
        text += LAYER.format(
            n_in=n_in, n_out=n_out, activation=activation, element=element, depth=depth, n_weights=n_in * n_out
        )
    return text + "\n $\x00"


def write_description(folder: Path, element: str, text: str) -> None:
    (folder / f"ANN-{element}.nnf").write_bytes(f"{len(text)}=\n".encode() + bz2.compress(text.encode()))


def write_network(folder: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for element, widths in WIDTHS.items():
        write_description(folder, element, description(element, widths))
        for depth, (n_in, n_out) in enumerate(itertools.pairwise(widths), start=1):
            for kind, shape in (("wparam", (n_out, n_in)), ("bparam", (n_out,))):
                rng.normal(scale=0.3, size=shape).astype("<f4").tofile(folder / f"ANN-{element}.nnf-l{depth}.{kind}")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An ensemble of three, whose numbers do not sort as text."""
    folder = tmp_path / "ensemble"
    for number in (0, 2, 10):
        write_network(folder / f"train{number}" / "networks", seed=number)
    (folder / "small.params").write_text(CONSTANTS)
    (folder / "sae_linfit.dat").write_text(SELF_ENERGIES)
    return folder


def potential_of(imported: Imported, dtype: torch.dtype = torch.float64) -> Potential:
    check_section("model", imported.model, Source())  # the section is one that a configuration may contain
    potential = make_potential(imported.model, dtype)
    potential.load_state_dict(imported.weights)
    return potential.eval()


class Reference:
    """The same network, read and evaluated by torchani."""

    def __init__(self, torchani: ModuleType, directory: Path, member: int) -> None:
        neurochem = torchani.neurochem
        computer, self.symbols = neurochem.load_aev_computer_and_symbols(next(directory.glob("*.params")))
        network = neurochem.load_member(self.symbols, directory / f"train{member}" / "networks")
        self.computer, self.network = computer.double(), network.double()
        self.self_energies = neurochem.load_sae(next(directory.glob("sae*.dat"))).self_energies.double()

    def __call__(self, atoms: Atoms) -> tuple[float, Tensor]:
        """Energy in Hartree and forces in Hartree/Angstrom."""
        species = torch.tensor([[self.symbols.index(symbol) for symbol in atoms.symbols]])
        positions = torch.from_numpy(atoms.positions)[None].requires_grad_(True)
        periodic = (torch.from_numpy(atoms.cell.array), torch.from_numpy(atoms.pbc)) if atoms.pbc.any() else ()
        energy = self.network(species, self.computer(species, positions, *periodic))[0]
        forces = -torch.autograd.grad(energy, positions)[0][0]
        return float(energy.detach() + self.self_energies[species[0]].sum()), forces


def compare(potential: Potential, reference: Reference, atoms: Atoms, graph_of: GraphOf) -> None:
    outputs = potential(graph_of([atoms], elements=potential.elements, cutoff=potential.cutoff))
    energy, forces = reference(atoms)
    assert float(outputs["energy"].detach()) / HARTREE == pytest.approx(energy, abs=1e-11)
    assert forces.abs().max() > 1e-4
    # Not nearer, because the derivative of torch's celu, which torchani uses, is of single precision.
    deviation = (outputs["forces"].detach() / HARTREE - forces).abs().max()
    assert deviation < 2e-7 * forces.abs().max()


@pytest.fixture(scope="module")
def water_dimer(shared: Path) -> Atoms:
    """The first conformer of S66x8's first dimer."""
    with h5py.File(shared / "data" / "comp6" / "s66x8_wb97x6-31gd.h5") as file:
        group = file["s66x8/mol00"]
        return Atoms([symbol.decode() for symbol in group["species"]], group["coordinates"][0].astype(np.float64))


def test_published_network_gives_the_published_energy(shared: Path, water_dimer: Atoms, graph_of: GraphOf) -> None:
    (imported,) = read(shared / "data" / "neurochem")
    potential = potential_of(imported)
    assert imported.origin.endswith("train0/networks")
    assert potential.elements == ["H", "C", "N", "O"]
    energy = potential(graph_of([water_dimer], cutoff=potential.cutoff), forces=False)["energy"]
    assert float(energy.detach()) / HARTREE == pytest.approx(-152.7889494921654, abs=1e-8)


def test_published_network_equals_torchani(
    torchani: ModuleType, shared: Path, make_molecule: MakeAtoms, make_box: MakeAtoms, graph_of: GraphOf
) -> None:
    directory = shared / "data" / "neurochem"
    (imported,) = read(directory)
    potential, reference = potential_of(imported), Reference(torchani, directory, 0)
    with h5py.File(shared / "data" / "comp6" / "s66x8_wb97x6-31gd.h5") as file:
        for name in list(file["s66x8"])[::8]:
            group = file["s66x8"][name]
            symbols = [symbol.decode() for symbol in group["species"]]
            compare(potential, reference, Atoms(symbols, group["coordinates"][3].astype(np.float64)), graph_of)
    compare(potential, reference, make_molecule(9, seed=1), graph_of)
    compare(potential, reference, make_box(4, seed=2), graph_of)


def test_model_section_is_the_one_of_the_yaml(shared: Path) -> None:
    """conf/model/ani.yaml is ANI-1x, to the digits of its file."""
    from omegaconf import OmegaConf

    (imported,) = read(shared / "data" / "neurochem")
    section = OmegaConf.to_container(OmegaConf.load(Path(__file__).resolve().parents[2] / "conf/model/ani.yaml"))
    assert imported.model.keys() == section.keys()
    for key, value in section.items():
        if key == "readout":
            hidden = {element: value["hidden_of"].get(element, value["hidden"]) for element in section["elements"]}
            assert imported.model[key]["hidden_of"] == hidden
        elif isinstance(value, list) and key != "elements":
            np.testing.assert_allclose(imported.model[key], value, rtol=1e-7)
        else:
            assert imported.model[key] == value


def test_ensemble_equals_torchani(
    torchani: ModuleType, directory: Path, make_molecule: MakeAtoms, graph_of: GraphOf
) -> None:
    """All members, in the order of their numbers, with layers that differ per element."""
    imported = read(directory)
    assert [Path(member.origin).parent.name for member in imported] == ["train0", "train2", "train10"]
    for number, member in zip((0, 2, 10), imported, strict=True):
        assert member.model["readout"]["hidden_of"] == {"C": [6, 5], "H": [7], "O": [4, 3]}
        atoms = make_molecule(8, seed=number, symbols="HCO")
        compare(potential_of(member), Reference(torchani, directory, number), atoms, graph_of)


@pytest.mark.parametrize("part", ["train2", "train2/networks"])
def test_one_network_of_an_ensemble(directory: Path, part: str) -> None:
    (alone,), member = read(directory / part), read(directory)[1]
    assert alone.origin == member.origin
    assert alone.model == member.model
    for key, value in member.weights.items():
        torch.testing.assert_close(alone.weights[key], value, rtol=0, atol=0)


def test_networks_directly_in_the_directory(directory: Path) -> None:
    (directory / "train0" / "networks").rename(directory / "networks")
    for number in (2, 10):
        (directory / f"train{number}").rename(directory.parent / f"other{number}")
    (imported,) = read(directory)
    assert imported.origin == f"NeuroChem network {directory / 'networks'}"


def test_single_precision_potential(directory: Path, make_molecule: MakeAtoms, graph_of: GraphOf) -> None:
    """The weights are what they were; E0 stays double."""
    imported = read(directory)[0]
    single, double = potential_of(imported, torch.float32), potential_of(imported)
    atoms = make_molecule(8, seed=3, symbols="HCO")
    settings = {"elements": ELEMENTS, "cutoff": 4.6}
    rounded = single(graph_of([atoms], dtype=torch.float32, **settings))["energy"]
    exact = double(graph_of([atoms], **settings))["energy"]
    assert rounded.dtype == torch.float64
    assert abs(float((rounded - exact).detach())) < 1e-4
    assert imported.weights["terms.0.readout.networks.0.0.weight"].dtype == torch.float32


def member_file(directory: Path, name: str) -> Path:
    return directory / "train2" / "networks" / name


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def describe(directory: Path, old: str, new: str, element: str = "C") -> None:
    text = description(element, WIDTHS[element])
    assert old in text
    write_description(member_file(directory, ""), element, text.replace(old, new))


def put_nan(file: Path) -> None:
    values = np.fromfile(file, dtype="<f4")
    values[1] = np.nan
    values.tofile(file)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated description": (lambda d: truncate(member_file(d, "ANN-C.nnf")), r"ANN-C\.nnf is truncated, damaged"),
    "empty description": (lambda d: member_file(d, "ANN-H.nnf").write_bytes(b""), r"ANN-H\.nnf is .*no bzip2 stream"),
    "binary description": (
        lambda d: member_file(d, "ANN-H.nnf").write_bytes(b"9=\n" + bz2.compress(b"\xff\xfe")),
        r"ANN-H\.nnf is truncated, damaged",
    ),
    "no description": (lambda d: member_file(d, "ANN-O.nnf").unlink(), r"ANN-O\.nnf cannot be read: No such file"),
    "other element": (
        lambda d: describe(d, "atom_net C", "atom_net N"),
        r"ANN-C\.nnf is not the network of C: it names N",
    ),
    "no element": (lambda d: describe(d, "atom_net C $", ""), r"ANN-C\.nnf is not the network of C: no atom_net"),
    "no layers": (lambda d: describe(d, "layer [", "lager ["), r"ANN-C\.nnf contains no layer"),
    "truncated weights": (
        lambda d: truncate(member_file(d, "ANN-C.nnf-l1.wparam")),
        r"ANN-C\.nnf-l1\.wparam has 1363 bytes, but 342 .* 1368",
    ),
    "no weights": (
        lambda d: member_file(d, "ANN-C.nnf-l2.bparam").unlink(),
        r"ANN-C\.nnf-l2\.bparam, named in .*ANN-C\.nnf, layer 2, does not exist",
    ),
    "weights elsewhere": (
        lambda d: describe(d, "FILE:ANN-C.nnf-l1", "FILE:../ANN-C.nnf-l1"),
        r"layer 1: weights is 'FILE:\.\./.*expected FILE:name\[count\]",
    ),
    "not finite": (
        lambda d: put_nan(member_file(d, "ANN-O.nnf-l1.wparam")),
        r"l1\.wparam contains numbers that",
    ),
    "other count": (lambda d: describe(d, "wparam[342]", "wparam[341]"), r"layer 1: weights has 341 numbers, but"),
    "gaussian activation": (
        lambda d: describe(d, "activation=9", "activation=5"),
        r"ANN-C\.nnf, layer 1: activation=5, expected 9; only plain layers with CELU",
    ),
    "curved last layer": (
        lambda d: describe(d, "activation=6", "activation=9"),
        r"layer 3: activation=9, expected 6; only plain layers",
    ),
    "batch norm": (lambda d: describe(d, "btchnorm=0", "btchnorm=1"), r"layer 1: btchnorm=1, expected 0"),
    "no width": (lambda d: describe(d, "nodes=6;", ""), r"layer 1: nodes is not set; expected an integer"),
    "width in words": (
        lambda d: describe(d, "nodes=6;", "nodes=six;"),
        r"layer 1: nodes is 'six'; expected an",
    ),
    "layers that do not fit": (
        lambda d: describe(d, "blocksize=6;", "blocksize=7;"),
        r"layer 2 has 7 inputs, but layer 1 has 6 outputs",
    ),
    "constants of another network": (
        lambda d: edit(d / "small.params", "9.0000000e-01,2.0000000e+00", "9.0000000e-01"),
        r"ANN-C\.nnf has 57 inputs, but the vectors .* have 33 entries",
    ),
    "truncated constants": (
        lambda d: edit(d / "small.params", "ShfA = [9.0000000e-01,2.0000000e+00]\nAtyp = [C,H,O]\n", ""),
        r"small\.params does not set Atyp, ShfA; it is truncated",
    ),
    "constants in words": (
        lambda d: edit(d / "small.params", "Rca = 3.1", "Rca = three"),
        r"small\.params: Rca is 'three.*'; expected finite numbers",
    ),
    "several widths": (
        lambda d: edit(d / "small.params", "Zeta = [1.4", "Zeta = [8,1.4"),
        r"small\.params: Zeta has 2 values; only networks with one",
    ),
    "no element in constants": (
        lambda d: edit(d / "small.params", "[C,H,O]", "[C,H,Ox]"),
        r"small\.params: 'Ox' in Atyp is not an element",
    ),
    "binary constants": (
        lambda d: (d / "small.params").write_bytes(b"\xff\xfe"),
        r"small\.params cannot be read as text",
    ),
    "no constants": (lambda d: (d / "small.params").unlink(), r"no \*\.params in .*train0/networks"),
    "two constants": (
        lambda d: (d / "other.params").write_text(CONSTANTS),
        r"contains several \*\.params: other\.params, small\.params",
    ),
    "no self energies": (lambda d: (d / "sae_linfit.dat").unlink(), r"no sae\*\.dat in "),
    "no self energy of one": (
        lambda d: edit(d / "sae_linfit.dat", "O,2=-75.19446356\n", ""),
        r"sae_linfit\.dat has no self energy of O",
    ),
    "self energy in words": (
        lambda d: edit(d / "sae_linfit.dat", "-0.60095298", "minus"),
        r"sae_linfit\.dat:2: 'H,1=minus'; expected a line like",
    ),
    "self energy without number": (
        lambda d: edit(d / "sae_linfit.dat", "H,1=", "H "),
        r"sae_linfit\.dat:2: 'H -0\.6.*'; expected a line like",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_directories_are_refused(directory: Path, damage: str) -> None:
    """The file and what is wrong with it are named."""
    act, message = DAMAGE[damage]
    act(directory)
    with pytest.raises(DataError, match=message):
        read(directory)


def test_last_layer_must_return_an_energy(directory: Path) -> None:
    folder = member_file(directory, "")
    write_description(folder, "H", description("H", [N_INPUTS, 7, 2]))
    np.zeros((2, 7), "<f4").tofile(folder / "ANN-H.nnf-l2.wparam")
    np.zeros(2, "<f4").tofile(folder / "ANN-H.nnf-l2.bparam")
    with pytest.raises(DataError, match=r"ANN-H\.nnf has 2 outputs; expected one"):
        read(directory)


def test_other_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"contains no networks: no ANN-\*\.nnf in it"):
        read(tmp_path)
    with pytest.raises(DataError, match="is not a directory"):
        read(tmp_path / "nowhere")
