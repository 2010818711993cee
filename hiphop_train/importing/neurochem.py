"""Directories of NeuroChem, the program used to train the published ANI networks, as models ``ani``.

A directory contains the constants of the atomic environment vectors (``*.params``), the atoms' self energies
(``sae*.dat``) and networks: ``networks/``, or ``train0/networks/``, ``train1/networks/`` ... for an ensemble. A network
consists, for each element X, of a file ``ANN-X.nnf`` of compressed text and two files of single-precision numbers per
layer.

All numbers but the cutoffs are rounded to single precision, including self energies, as in torchani.
"""

import bz2
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase.data import atomic_numbers
from torch import Tensor

from hiphop_train.errors import DataError
from hiphop_train.importing.base import Imported
from hiphop_train.units import HARTREE

CELU, LINEAR = 9, 6
"""NeuroChem's codes of activation functions."""

CONSTANTS = {
    "Rcr": "cutoff",
    "Rca": "angular_cutoff",
    "EtaR": "radial_eta",
    "ShfR": "radial_shifts",
    "EtaA": "angular_eta",
    "Zeta": "angular_zeta",
    "ShfA": "angular_shifts",
    "ShfZ": "angular_sections",
}
"""Name in NeuroChem's file of constants -> argument of our model."""


class Layer(NamedTuple):
    """One linear layer."""

    weight: Tensor
    """(n_out, n_in)."""
    bias: Tensor
    """(n_out,)."""


def read(path: Path) -> list[Imported]:
    """Read a network, or all networks of an ensemble.

    Parameters
    ----------
    path : directory with constants, self energies and networks, or one of the network directories in it

    Returns
    -------
    imported : one model per network; its weights are in Hartree, which the scale converts to eV

    Raises
    ------
    DataError
        if a file is missing, truncated, or not in NeuroChem's format; names the file
    """
    folder = Path(path).expanduser().resolve()
    if not folder.is_dir():
        raise DataError(f"{path} is not a directory; give a NeuroChem directory with *.params, sae*.dat and networks")
    networks = _network_folders(folder)
    elements, constants = _read_constants(_beside(networks[0], "*.params"))
    self_energies = _read_self_energies(_beside(networks[0], "sae*.dat"), elements)
    imported = []
    for network in networks:
        layers = [_read_network(network / f"ANN-{element}.nnf", element) for element in elements]
        _check_inputs(network, elements, constants, layers)
        model = {
            "_target_": "hiphop_train.models.ani.ANI",
            "elements": elements,
            **constants,
            "standardise": False,
            "readout": _readout(elements, layers),
        }
        imported.append(Imported(model, _weights(layers, self_energies), f"NeuroChem network {network}"))
    return imported


def _network_folders(folder: Path) -> list[Path]:
    """Return the folders with ``ANN-*.nnf``, those of an ensemble sorted by number."""
    numbered = [(re.search(r"(\d+)$", train.name), train) for train in folder.glob("train*")]
    members = sorted((int(number[1]), train / "networks") for number, train in numbered if number)
    candidates = [folder, folder / "networks", *(member for _, member in members)]
    found = [candidate for candidate in candidates if any(candidate.glob("ANN-*.nnf"))]
    if not found:
        raise DataError(f"{folder} contains no networks: no ANN-*.nnf in it, in networks/ or in train0/networks/ ...")
    return found


def _beside(network: Path, pattern: str) -> Path:
    """Return the single file matching a pattern in the network's folder, or up to two folders above."""
    for folder in (network, *network.parents[:2]):
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise DataError(f"{folder} contains several {pattern}: {names}; keep only the one of these networks")
        if found:
            return found[0]
    raise DataError(f"no {pattern} in {network} or the two folders above; it belongs to a NeuroChem directory")


