"""One program's potential in a separate process: requests and answers are JSON lines on its standard streams.

`hiphop_train.benchmark.process` starts ``worker.py FILE``, possibly with the Python of an environment without
hiphop-train: this file needs only numpy and torch. FILE defines a `Program` and ends with ``serve(...)``.

Energies are in the program's unit; forces are their negative derivatives with respect to positions in Angstrom.
"""

import ctypes
import dataclasses
import gc
import json
import os
import runpy
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Result = tuple[Tensor, Tensor]
"""Energies (n_systems,) and forces (n_atoms, 3)."""

DTYPES = {"float32": torch.float32, "float64": torch.float64}
OUT_OF_MEMORY = ("allocate memory", "out of memory", "bad_alloc", "not enough memory", "Unable to allocate")
"""Parts of the messages of failed allocations."""


@dataclasses.dataclass(frozen=True, eq=False)
class Workload:
    """One structure or a batch, with the pairs within a program's cutoff.

    Attributes
    ----------
    numbers : (n_atoms,) int64 atomic numbers
    positions : (n_atoms, 3) float64, Angstrom
    cell : (n_systems, 3, 3) float64, Angstrom, rows are lattice vectors; zero where open
    pbc : (n_systems, 3) bool
    system : (n_atoms,) int64, ascending
    pair_i, pair_j : (n_pairs,) int64, all ordered pairs, sorted by receiving atom i
    pair_shift : (n_pairs, 3) int64, such that the vector of a pair is r_j + shift . cell - r_i
    energy : (n_systems,) labels of a training batch, else zeros
    forces : (n_atoms, 3) labels
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    system: NDArray[np.int64]
    pair_i: NDArray[np.int64]
    pair_j: NDArray[np.int64]
    pair_shift: NDArray[np.int64]
    energy: NDArray[np.float64]
    forces: NDArray[np.float64]

    @property
    def n_systems(self) -> int:
        """Number of structures."""
        return len(self.cell)

    def translations(self) -> NDArray[np.float64]:
        """Return the displacement of each pair's sending image from its atom (n_pairs, 3), Angstrom."""
        if not self.pair_shift.any():
            return np.zeros(self.pair_shift.shape)
        cells = self.cell[self.system[self.pair_i]]
        moved: NDArray[np.float64] = np.einsum("pk,pkx->px", self.pair_shift.astype(np.float64), cells)
        return moved

    def save(self, file: Path) -> None:
        """Write as numpy arrays."""
        np.savez(file, **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    @classmethod
    def read(cls, file: Path) -> "Workload":
        """Read the arrays written by `save`."""
        with np.load(file) as arrays:
            return cls(**{field.name: arrays[field.name] for field in dataclasses.fields(cls)})


class Program(ABC):
    """A program's potential.

    Parameters
    ----------
    settings : of the program, with ``elements`` (symbols) and ``atomic_numbers`` of our model; if our potential is
        needed also ``model`` (complete section) and ``potential`` (file with its weights), or ``exported`` (file)
    dtype : floating-point type of the network
    device : where it computes

    Attributes
    ----------
    model : module with the parameters; None if it is not accessible
    cutoff : distance up to which pairs are needed, Angstrom; None if it takes no pairs
    takes_pairs : whether it accepts a list of pairs
    finds_pairs : whether it can search for pairs itself
    trains : whether the model can be trained
    same_weights : whether it has our potential's weights, so that outputs must be equal
    energy_offset : (n_systems,) float64, part of the energy that `evaluate` omits, such as E0
    measurements : name -> function that returns times, for measurements specific to this program
    """

    model: torch.nn.Module | None = None
    cutoff: float | None = None
    takes_pairs = True
    finds_pairs = False
    trains = True
    same_weights = False
    energy_offset: NDArray[np.float64] | float = 0.0

    def __init__(self, settings: dict[str, Any], dtype: torch.dtype, device: torch.device) -> None:
        self.settings = settings
        self.dtype = dtype
        self.device = device
        self.measurements: dict[str, Callable[[], dict[str, float]]] = {}

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return version and settings, for the record."""

    @abstractmethod
    def load(self, work: Workload) -> None:
        """Load a workload, so that evaluations do only the work that new positions require."""

    @abstractmethod
    def evaluate(self, search: bool) -> Result:
        """Energy and forces, differentiable in training mode.

        Parameters
        ----------
        search : search for the pairs first (only if `finds_pairs`), instead of using the given ones
        """

    def tensor(self, array: NDArray[Any], dtype: torch.dtype | None = None) -> Tensor:
        """Move an array to the device."""
        return torch.as_tensor(array).to(self.device, dtype)


class Worker:
    """Answers the requests to one program.

    Parameters
    ----------
    kind : class of the program
    start : settings, dtype, device, threads (None: the default), seed, memory (bytes; None: no limit)
    """

    def __init__(self, kind: type[Program], start: dict[str, Any]) -> None:
        if start["threads"]:
            torch.set_num_threads(start["threads"])
        torch.manual_seed(start["seed"])
        self.memory: int | None = start["memory"]
        self.device = torch.device(start["device"])
        self.program = kind(start["settings"], DTYPES[start["dtype"]], self.device)
        self.must_warm_up = False
        self.set_training(False)
        self.settle()

    def answer(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Carry out a request."""
        actions: dict[str, Callable[..., dict[str, Any] | None]] = {
            "load": self.load,
            "run": self.run,
            "outputs": self.outputs,
            "settle": self.settle,
            "release_memory": self.release_memory,
            "measure": lambda what: self.program.measurements[what](),
        }
        return actions[do](**arguments) or {}

    def describe(self) -> dict[str, Any]:
        """Return the description for the parent process and the record."""
        program = self.program
        parameters = program.model.parameters() if program.model is not None else ()
        return {
            **program.describe(),
            "parameters": sum(parameter.numel() for parameter in parameters),
            "cutoff": program.cutoff,
            "takes_pairs": program.takes_pairs,
            "finds_pairs": program.finds_pairs,
            "trains": program.trains,
            "same_weights": program.same_weights,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }

    def settle(self) -> None:
        """Set the current memory as the baseline of all peaks."""
        self._trim()
        self.baseline = _status("VmRSS")

    def release_memory(self) -> None:
        """Release memory for other processes; the next workload runs once before it is timed."""
        _trim_heap()
        self.must_warm_up = True

    def load(self, file: str, training: bool) -> None:
        """Load a structure, or a batch to train on."""
        self._trim()
        work = Workload.read(Path(file))
        self.set_training(training)
        self.program.load(work)
        self.optimizer = torch.optim.Adam(self._parameters(), lr=1e-6) if training else None
        dtype = self.program.dtype
        self.labels = (self.program.tensor(work.energy, dtype), self.program.tensor(work.forces, dtype))
        del work
        _trim_heap()

    def set_training(self, training: bool) -> None:
        """Switch between molecular dynamics and training."""
        if self.program.trains:
            assert self.program.model is not None
            self.program.model.train(training)
            for parameter in self._parameters():
                parameter.requires_grad_(training)

    def _parameters(self) -> list[torch.nn.Parameter]:
        """Return the trainable parameters."""
        assert self.program.model is not None
        return [parameter for parameter in self.program.model.parameters() if parameter.is_floating_point()]

    def run(self, what: str, count: int) -> dict[str, Any]:
        """Repeat a step; return the milliseconds of one, and the peak of memory above the baseline in bytes."""
        action: Callable[[], Any] = {
            "excluded": lambda: self.program.evaluate(search=False),
            "included": lambda: self.program.evaluate(search=True),
            "training": self._train,
        }[what]
        if self.must_warm_up:
            action()
            self.must_warm_up = False
        on_gpu = self.device.type == "cuda"
        _reset_peak()
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(count):
            action()
        if on_gpu:
            torch.cuda.synchronize()
        elapsed = time.perf_counter() - started
        peak = torch.cuda.max_memory_allocated() if on_gpu else max(_status("VmHWM") - self.baseline, 0)
        return {"milliseconds": 1000 * elapsed / count, "peak": peak}

    def _train(self) -> None:
        """One step: energy, forces, loss, its derivative, Adam."""
        assert self.optimizer is not None
        energy, forces = self.program.evaluate(search=False)
        loss = (forces - self.labels[1]).square().mean() + (energy.reshape(-1) - self.labels[0]).square().mean()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def outputs(self, file: str) -> None:
        """Write energies and forces to a file."""
        energy, forces = self.program.evaluate(search=not self.program.takes_pairs)
        plain = energy.reshape(-1).detach().cpu().double().numpy() + self.program.energy_offset
        np.savez(file, energy=plain, forces=forces.detach().cpu().double().numpy())

    def _trim(self) -> None:
        """Release unused memory to the system, and restart the limit from the current size.

        Free blocks of the heap stay in the process's address space, where none may be large enough for a larger
        structure.
        """
        _trim_heap()
        if self.memory:
            _limit_memory(self.memory)


def _status(key: str) -> int:
    """Read a size of /proc/self/status in bytes; 0 without that file."""
    file = Path("/proc/self/status")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), 0)


