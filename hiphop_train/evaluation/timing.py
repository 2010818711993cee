"""Time of an evaluation, of several potentials side by side on the same structures."""

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hiphop_train.data.batching.dataset import BatchDataset
from hiphop_train.data.structures import Structures
from hiphop_train.potential import Potential

ROUNDS = 15


def processor() -> str:
    """Name of this machine's processor."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit PyTorch to one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def microseconds_per_atom(
    subjects: Sequence[tuple[Potential, torch.dtype, Structures]],
    rounds: int = ROUNDS,
    advance: Callable[[int], None] = lambda n: None,
) -> NDArray[np.float64]:
    """Time energy and forces on the CPU, one thread, one batch each, its pairs given.

    The subjects take turns, so that the machine's other load affects all of them alike.

    Parameters
    ----------
    subjects : potential, floating-point type of its network, and the structures of its batch
    rounds : evaluations of each, after one that warms up
    advance : called with 1 after each evaluation, for progress

    Returns
    -------
    times : (n_subjects, rounds) microseconds per atom
    """
    graphs = []
    for potential, dtype, structures in subjects:
        potential.to("cpu").eval()
        index = np.arange(len(structures))
        batch = BatchDataset(structures, potential.elements, potential.cutoff, dtype)[index, np.ones(len(index))]
        graphs.append(batch.graph)
    times = np.zeros((len(subjects), rounds + 1))
    with one_thread():
        for turn in range(rounds + 1):
            for k, (potential, _, structures) in enumerate(subjects):
                started = time.perf_counter()
                potential(graphs[k])
                times[k, turn] = 1e6 * (time.perf_counter() - started) / len(structures.numbers)
                advance(1)
    return times[:, 1:]
