"""Measurements: steps of molecular dynamics and of training by several programs, and the parts of our own steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiphop_train.benchmark import systems
from hiphop_train.benchmark.process import DoesNotFit, Failed, WorkerProcess
from hiphop_train.benchmark.rounds import NOT_FITTING, Turns, in_turns, problem_of, ratio, scaling, spread
from hiphop_train.benchmark.worker import Workload
from hiphop_train.data.structures import Structures

OURS = "ours"
DYNAMICS = {"excluded": "takes_pairs", "included": "finds_pairs"}
"""Whether the neighbour search is part of the step -> flag in a program's description that it supports this."""
TRAINING = "training"

EQUAL = {"float32": 5e-4, "float64": 1e-8}
"""Tolerance between programs with the same weights: of forces, relative to the largest; of energies, eV per atom."""


@dataclass(frozen=True)
class Programs:
    """All programs that are timed.

    Attributes
    ----------
    processes : by name, ours first
    folder : for files between the processes
    dtype : of the networks
    """

    processes: dict[str, WorkerProcess]
    folder: Path
    dtype: str

    @property
    def ours(self) -> WorkerProcess:
        """Our own process."""
        return self.processes[OURS]

    def able(self, what: str) -> list[str]:
        """Names of the programs with a flag in their description."""
        return [name for name, process in self.processes.items() if process.description[what]]

    def dynamics(self) -> list[tuple[str, str]]:
        """Programs and their variants, with and without neighbour search."""
        return [
            (name, variant)
            for name, process in self.processes.items()
            for variant, able in DYNAMICS.items()
            if process.description[able]
        ]

    def close(self) -> None:
        """End all processes."""
        for process in self.processes.values():
            process.close()


@dataclass
class Comparison:
    """Times of the same work by several programs.

    Attributes
    ----------
    turns : name and variant -> times
    differences : name -> ``forces``, the largest difference from ours relative to the largest force, and ``energy``,
        the largest difference in eV per atom; for programs with our weights
    pairs : name -> number of ordered pairs within its cutoff, for programs that take pairs
    tolerance : see `EQUAL`
    """

    tolerance: float
    turns: dict[tuple[str, str], Turns] = field(default_factory=dict)
    differences: dict[str, dict[str, float]] = field(default_factory=dict)
    pairs: dict[str, int] = field(default_factory=dict)

    def ratio(self, name: str, what: str) -> dict[str, float] | None:
        """Return the ratio of a program's time to ours, or None if outputs that should be equal differ."""
        equal = all(value <= self.tolerance for value in self.differences.get(name, {}).values())
        ours = self.turns.get((OURS, what))
        return ratio(self.turns[name, what], ours) if equal and ours is not None and name != OURS else None


def compare(
    programs: Programs,
    jobs: Sequence[tuple[str, str]],
    workload: Callable[[float | None], Workload],
    problems: dict[str, str],
    rounds: int,
    advance: Callable[[int], None],
) -> Comparison:
    """Give all programs the same work, compare their outputs, and time them in turns.

    Parameters
    ----------
    programs : all programs
    jobs : name, and ``excluded``, ``included`` or ``training``
    workload : function of a cutoff (Angstrom, or None: without pairs)
    problems : name -> why the program cannot run this workload
    rounds : number of turns
    advance : progress callback
    """
    found = Comparison(EQUAL[programs.dtype])
    problems = dict(problems)
    names = list(dict.fromkeys(name for name, _ in jobs))
    for name in names:
        if name not in problems:
            description = programs.processes[name].description
            work = workload(description["cutoff"] if description["takes_pairs"] else None)
            if description["takes_pairs"]:
                found.pairs[name] = len(work.pair_i)
            sizes = np.bincount(work.system)
            if problem := _load(programs, name, work, training=(name, TRAINING) in jobs):
                problems[name] = problem
            del work
    for name in names:
        same = programs.processes[name].description["same_weights"]
        if same and name != OURS and name not in problems and OURS not in problems:
            _compare_outputs(programs, name, sizes, found, problems)
    found.turns = in_turns(programs.processes, [job for job in jobs if job[0] not in problems], rounds, advance)
    found.turns |= {job: Turns(problem=problems[job[0]]) for job in jobs if job[0] in problems}
    return found


def _load(programs: Programs, name: str, work: Workload, training: bool) -> str:
    """Load a workload into a program; return the problem, or an empty string."""
    file = programs.folder / "work.npz"
    work.save(file)
    problem = problem_of(lambda: programs.processes[name].ask("load", file=str(file), training=training))
    file.unlink()
    return problem


def _compare_outputs(
    programs: Programs, name: str, sizes: NDArray[np.int64], found: Comparison, problems: dict[str, str]
) -> None:
    """Compare a program's outputs with ours, for the loaded workload."""
    try:
        theirs, ours = outputs(programs, name), outputs(programs, OURS)
    except DoesNotFit:
        return  # its turn will report it
    except Failed as error:
        problems[name] = f"failed: {error}"
        return
    energy = np.abs(theirs["energy"] - ours["energy"]) / sizes
    forces = np.abs(theirs["forces"] - ours["forces"]).max() / max(np.abs(ours["forces"]).max(), 1e-30)
    found.differences[name] = {"forces": float(f"{forces:.3g}"), "energy": float(f"{energy.max():.3g}")}


def outputs(programs: Programs, name: str) -> dict[str, NDArray[np.float64]]:
    """Energies and forces of a program's loaded workload."""
    file = programs.folder / f"{name}.npz"
    programs.processes[name].ask("outputs", file=str(file))
    with np.load(file) as arrays:
        found = {key: arrays[key] for key in ("energy", "forces")}
    file.unlink()
    return found


