"""Training: steps of all programs on one batch in turns, and of ours as `hiphop-train` makes them, loader included."""

from collections.abc import Callable
from typing import Any

import numpy as np

from hiphop_train.benchmark import systems
from hiphop_train.benchmark.link import Link
from hiphop_train.benchmark.md import OURS, Field, are_equal, differences, stages
from hiphop_train.benchmark.rounds import Turns, in_turns, problem_of, ratio, spread
from hiphop_train.data.structures import Structures


def measure(field: Field, batch: Structures, rounds: int, advance: Callable[[int], None]) -> dict[str, Any]:
    """Time a training step of all programs on the same batch: energies, forces, mean square errors, gradient, Adam.

    Parameters
    ----------
    field : who is timed
    batch : structures with labels
    rounds : turns of each
    advance : progress
    """
    names = [name for name, link in field.links.items() if link.description["trains"]]
    problems = {name: _load(field, field.links[name], batch) for name in names}
    bad = {name: problem for name, problem in problems.items() if problem}
    system = np.repeat(np.arange(len(batch)), batch.sizes)
    found = {name: differences(field, name, bad, batch.numbers, system) for name in names if name in field.same_weights}
    subjects = {name: (field.links[name], "training") for name in names if name not in bad}
    turns = in_turns(subjects, rounds, advance)
    turns |= {name: Turns(problem=problem) for name, problem in bad.items()}
    programs, ratios = {}, {}
    for name in names:
        plain = turns[name].plain()
        if not turns[name].problem:
            steps = 1000 / plain["median"]  # in a second
            plain["conformations_per_second"] = float(f"{steps * len(batch):.4g}")
            plain["atoms_per_second"] = float(f"{steps * len(batch.numbers):.4g}")
        programs[name] = plain
        equal = are_equal(field, found.get(name))
        if name != OURS and equal and (over := ratio(turns[name], turns[OURS])) is not None:
            ratios[name] = over
    return {
        "batch": {"structures": len(batch), "atoms": len(batch.numbers), "source": batch.source},
        "programs": programs,
        "ratios": ratios,
        "differences": {name: value for name, value in found.items() if value},
    }


def _load(field: Field, link: Link, batch: Structures) -> str:
    if not link.description["takes_pairs"] and batch.pbc.any():
        return "failed: it takes no batch of periodic structures"
    file = field.folder / "work.npz"
    systems.batch_of(batch, link.description["cutoff"]).save(file)
    problem = problem_of(lambda: link.ask(do="load", file=str(file), training=True))
    file.unlink()
    return problem


def throughput(link: Link, rounds: int, advance: Callable[[int], None]) -> dict[str, Any]:
    """Conformations and atoms per second of our whole training, loader and optimiser included."""
    measured = []
    for _ in range(rounds):
        measured.append(link.ask(do="special", what="throughput"))
        advance(1)
    found: dict[str, Any] = {
        f"{what}_per_second": spread([times[what] / times["seconds"] for times in measured])
        for what in ("conformations", "atoms")
    }
    return found | {"steps": int(sum(times["steps"] for times in measured))}


def breakdown(link: Link, rounds: int) -> dict[str, Any]:
    """Parts of a training step of ours (see `md.stages`)."""
    link.ask(do="special", what="training")
    return stages([link.ask(do="special", what="training") for _ in range(rounds)])
