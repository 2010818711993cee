"""Rounds: each program runs once per round, one at a time, so that disturbances of the machine affect all equally."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiphop_train.benchmark.process import DoesNotFit, Failed, WorkerProcess

PERIOD = 300.0
"""Shortest turn, milliseconds; shorter work is repeated."""

MOST = 50
"""Largest number of repetitions in a turn."""

WARM_UP = 3000.0
"""Milliseconds after which a warm-up ends, or after three repetitions, since compilers profile the first two."""

NOT_FITTING = "does not fit in memory"


@dataclass
class Turns:
    """Times of one program.

    Attributes
    ----------
    milliseconds : of one repetition, by round
    peak : largest peak of memory, bytes
    problem : why times are missing, or empty
    count : repetitions in a turn
    """

    milliseconds: list[float] = field(default_factory=list)
    peak: int = 0
    problem: str = ""
    count: int = 1

    def plain(self) -> dict[str, Any]:
        """Return the results in plain types, for JSON."""
        if self.problem:
            return {"problem": self.problem}
        return {
            **spread(self.milliseconds),
            "rounds": [round(value, 4) for value in self.milliseconds],
            "repetitions": self.count,
            "peak_bytes": self.peak,
        }

    def run(self, process: WorkerProcess, what: str, count: int) -> float:
        """Run a program; return the milliseconds of one repetition."""
        answer = process.ask("run", what=what, count=count)
        self.peak = max(self.peak, int(answer["peak"]))
        return float(answer["milliseconds"])

    def warm_up(self, process: WorkerProcess, what: str) -> None:
        """Run up to three times, and choose the number of repetitions."""
        spent, last = 0.0, 0.0
        for _ in range(3):
            last = self.run(process, what, 1)
            spent += last
            if spent > WARM_UP and last > 0.2 * spent:  # the first run did not dominate
                break
        self.count = min(MOST, max(1, math.ceil(PERIOD / max(last, 1e-3))))

    def take(self, process: WorkerProcess, what: str) -> None:
        """Take one turn."""
        self.milliseconds.append(self.run(process, what, self.count))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    array = np.asarray(values)
    return {
        "median": float(f"{np.median(array):.6g}"),
        "lowest": float(f"{array.min():.6g}"),
        "highest": float(f"{array.max():.6g}"),
    }


def in_turns(
    processes: Mapping[str, WorkerProcess],
    jobs: Sequence[tuple[str, str]],
    rounds: int,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[tuple[str, str], Turns]:
    """Time several programs.

    Parameters
    ----------
    processes : by name
    jobs : name, and task of the program (``excluded``, ``included``, ``training``)
    rounds : number of turns
    advance : progress callback, called with 1 after each turn, warm-up included

    Returns
    -------
    turns : by job; a program that runs out of memory or fails has its problem recorded, and the others continue
    """
    turns = {job: Turns() for job in jobs}
    participants = [processes[name] for name in dict.fromkeys(name for name, _ in jobs)]
    for number in range(rounds + 1):
        for (name, what), turn in turns.items():
            processes[name].make_room(participants)
            if not turn.problem:
                step = turn.take if number else turn.warm_up
                turn.problem = problem_of(step, processes[name], what)
            advance(1)
    return turns


def problem_of(call: Callable[..., Any], *arguments: Any) -> str:
    """Call a function that sends a request to a program; return the problem, or an empty string."""
    try:
        call(*arguments)
    except DoesNotFit:
        return NOT_FITTING
    except Failed as error:
        return f"failed: {error}"
    return ""


def ratio(theirs: Turns, ours: Turns) -> dict[str, float] | None:
    """Return the ratio of their time to ours, round by round; None if either has no times."""
    if theirs.problem or ours.problem:
        return None
    return spread((np.array(theirs.milliseconds) / np.array(ours.milliseconds)).tolist())


def scaling(atoms: Sequence[int], times: Sequence[float]) -> dict[str, float | int | None] | None:
    """Fit time = c atoms^exponent by least squares of the logarithms.

    Parameters
    ----------
    atoms, times : of structures of at least two different sizes, otherwise the fit is None

    Returns
    -------
    fit : ``exponent``, its ``standard_error`` (None for two points), ``points``, ``smallest`` and ``largest`` structure
        (atoms), and ``per_atom_largest_over_smallest``, the ratio of their times per atom
    """
    x, y = np.log(np.asarray(atoms, np.float64)), np.log(np.asarray(times, np.float64))
    if len(set(atoms)) < 2:
        return None
    centred: NDArray[np.float64] = x - x.mean()
    exponent = float(centred @ y / (centred @ centred))
    residual = y - y.mean() - exponent * centred
    n = len(x)
    error = math.sqrt(float(residual @ residual) / (n - 2) / float(centred @ centred)) if n > 2 else None
    small, large = int(np.argmin(x)), int(np.argmax(x))
    growth = (times[large] / atoms[large]) / (times[small] / atoms[small])
    return {
        "exponent": exponent,
        "standard_error": error,
        "points": n,
        "smallest": int(atoms[small]),
        "largest": int(atoms[large]),
        "per_atom_largest_over_smallest": float(growth),
    }