def dynamics(
    programs: Programs, system: systems.System, rounds: int, too_small: set[str], advance: Callable[[int], None]
) -> dict[str, Any]:
    """Time steps of molecular dynamics, energy and forces, of all programs on one structure.

    Parameters
    ----------
    programs : to time
    system : structure
    rounds : number of turns
    too_small : names of programs that ran out of memory on a smaller structure and are skipped; updated
    advance : progress callback

    Returns
    -------
    row : ``programs`` -> name -> variant -> times; ``ratios`` -> name -> variant -> ratio to ours; ``differences`` and
        ``pairs`` as in `Comparison`
    """
    jobs = programs.dynamics()
    problems = dict.fromkeys(too_small, NOT_FITTING)
    found = compare(programs, jobs, lambda cutoff: systems.work_of(system, cutoff), problems, rounds, advance)
    times: dict[str, dict[str, Any]] = {name: {} for name in programs.processes}
    ratios: dict[str, dict[str, Any]] = {}
    for (name, variant), turn in found.turns.items():
        plain = turn.plain()
        if turn.problem == NOT_FITTING:
            too_small.add(name)
        if not turn.problem:
            plain["microseconds_per_atom"] = float(f"{1000 * plain['median'] / len(system):.4g}")
            plain["peak_bytes_per_atom"] = round(plain["peak_bytes"] / len(system))
        times[name][variant] = plain
        if (over := found.ratio(name, variant)) is not None:
            ratios.setdefault(name, {})[variant] = over
    return {
        "system": system.name,
        "atoms": len(system),
        "is_water": system.is_water,
        "programs": times,
        "ratios": ratios,
        "differences": found.differences,
        "pairs": found.pairs,
    }


def training(programs: Programs, batch: Structures, rounds: int, advance: Callable[[int], None]) -> dict[str, Any]:
    """Time training steps of all programs on one batch: energies, forces, mean square errors, gradient, Adam.

    Parameters
    ----------
    programs : those that can train are timed
    batch : structures with labels
    rounds : number of turns
    advance : progress callback
    """
    jobs = [(name, TRAINING) for name in programs.able("trains")]
    given = programs.able("takes_pairs")
    refused = [name for name, _ in jobs if name not in given] if batch.pbc.any() else []
    problems = dict.fromkeys(refused, "failed: does not support batches of periodic structures")
    found = compare(programs, jobs, lambda cutoff: systems.batch_of(batch, cutoff), problems, rounds, advance)
    times: dict[str, Any] = {}
    for (name, _), turn in found.turns.items():
        times[name] = turn.plain()
        if not turn.problem:
            per_second = 1000 / times[name]["median"]
            times[name]["conformations_per_second"] = float(f"{per_second * len(batch):.4g}")
            times[name]["atoms_per_second"] = float(f"{per_second * len(batch.numbers):.4g}")
    ratios = {name: over for name, _ in jobs if (over := found.ratio(name, TRAINING)) is not None}
    return {
        "batch": {"structures": len(batch), "atoms": len(batch.numbers), "source": batch.source},
        "programs": {name: times[name] for name, _ in jobs},
        "ratios": ratios,
        "differences": found.differences,
    }


def throughput(process: WorkerProcess, rounds: int, advance: Callable[[int], None]) -> dict[str, Any]:
    """Conformations and atoms per second of our whole training, loader and optimiser included."""
    measured = []
    for _ in range(rounds):
        measured.append(process.ask("measure", what="throughput"))
        advance(1)
    found: dict[str, Any] = {
        f"{what}_per_second": spread([times[what] / times["seconds"] for times in measured])
        for what in ("conformations", "atoms")
    }
    return found | {"steps": int(sum(times["steps"] for times in measured))}


def breakdown(process: WorkerProcess, what: str, rounds: int) -> dict[str, Any]:
    """Times of the parts of our step (``md`` on the loaded structure, or ``training``), after one warm-up step."""
    return stages([process.ask("measure", what=what) for _ in range(rounds + 1)][1:])


def stages(measured: list[dict[str, float]]) -> dict[str, Any]:
    """Medians of the parts of a step in milliseconds and per cent of their sum, and of the whole step."""
    medians = {name: float(np.median([times[name] for times in measured])) for name in measured[0]}
    whole = medians.pop("whole")
    total = sum(medians.values())
    return {
        "milliseconds": {name: float(f"{value:.4g}") for name, value in medians.items()},
        "per_cent": {name: round(100 * value / total, 1) for name, value in medians.items()},
        "sum": float(f"{total:.4g}"),
        "whole_step": float(f"{whole:.4g}"),
    }


def fits(rows: list[dict[str, Any]], names: list[str]) -> dict[str, dict[str, Any]]:
    """Scaling of time and memory with the number of atoms, by program and variant; over water if of several sizes."""
    waters = [row for row in rows if row["is_water"]]
    chosen = waters if len({row["atoms"] for row in waters}) > 1 else rows
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        for variant in DYNAMICS:
            points = [
                (row["atoms"], row["programs"][name][variant])
                for row in chosen
                if "median" in row["programs"][name].get(variant, {})
            ]
            fit = scaling([atoms for atoms, _ in points], [times["median"] for _, times in points])
            if fit is not None:
                memory = [times["peak_bytes_per_atom"] for _, times in points]
                found.setdefault(name, {})[variant] = {
                    **fit,
                    "over": "water" if chosen is waters else "all structures",
                    "peak_bytes_per_atom": {
                        "lowest": min(memory),
                        "highest": max(memory),
                        "of_the_largest": memory[-1],
                    },
                }
    return found
