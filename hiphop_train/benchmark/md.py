"""Steps of dynamics: energy and forces, the neighbour search included and excluded."""

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiphop_train.benchmark import systems
from hiphop_train.benchmark.link import DoesNotFit, Failed, Link
from hiphop_train.benchmark.rounds import NOT_FITTING, Turns, in_turns, problem_of, ratio, scaling

OURS = "ours"
VARIANTS = {"excluded": "takes_pairs", "included": "finds_pairs"}
"""Whether the neighbour search is part of the step -> what a program says of itself when it can do so."""

EQUAL = {"float32": 5e-4, "float64": 1e-8}
"""What two programs with the same weights may differ by: in forces, over the largest one; in energies, eV per atom."""


@dataclass
class Field:
    """All that are timed.

    Attributes
    ----------
    links : name -> process, ours first
    same_weights : names of the programs that have our weights
    folder : for files between the processes
    dtype : of the networks
    e0 : (119,) eV by atomic number, of ours
    without_e0 : names of those with our weights whose energies are less E0
    """

    links: dict[str, Link]
    same_weights: set[str]
    folder: Path
    dtype: str
    e0: NDArray[np.float64] = dataclass_field(default_factory=lambda: np.zeros(119))
    without_e0: set[str] = dataclass_field(default_factory=set)

    def variants(self, name: str) -> list[str]:
        """Ways to time a program: with its neighbour search, without."""
        return [variant for variant, able in VARIANTS.items() if self.links[name].description[able]]


def turns_needed(field: Field, rounds: int) -> int:
    """Turns that a structure takes, for progress."""
    return sum(len(field.variants(name)) for name in field.links) * (rounds + 1)


def measure(
    field: Field, system: systems.System, rounds: int, too_small: set[str], advance: Callable[[int], None]
) -> dict[str, Any]:
    """Time all programs on one structure.

    Parameters
    ----------
    field : who is timed
    system : structure
    rounds : turns of each
    too_small : names of those whose memory a smaller structure has filled; they are not tried again, and more are added
    advance : progress

    Returns
    -------
    row : ``programs`` -> name -> variant -> times; ``ratios`` -> name -> variant -> over ours;
        ``differences`` -> name (see `differences`); ``pairs`` -> name, ordered pairs inside of its cutoff
    """
    problems: dict[str, str] = dict.fromkeys(too_small, NOT_FITTING)
    n_pairs: dict[str, int] = {}
    for name, link in field.links.items():
        if name not in problems and (problem := _load(field, link, system, n_pairs)):
            problems[name] = problem
    atoms = np.zeros(len(system), np.int64)
    found = {
        name: differences(field, name, problems, system.numbers, atoms)
        for name in field.links
        if name in field.same_weights
    }
    subjects = {
        (name, variant): (link, variant)
        for name, link in field.links.items()
        if name not in problems
        for variant in field.variants(name)
    }
    labels = {f"{name} {variant}": (name, variant) for name, variant in subjects}
    turns = in_turns({label: subjects[key] for label, key in labels.items()}, rounds, advance)
    by_key = {key: turns[label] for label, key in labels.items()}
    for name, problem in problems.items():
        for variant in field.variants(name):
            by_key[name, variant] = Turns(problem=problem)
    too_small |= {name for (name, _), turn in by_key.items() if turn.problem == NOT_FITTING}
    known = {name: value for name, value in found.items() if value}
    return {**_row(field, system, by_key, known), "pairs": n_pairs}


def _load(field: Field, link: Link, system: systems.System, n_pairs: dict[str, int]) -> str:
    """Give a program its structure, and count its pairs; returns what went wrong."""
    file = field.folder / "work.npz"
    cutoff = link.description["cutoff"] if link.description["takes_pairs"] else None
    work = systems.work_of(system, cutoff)
    if cutoff is not None:
        n_pairs[link.name] = len(work.pair_i)
    work.save(file)
    del work
    problem = problem_of(lambda: link.ask(do="load", file=str(file), training=False))
    file.unlink()
    return problem


def outputs(field: Field, name: str) -> dict[str, Any]:
    """Energies and forces of what a program has loaded."""
    file = field.folder / f"{name}.npz"
    field.links[name].ask(do="outputs", file=str(file))
    with np.load(file) as arrays:
        found = {key: arrays[key] for key in ("energy", "forces")}
    file.unlink()
    return found


