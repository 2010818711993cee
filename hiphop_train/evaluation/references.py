"""Errors of other methods, shown only beside exactly the structures that they were computed for."""

from dataclasses import dataclass

Pair = tuple[float | None, float | None]
"""MAE and RMSE, kcal/mol or kcal/mol/Angstrom; None where none is given."""

_NONE: Pair = (None, None)

POOLED = "all"
"""Name of all sets of a collection together."""


@dataclass(frozen=True)
class Reference:
    """Errors of one method on one set.

    Attributes
    ----------
    method, source : whose errors, and where they are published
    data, set_name, n_structures : what they were computed for
    energy, relative_energy, forces : MAE and RMSE
    """

    method: str
    source: str
    data: str
    set_name: str
    n_structures: int
    energy: Pair
    relative_energy: Pair
    forces: Pair

    def of(self, kind: str) -> Pair:
        """Return the errors of a kind, see `hiphop_train.evaluation.errors.kinds`."""
        errors = {"energy": self.energy, "relative_energy": self.relative_energy, "forces": self.forces}
        return errors.get(kind, _NONE)


_COMP6 = ("comp6", POOLED, 101_352)
_LUBBERS = "N. Lubbers, LA-UR-25-26171 (2025)"
_README = "isayev/COMP6, README"
_HERE = "benchmarks/baselines.py"

REFERENCES = (
    # COMP6v1, models trained on ANI-1x
    Reference("ANI-1x", _README, *_COMP6, (1.93, 3.37), (1.85, 2.95), (3.09, 5.29)),
    Reference("ANI-1", _README, *_COMP6, (5.01, 16.9), (3.01, 6.97), (3.70, 7.13)),
    Reference("GM-NN", _LUBBERS, *_COMP6, (2.03, None), _NONE, (1.85, None)),
    Reference("MACE 96-1", _LUBBERS, *_COMP6, (0.76, None), _NONE, (0.77, None)),
    Reference("MACE 192-2", _LUBBERS, *_COMP6, (0.48, None), _NONE, (0.52, None)),
    Reference("NewtonNet", _LUBBERS, *_COMP6, (1.45, None), _NONE, (1.79, None)),
    Reference("HIP-HOP-NN", _LUBBERS, *_COMP6, (0.64, None), _NONE, (0.80, None)),
    Reference("HIP-NN-TS", "arXiv 2212.03195", *_COMP6, _NONE, (0.927, None), _NONE),
    # measured by this project; energies of GFN2-xTB are at another level of theory, so only their differences compare
    Reference("GFN2-xTB", _HERE, "comp6", "S66x8", 528, _NONE, (1.041, 1.459), (2.902, 4.120)),
    Reference("ANI-1x, 1 network", _HERE, "comp6", "S66x8", 528, (2.150, 3.578), (1.917, 3.252), (2.135, 3.996)),
    Reference("GFN2-xTB", _HERE, "tiny", "test_unseen", 276, _NONE, (2.328, 3.134), (5.598, 8.355)),
    Reference("ANI-1x, 1 network", _HERE, "tiny", "test_unseen", 276, (1.309, 2.626), (1.710, 3.128), (4.075, 7.052)),
    Reference("GFN2-xTB", _HERE, "tiny", "test", 241, _NONE, (1.957, 2.751), (6.144, 9.383)),
    Reference("ANI-1x, 1 network", _HERE, "tiny", "test", 241, (1.856, 3.418), (1.683, 2.916), (5.120, 10.244)),
)


def references(data: str, set_name: str, n_structures: int) -> list[Reference]:
    """Return what may be compared with a result: errors for the same data and set, complete."""
    wanted = (data, set_name, n_structures)
    return [found for found in REFERENCES if (found.data, found.set_name, found.n_structures) == wanted]
