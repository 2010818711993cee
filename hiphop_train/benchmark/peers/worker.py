"""Run one program's potential in this process; requests and answers are JSON, one a line, on its standard streams.

Started as a script by `hiphop_train.benchmark.link`, also with the Python of an environment where hiphop-train is not
installed: only this file, `protocol` and the program's own file are then used.
"""

import ctypes
import gc
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(__file__).resolve().parent
PACKAGE = "hiphop_train.benchmark.peers"
OUT_OF_MEMORY = ("allocate memory", "out of memory", "bad_alloc", "not enough memory", "Unable to allocate")
"""What the messages of allocators have in common."""


def find_package(ours: bool) -> None:
    """Let this folder be imported under its full name, with the rest of hiphop-train or without.

    The folder that holds hiphop-train may hold packages of another environment: it goes to the end of the path, and
    for other programs it is not there at all.
    """
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != FOLDER]
    if ours:
        sys.path.append(str(FOLDER.parents[2]))
        return
    parent = ""
    for part in PACKAGE.split("."):
        name = f"{parent}.{part}" if parent else part
        module = ModuleType(name)
        module.__path__ = [str(FOLDER)] if name == PACKAGE else []
        sys.modules[name] = module
        parent = name


def status(key: str) -> int:
    """Read a size of /proc/self/status in bytes; 0 where there is no such file."""
    file = Path("/proc/self/status")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), 0)


def limit_memory(limit: int) -> None:
    """Refuse further memory of this process beyond `limit` bytes, instead of letting the machine come to a halt."""
    import resource

    top = status("VmData") + limit
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (top if hard == resource.RLIM_INFINITY else min(top, hard), hard))


def give_back() -> None:
    """Give memory that is not used back to the system."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak() -> None:
    """Let the peak of the resident memory begin anew."""
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")


class Worker:
    """One program's potential and what it has been asked to do.

    Parameters
    ----------
    request : name, settings, dtype, device, threads, memory (bytes, or None)
    """

    def __init__(self, request: dict[str, Any]) -> None:
        import torch

        from hiphop_train.benchmark.peers import protocol

        if request["threads"]:
            torch.set_num_threads(request["threads"])
        torch.manual_seed(request["seed"])
        self.torch = torch
        self.protocol = protocol
        self.device = torch.device(request["device"])
        module = importlib.import_module(f"{PACKAGE}.{request['name']}")
        dtype = protocol.DTYPES[request["dtype"]]
        self.subject: protocol.Subject = module.Program(request["settings"], dtype, self.device)
        self.targets: tuple[Any, Any] | None = None
        self.optimizer: Any = None
        self.rested = False
        self.set_training(False)
        self.memory: int | None = request["memory"]
        self.settle(request)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked."""
        actions: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "describe": self.describe,
            "load": self.load,
            "run": self.run,
            "outputs": self.outputs,
            "settle": self.settle,
            "rest": self.rest,
            "special": self.subject.special,
        }
        return actions[request["do"]](request)

    def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        """Say what this is."""
        subject = self.subject
        n_parameters = sum(parameter.numel() for parameter in subject.model.parameters())
        return {
            **subject.describe(),
            "parameters": n_parameters,
            "cutoff": subject.cutoff,
            "takes_pairs": subject.takes_pairs,
            "finds_pairs": subject.finds_pairs,
            "trains": subject.trains,
            "torch": self.torch.__version__,
            "threads": self.torch.get_num_threads(),
        }

    def settle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take the memory of now as that before all work."""
        self.give_back()
        self.base = status("VmRSS")
        return {}

    def rest(self, request: dict[str, Any]) -> dict[str, Any]:
        """Give memory back while others work; the next work is done once before it is timed, to have it again."""
        give_back()
        self.rested = True
        return {}

    def give_back(self) -> None:
        """Give memory that is not used back to the system, and count what may be taken from there on.

        Free pieces of the heap stay in the process's address space, where a larger structure may find none that is
        large enough.
        """
        give_back()
        if self.memory:
            limit_memory(self.memory)

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take a structure, or a batch to train on."""
        self.give_back()
        work = self.protocol.Work.read(Path(request["file"]))
        self.set_training(request["training"])
        self.subject.load(work)
        dtype = self.subject.dtype
        self.targets = (self.subject.tensor(work.energy, dtype), self.subject.tensor(work.forces, dtype))
        del work
        give_back()
        return {}

    def set_training(self, training: bool) -> None:
        """Switch between what users do in dynamics and in training."""
        if not self.subject.trains:
            return
        model = self.subject.model.train(training)
        parameters = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
        for parameter in parameters:
            parameter.requires_grad_(training)
        self.optimizer = self.torch.optim.Adam(parameters, lr=1e-6) if training else None

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do the same several times; returns milliseconds of one, and the peak of memory above the beginning's."""
        action = {
            "excluded": self.subject.evaluate,
            "included": self.subject.search_and_evaluate,
            "training": self.train,
        }[request["what"]]
        if self.rested:
            action()
            self.rested = False
        reset_peak()
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            self.torch.cuda.reset_peak_memory_stats()
            self.torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(request["count"]):
            action()
        if on_gpu:
            self.torch.cuda.synchronize()
        elapsed = time.perf_counter() - started
        peak = self.torch.cuda.max_memory_allocated() if on_gpu else max(status("VmHWM") - self.base, 0)
        return {"milliseconds": 1000 * elapsed / request["count"], "peak": peak}

    def train(self) -> None:
        """One step: energy, forces, loss, its derivative, Adam."""
        assert self.targets is not None
        energy, forces = self.subject.evaluate()
        loss = (forces - self.targets[1]).square().mean() + (energy.reshape(-1) - self.targets[0]).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def outputs(self, request: dict[str, Any]) -> dict[str, Any]:
        """Write energies and forces into a file."""
        import numpy as np

        subject = self.subject
        energy, forces = subject.evaluate() if subject.takes_pairs else subject.search_and_evaluate()
        arrays = {"energy": energy.reshape(-1), "forces": forces}
        plain: dict[str, Any] = {key: value.detach().cpu().double().numpy() for key, value in arrays.items()}
        np.savez(request["file"], **plain)
        return {}


def guarded(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Call; errors become an answer that says of what kind they are."""
    try:
        return call()
    except ImportError as error:
        return {"error": "import", "message": f"{type(error).__name__}: {error}"}
    except Exception as error:
        lack = isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY)
        traceback.print_exc()
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return {
            "error": "memory" if lack else "failed",
            "message": f"{type(error).__name__}: {lines[-1] if lines else ''}",
        }


def main() -> None:
    """Answer until the requests end; what programs print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    find_package("--ours" in sys.argv)
    worker: Worker | None = None

    def start(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal worker
        worker = Worker(request)
        return worker.describe(request)

    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)

        def answer(request: dict[str, Any] = request) -> dict[str, Any]:
            if request["do"] == "start":
                return start(request)
            assert worker is not None
            return worker.answer(request)

        print(json.dumps(guarded(answer)), file=answers, flush=True)


if __name__ == "__main__":
    main()