def _read_text(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as text: {error}") from error


def _finite(number: str, single: bool = True) -> float:
    """Return a finite number, in single precision or not; raises ValueError."""
    value = float(np.float32(number)) if single else float(number)
    if not np.isfinite(value):
        raise ValueError
    return value


def _read_constants(file: Path) -> tuple[list[str], dict[str, Any]]:
    """Return the elements and the model's arguments, lengths in Angstrom."""
    entries = dict(re.findall(r"^\s*(\w+)\s*=\s*\[?([^\]\n]*)", "\n".join(_read_text(file)), re.MULTILINE))
    missing = [name for name in ("Atyp", *CONSTANTS) if name not in entries]
    if missing:
        raise DataError(f"{file} does not set {', '.join(missing)}; it is truncated, or not a file of ANI's constants")
    elements = [symbol.strip() for symbol in entries["Atyp"].split(",")]
    for symbol in elements:
        if symbol not in atomic_numbers:
            raise DataError(f"{file}: '{symbol}' in Atyp is not an element")
    constants: dict[str, Any] = {}
    for name, argument in CONSTANTS.items():
        single = not argument.endswith("cutoff")
        try:
            numbers = [_finite(part, single) for part in entries[name].split(",")]
        except ValueError as error:
            raise DataError(f"{file}: {name} is '{entries[name]}'; expected finite numbers") from error
        is_list = argument.endswith(("shifts", "sections"))
        if not is_list and len(numbers) != 1:
            raise DataError(f"{file}: {name} has {len(numbers)} values; only networks with one are supported")
        constants[argument] = numbers if is_list else numbers[0]
    return elements, constants


def _read_self_energies(file: Path, elements: list[str]) -> Tensor:
    """Return the energy of an atom of each element (n_elements,) float64, Hartree."""
    energies = {}
    for number, line in enumerate(_read_text(file), start=1):
        if not line.strip():
            continue
        found = re.fullmatch(r"\s*(\w+)\s*,\s*\d+\s*=\s*(\S+)\s*", line)
        try:
            if found is None:
                raise ValueError
            energies[found[1]] = _finite(found[2])
        except ValueError as error:
            raise DataError(f"{file}:{number}: '{line.strip()}'; expected a line like H,0=-0.6009") from error
    missing = [element for element in elements if element not in energies]
    if missing:
        raise DataError(f"{file} has no self energy of {', '.join(missing)}")
    return torch.tensor([energies[element] for element in elements], dtype=torch.float64)


def _read_network(file: Path, element: str) -> list[Layer]:
    """Read the network of one element."""
    text = _decompress(file)
    named = re.search(r"atom_net\s+(\w+)", text)
    if named is None or named[1] != element:
        raise DataError(f"{file} is not the network of {element}: {f'it names {named[1]}' if named else 'no atom_net'}")
    sections = re.findall(r"layer\s*\[(.*?)^\s*\]", text, re.DOTALL | re.MULTILINE)
    if not sections:
        raise DataError(f"{file} contains no layer")
    layers: list[Layer] = []
    for depth, section in enumerate(sections, start=1):
        entries = dict(re.findall(r"(\w+)=([^;]*);", section))
        where = f"{file}, layer {depth}"
        _check_kind(entries, LINEAR if depth == len(sections) else CELU, where)
        n_in, n_out = _integer(entries, "blocksize", where), _integer(entries, "nodes", where)
        if layers and layers[-1].bias.shape[0] != n_in:
            raise DataError(f"{where} has {n_in} inputs, but layer {depth - 1} has {layers[-1].bias.shape[0]} outputs")
        weight = _parameters(file.parent, entries, "weights", n_out * n_in, where).reshape(n_out, n_in)
        layers.append(Layer(weight, _parameters(file.parent, entries, "biases", n_out, where)))
    if layers[-1].bias.shape[0] != 1:
        raise DataError(f"{file} has {layers[-1].bias.shape[0]} outputs; expected one, the energy")
    return layers


def _decompress(file: Path) -> str:
    """Return the text of an nnf file: a number and ``=``, followed by a bzip2 stream."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}; each element needs its network") from error
    start = content.find(b"BZh")
    try:
        if start < 0:
            raise ValueError("no bzip2 stream in it")
        return bz2.decompress(content[start:]).decode("ascii")
    except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise DataError(f"{file} is truncated, damaged or not a NeuroChem network: {error}") from error


def _check_kind(entries: dict[str, str], activation: int, where: str) -> None:
    """Refuse layers that are not linear layers with the expected activation."""
    for key, expected in (("activation", activation), ("type", 0), ("btchnorm", 0)):
        if _integer(entries, key, where) != expected:
            raise DataError(
                f"{where}: {key}={entries[key]}, expected {expected}; only plain layers with CELU (activation {CELU}) "
                f"and a linear last one ({LINEAR}) are supported"
            )


def _integer(entries: dict[str, str], key: str, where: str) -> int:
    value = entries.get(key)
    if value is None or not value.isdecimal():
        raise DataError(f"{where}: {key} is {'not set' if value is None else repr(value)}; expected an integer")
    return int(value)


def _parameters(folder: Path, entries: dict[str, str], key: str, count: int, where: str) -> Tensor:
    """Read the weights or biases of a layer, with the size that its shape requires."""
    found = re.fullmatch(r"FILE:([^/\\\[\]]+)\[(\d+)\]", entries.get(key, ""))
    if found is None:
        raise DataError(f"{where}: {key} is '{entries.get(key, '')}'; expected FILE:name[count]")
    if int(found[2]) != count:
        raise DataError(f"{where}: {key} has {found[2]} numbers, but the shape of the layer requires {count}")
    file = folder / found[1]
    if not file.is_file():
        raise DataError(f"{file}, named in {where}, does not exist")
    if file.stat().st_size != 4 * count:
        raise DataError(
            f"{file} has {file.stat().st_size} bytes, but {count} single-precision numbers have {4 * count}"
        )
    values = np.fromfile(file, dtype="<f4")
    if not np.isfinite(values).all():
        raise DataError(f"{file} contains numbers that are not finite")
    return torch.from_numpy(values.astype(np.float32))


def _check_inputs(folder: Path, elements: list[str], constants: dict[str, Any], layers: list[list[Layer]]) -> None:
    """Check that the networks' inputs are as long as the vectors defined by the constants."""
    n_types = len(elements)
    n_angular = len(constants["angular_shifts"]) * len(constants["angular_sections"])
    size = n_types * len(constants["radial_shifts"]) + n_types * (n_types + 1) // 2 * n_angular
    for element, network in zip(elements, layers, strict=True):
        n_in = network[0].weight.shape[1]
        if n_in != size:
            raise DataError(
                f"{folder / f'ANN-{element}.nnf'} has {n_in} inputs, but the vectors defined by the constants have "
                f"{size} entries; network and constants do not match"
            )


def _readout(elements: list[str], layers: list[list[Layer]]) -> dict[str, Any]:
    """Return the readout's section."""
    hidden = {
        element: [layer.bias.shape[0] for layer in network[:-1]]
        for element, network in zip(elements, layers, strict=True)
    }
    return {
        "_target_": "hiphop_train.readout.per_element.PerElementEnergy",
        "hidden": hidden[elements[0]],
        "hidden_of": hidden,
        "activation": "celu",
    }


def _weights(layers: list[list[Layer]], self_energies: Tensor) -> dict[str, Tensor]:
    """Return the state dictionary of the potential, in whose networks linear layers and activations alternate."""
    weights = {
        "e0": HARTREE * self_energies[None, :],
        "terms.0.scale": torch.tensor(HARTREE, dtype=torch.float64),
    }
    for element, network in enumerate(layers):
        for depth, layer in enumerate(network):
            name = f"terms.0.readout.networks.{element}.{2 * depth}"
            weights |= {f"{name}.weight": layer.weight, f"{name}.bias": layer.bias}
    return weights