def _limit_memory(limit: int) -> None:
    """Limit the additional memory of this process to `limit` bytes, so that the machine does not run out."""
    import resource

    top = _status("VmData") + limit
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (top if hard == resource.RLIM_INFINITY else min(top, hard), hard))


def _trim_heap() -> None:
    """Release unused memory to the system."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def _reset_peak() -> None:
    """Reset the peak of resident memory."""
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")


def serve(kind: type[Program]) -> None:
    """Answer requests until standard input ends; programs' own output is redirected to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker: Worker | None = None
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        try:
            if worker is None:
                worker = Worker(kind, request)
                answer = worker.describe()
            else:
                answer = worker.answer(**request)
        except Exception as error:
            traceback.print_exc()
            answer = _error(error)
        print(json.dumps(answer), file=answers, flush=True)


def _error(error: Exception) -> dict[str, str]:
    """Return the kind of an error and its last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, ImportError):
        kind = "import"
    elif isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY):
        kind = "memory"
    else:
        kind = "failed"
    return {"error": kind, "message": f"{type(error).__name__}: {lines[-1] if lines else ''}"}


if __name__ == "__main__":
    folder = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != folder]
    sys.path.append(str(folder.parents[1]))  # last: it may contain another environment's packages
    runpy.run_path(sys.argv[1], run_name="__main__")