def differences(
    field: Field,
    name: str,
    problems: dict[str, str],
    numbers: NDArray[np.integer[Any]],
    system: NDArray[np.int64],
) -> dict[str, float]:
    """Compare a program's outputs with ours, of what both have loaded.

    Parameters
    ----------
    field : who is timed
    name : of the program
    problems : of those that have not loaded it; more are added
    numbers, system : (n_atoms,) atomic numbers, and to which structure each atom belongs

    Returns
    -------
    found : ``forces``, the largest difference over the largest force, and ``energy``, the largest difference in eV per
        atom; empty where there are no outputs
    """
    if name in problems or OURS in problems:
        return {}
    try:
        theirs, ours = outputs(field, name), outputs(field, OURS)
    except DoesNotFit:
        return {}  # which its time will say
    except Failed as error:
        problems[name] = f"failed: {error}"
        return {}
    shift = np.bincount(system, field.e0[numbers]) if name in field.without_e0 else 0.0
    energy = np.abs(theirs["energy"] + shift - ours["energy"]) / np.bincount(system)
    forces = np.abs(theirs["forces"] - ours["forces"]).max() / max(np.abs(ours["forces"]).max(), 1e-30)
    return {"forces": float(f"{forces:.3g}"), "energy": float(f"{energy.max():.3g}")}


def are_equal(field: Field, found: dict[str, float] | None) -> bool:
    """Whether outputs are as equal as they must be; those that were not compared need not be."""
    return all(value <= EQUAL[field.dtype] for value in (found or {}).values())


def _row(
    field: Field,
    system: systems.System,
    turns: dict[tuple[str, str], Turns],
    found: dict[str, dict[str, float]],
) -> dict[str, Any]:
    programs: dict[str, dict[str, Any]] = {name: {} for name in field.links}
    ratios: dict[str, dict[str, Any]] = {}
    for (name, variant), turn in turns.items():
        plain = turn.plain()
        if not turn.problem:
            plain["microseconds_per_atom"] = float(f"{1000 * plain['median'] / len(system):.4g}")
            plain["peak_bytes_per_atom"] = round(plain["peak_bytes"] / len(system))
        programs[name][variant] = plain
        if name != OURS:
            ours = turns.get((OURS, variant))
            if ours is not None and are_equal(field, found.get(name)) and (over := ratio(turn, ours)) is not None:
                ratios.setdefault(name, {})[variant] = over
    return {
        "system": system.name,
        "atoms": len(system),
        "is_water": system.is_water,
        "programs": programs,
        "ratios": ratios,
        "differences": found,
    }


def fits(rows: list[dict[str, Any]], names: list[str]) -> dict[str, dict[str, Any]]:
    """How times and memory grow with the number of atoms, by program and variant; over water where it has two sizes."""
    waters = [row for row in rows if row["is_water"]]
    chosen = waters if len({row["atoms"] for row in waters}) > 1 else rows
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        for variant in VARIANTS:
            points = [
                (row["atoms"], row["programs"][name][variant])
                for row in chosen
                if "median" in row["programs"][name].get(variant, {})
            ]
            fit = scaling([atoms for atoms, _ in points], [times["median"] for _, times in points])
            if fit is not None:
                over = "water" if chosen is waters else "all structures"
                memory = [times["peak_bytes_per_atom"] for _, times in points]
                found.setdefault(name, {})[variant] = {
                    **fit,
                    "over": over,
                    "peak_bytes_per_atom": {
                        "lowest": min(memory),
                        "highest": max(memory),
                        "of_the_largest": memory[-1],
                    },
                }
    return found


def breakdown(link: Link, rounds: int) -> dict[str, Any]:
    """Parts of a step of ours on the structure that is loaded (see `stages`)."""
    link.ask(do="special", what="md")
    return stages([link.ask(do="special", what="md") for _ in range(rounds)])


def stages(measured: list[dict[str, float]]) -> dict[str, Any]:
    """Medians of the parts of a step in milliseconds and per cent of their sum, beside the whole measured at once."""
    medians = {name: float(np.median([times[name] for times in measured])) for name in measured[0]}
    whole = medians.pop("whole")
    total = sum(medians.values())
    return {
        "milliseconds": {name: float(f"{value:.4g}") for name, value in medians.items()},
        "per_cent": {name: round(100 * value / total, 1) for name, value in medians.items()},
        "sum": float(f"{total:.4g}"),
        "whole_step": float(f"{whole:.4g}"),
    }
