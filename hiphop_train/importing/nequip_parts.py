"""What models of nequip have in common, NequIP and Allegro among them: settings, energies of the elements."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from hiphop_train.importing import exported
from hiphop_train.importing.exported import check, same

END = {"per_type_energy_scale_shift": "PerTypeScaleShift", "total_energy_sum": "AtomwiseReduce"}
"""Last parts of a model: name -> class."""


class ScalarNetwork(exported.Settings):
    """Settings of a network of scalars (ScalarMLPFunction)."""

    widths: list[PositiveInt]
    bias: Literal[False]
    nonlinearity: list[Literal["silu"]]
    layers: Literal["Sequential"]

    def hidden(self) -> list[int]:
        """Return the widths of its hidden layers."""
        check(len(self.widths) == 2 or self.nonlinearity == ["silu"], "nonlinearity", self.nonlinearity, "silu")
        return self.widths[1:-1]


class Settings(exported.Settings):
    """Settings of nequip, named as there, or as attributes of its modules."""

    type_names: list[str]
    parts: dict[str, str]
    r_max: PositiveFloat
    per_edge_type_cutoff: Literal[False]
    per_type_energy_scales: list[float]
    per_type_energy_shifts: list[float]
    edge_irreps: str
    norms: list[list[PositiveFloat]]
    readout: ScalarNetwork
    bessel: list[float]
    polynomial_cutoff_p: PositiveFloat

    def elements(self) -> list[str]:
        """Return the elements, which types must be."""
        return exported.elements_of(self.type_names, "type_names")

    def cutoff_power(self) -> int:
        """Return p of the polynomial cutoff."""
        power = int(self.polynomial_cutoff_p)
        check(power == self.polynomial_cutoff_p, "polynomial_cutoff_p", self.polynomial_cutoff_p, "integers")
        return power

    def n_radial(self) -> int:
        """Return the size of the radial basis."""
        return exported.check_bessel(torch.tensor(self.bessel, dtype=torch.float64), 1.0)


def check_parts(found: dict[str, str], supported: dict[str, str]) -> None:
    """Check of what modules a model is made."""
    for name, kind in found.items():
        check(supported.get(name) == kind, f"part {name}", kind, supported.get(name, "none of this name"))
    check(list(found) == list(supported), "parts", list(found), list(supported))


def energies(settings: Settings, readout: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the section of the readout, and E0 and scale, eV.

    Scales that differ between elements become those of a readout around the given one.
    """
    n_types = len(settings.type_names)
    scales, shifts = (
        _of_types(values, n_types, default, f"per_type_energy_{name}")
        for values, default, name in (
            (settings.per_type_energy_scales, 1.0, "scales"),
            (settings.per_type_energy_shifts, 0.0, "shifts"),
        )
    )
    weights = {"e0": torch.tensor([shifts], dtype=torch.float64)}
    scale = scales[0]
    if len(set(scales)) > 1:
        scale = 1.0
        scale_of = dict(zip(settings.type_names, scales, strict=True))
        target = "hiphop_train.readout.element_scales.ElementScales"
        readout = {"_target_": target, "scale_of": scale_of, "energy": readout}
    return readout, {**weights, "terms.0.scale": torch.tensor(scale, dtype=torch.float64)}


def _of_types(values: list[float], n_types: int, default: float, name: str) -> list[float]:
    found = values or [default]
    check(len(found) in (1, n_types), name, values, f"one number, or {n_types}")
    return found if len(found) == n_types else found * n_types


def inside(translated: dict[str, Tensor], readout: dict[str, Any]) -> dict[str, Tensor]:
    """Rename the weights of a readout that is within another."""
    if "energy" not in readout:
        return translated
    prefix = "terms.0.readout."
    return {
        name.replace(prefix, f"{prefix}energy.", 1) if name.startswith(prefix) else name: value
        for name, value in translated.items()
    }


def average_neighbours(norms: Sequence[Sequence[float]]) -> Tensor:
    """Return the mean number of neighbours N from 1 / sqrt(N) of each layer, which may be of each type."""
    of_types = same(norms, "avg_num_neighbors")
    check(len(set(of_types)) == 1, "avg_num_neighbors", [norm**-2 for norm in of_types], "one number for all types")
    return torch.tensor(of_types[0], dtype=torch.float64) ** -2
