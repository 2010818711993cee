"""COMP6: what is published for it, shown only beside what can be compared."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """Errors on COMP6v1 of a model trained on ANI-1x, MAE and RMSE in kcal/mol and kcal/mol/Angstrom; None: not given.

    Attributes
    ----------
    model, source : whose errors, and where they stand
    subset : name of the subset, or None for all of COMP6
    energy, relative_energy, forces : (MAE, RMSE)
    """

    model: str
    source: str
    subset: str | None
    energy: tuple[float | None, float | None]
    relative_energy: tuple[float | None, float | None]
    forces: tuple[float | None, float | None]


_NONE = (None, None)
_LUBBERS = "N. Lubbers, LA-UR-25-26171 (2025)"

REFERENCES = (
    Reference("ANI-1x", "isayev/COMP6, README", None, (1.93, 3.37), (1.85, 2.95), (3.09, 5.29)),
    Reference("ANI-1", "isayev/COMP6, README", None, (5.01, 16.9), (3.01, 6.97), (3.70, 7.13)),
    Reference("GM-NN", _LUBBERS, None, (2.03, None), _NONE, (1.85, None)),
    Reference("MACE 96-1", _LUBBERS, None, (0.76, None), _NONE, (0.77, None)),
    Reference("MACE 192-2", _LUBBERS, None, (0.48, None), _NONE, (0.52, None)),
    Reference("NewtonNet", _LUBBERS, None, (1.45, None), _NONE, (1.79, None)),
    Reference("HIP-HOP-NN", _LUBBERS, None, (0.64, None), _NONE, (0.80, None)),
    Reference("HIP-NN-TS", "arXiv 2212.03195", None, _NONE, (0.927, None), _NONE),
    Reference(
        "ANI-1x ensemble", "measured with torchani on the real file", "S66x8", (1.89, 3.07), (1.65, 2.85), (1.56, 2.85)
    ),
)

TOTAL = 101_352
"""Conformations of the complete COMP6v1."""


def references(subset: str | None, n_structures: int) -> list[Reference]:
    """Return what may stand beside a result: totals beside the complete pool only."""
    if subset is None and n_structures != TOTAL:
        return []
    return [reference for reference in REFERENCES if reference.subset == subset]
