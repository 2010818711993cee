"""Turns: everyone works once in each round, one at a time, so that what else the machine does meets all alike."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiphop_train.benchmark.link import DoesNotFit, Failed, Link

PERIOD = 300.0
"""Milliseconds that one turn takes at least, if so many repetitions are needed."""

MOST = 50
"""Repetitions in a turn."""

WARM_UP = 3000.0
"""Milliseconds that warming up goes on for, with three repetitions at most: compilers look at the first two."""

NOT_FITTING = "does not fit in memory"


@dataclass
class Turns:
    """What one program took.

    Attributes
    ----------
    milliseconds : of one repetition, by round; None where it was not to be had
    peak : bytes, the largest
    problem : why there are no times, or empty
    count : repetitions in a turn
    """

    milliseconds: list[float] = field(default_factory=list)
    peak: int = 0
    problem: str = ""
    count: int = 1

    def plain(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        if self.problem:
            return {"problem": self.problem}
        return {
            **spread(self.milliseconds),
            "rounds": [round(value, 4) for value in self.milliseconds],
            "repetitions": self.count,
            "peak_bytes": self.peak,
        }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    array = np.asarray(values)
    return {
        "median": float(f"{np.median(array):.6g}"),
        "lowest": float(f"{array.min():.6g}"),
        "highest": float(f"{array.max():.6g}"),
    }


def in_turns(
    subjects: dict[str, tuple[Link, str]], rounds: int, advance: Callable[[int], None] = lambda n: None
) -> dict[str, Turns]:
    """Time several programs.

    Parameters
    ----------
    subjects : label -> process, and what it does (``excluded``, ``included``, ``training``)
    rounds : turns of each
    advance : called with 1 after each turn, the warming up included

    Returns
    -------
    turns : by label; those whose work does not fit in memory, or who fail, say so, and the others go on
    """
    turns = {label: Turns() for label in subjects}
    links = {link.name: link for link, _ in subjects.values()}.values()
    for label, (link, what) in subjects.items():
        link.make_room(links)
        _try(turns[label], lambda turn, link=link, what=what: _warm_up(turn, link, what))  # type: ignore[misc]
        advance(1)
    for _ in range(rounds):
        for label, (link, what) in subjects.items():
            link.make_room(links)
            _try(turns[label], lambda turn, link=link, what=what: _take(turn, link, what))  # type: ignore[misc]
            advance(1)
    return turns


def _try(turn: Turns, call: Callable[[Turns], None]) -> None:
    if not turn.problem:
        turn.problem = problem_of(lambda: call(turn))


def problem_of(call: Callable[[], Any]) -> str:
    """Let a program do something; returns what went wrong, or nothing."""
    try:
        call()
    except DoesNotFit:
        return NOT_FITTING
    except Failed as error:
        return f"failed: {error}"
    return ""


def _warm_up(turn: Turns, link: Link, what: str) -> None:
    spent, last = 0.0, 0.0
    for _ in range(3):
        answer = link.ask(do="run", what=what, count=1)
        last = float(answer["milliseconds"])
        spent += last
        turn.peak = max(turn.peak, int(answer["peak"]))
        if spent > WARM_UP and last > 0.2 * spent:  # what only the first one took is not counted
            break
    turn.count = min(MOST, max(1, math.ceil(PERIOD / max(last, 1e-3))))


def _take(turn: Turns, link: Link, what: str) -> None:
    answer = link.ask(do="run", what=what, count=turn.count)
    turn.milliseconds.append(float(answer["milliseconds"]))
    turn.peak = max(turn.peak, int(answer["peak"]))


def ratio(theirs: Turns, ours: Turns) -> dict[str, float] | None:
    """How many times as long as we they took, round by round; None where either has no times."""
    if theirs.problem or ours.problem:
        return None
    return spread((np.array(theirs.milliseconds) / np.array(ours.milliseconds)).tolist())


def scaling(atoms: Sequence[int], times: Sequence[float]) -> dict[str, float | int | None] | None:
    """Fit time = c atoms^exponent by least squares of the logarithms.

    Parameters
    ----------
    atoms, times : of structures of two different sizes at least, else there is no fit

    Returns
    -------
    fit : ``exponent``, its ``standard_error`` (None for two points), ``points``, ``smallest`` and ``largest`` structure
        (atoms), and ``per_atom_largest_over_smallest``, the time per atom of the one over that of the other
    """
    x, y = np.log(np.asarray(atoms, np.float64)), np.log(np.asarray(times, np.float64))
    if len(set(atoms)) < 2:
        return None
    centred: NDArray[np.float64] = x - x.mean()
    exponent = float(centred @ y / (centred @ centred))
    rest = y - y.mean() - exponent * centred
    n = len(x)
    error = math.sqrt(float(rest @ rest) / (n - 2) / float(centred @ centred)) if n > 2 else None
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
