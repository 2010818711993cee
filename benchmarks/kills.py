"""Kill trainings at every file operation and at random moments, start them again, and compare their ends.

    .venv/bin/python benchmarks/kills.py                 all, about half an hour on two cores
    .venv/bin/python benchmarks/kills.py plain --kills 5

A victim counts what it does to the files of its run directory (open for writing, rename, link, remove, make a folder),
and the steps, validations, evaluations and exports that it begins; at a given number it sends SIGKILL to itself or to
its process group. That is before the operation. Further kills come at random moments of the start-up and the training.
Each training is started again until it ends, and then compared with one that was never killed: all tensors of all
checkpoints (weights, averages, optimizer), metrics.csv, energies and forces of model.pt. Nothing may be left behind:
processes, shared memory, temporary files that an uninterrupted training does not leave.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "kills.json"
SMALL = [
    *("model=hipnn", "model.n_features=8", "dtype=float64", "trainer.accelerator=cpu"),
    *("trainer.max_epochs=4", "trainer.limit_train_batches=6", "trainer.limit_val_batches=2"),
]
SCENARIOS: dict[str, list[str]] = {
    "plain": ["callbacks=none"],
    "average, raised batch size": ["scheduler=raise_batch_size", "scheduler.patience=0", "scheduler.max_batch_size=64"],
    "two workers": ["data.num_workers=2"],
    "two ranks": ["trainer.devices=2", "trainer.strategy=ddp"],
}

VICTIM = r"""
import os, signal, sys

run_dir, chosen, log = os.environ["RUN"], int(os.environ["KILL_AT"]), os.environ["KILL_LOG"]
count, rank = 0, os.environ.get("LOCAL_RANK", "0")

def event(name):
    global count
    count += 1
    if count == chosen and rank == os.environ["KILL_RANK"]:
        with open(log, "a") as file:
            file.write(name + "\n")
        os.kill(os.getpid(), signal.SIGKILL) if os.environ["KILL_ALONE"] else os.killpg(0, signal.SIGKILL)

def audit(name, arguments):
    if os.getpid() != main:
        return
    if name == "open" and isinstance(arguments[0], str) and arguments[0].startswith(run_dir):
        if isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            event(f"open {os.path.relpath(arguments[0], run_dir)}")
    elif name in CHANGES and str(arguments[0]).startswith(run_dir):
        event(f"{name} {os.path.relpath(str(arguments[0]), run_dir)}")

main, CHANGES = os.getpid(), ("os.rename", "os.link", "os.remove", "os.mkdir", "os.truncate")
sys.addaudithook(audit)

from hiphop_train import cli
from hiphop_train.commands import finish
from hiphop_train.training.module import PotentialModule

def before(owner, name):
    original = getattr(owner, name)
    def called(*arguments, **more):
        event(name)
        return original(*arguments, **more)
    setattr(owner, name, called)

before(PotentialModule, "training_step")
before(PotentialModule, "validation_step")
before(finish, "predict")
before(finish, "export")
code = cli.run("train", sys.argv[1:])
if rank == os.environ["KILL_RANK"]:
    with open(log, "a") as file:
        file.write(f"events {count}\n")
sys.exit(code)
"""


@dataclass
class Result:
    """What became of a scenario."""

    events: int = 0
    kills: int = 0
    starts: int = 0
    trainings: int = 0
    differences: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    whole_seconds: float = 0.0
    seconds: float = 0.0
    slowest_end_of_others: float = 0.0
    moments: dict[str, int] = field(default_factory=dict)

    @property
    def lost_per_kill(self) -> float:
        """Seconds by which a kill prolongs a training, of which a start-up is the most."""
        return (self.seconds - self.trainings * self.whole_seconds) / max(1, self.kills)


class Campaign:
    """Trainings of one scenario, in a folder of their own."""

    def __init__(self, folder: Path, arguments: list[str], say: bool) -> None:
        self.folder, self.arguments, self.say = folder, [*SMALL, *arguments], say
        self.script, self.log, self.output = (folder / name for name in ("victim.py", "log", "output"))
        self.script.write_text(VICTIM)
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.usual: set[str] = set()
        self.result = Result()

    def run(self, kills: int, seed: int) -> Result:
        """Kill so many times, at events that are all different as far as there are so many, and at random moments."""
        chance = random.Random(seed)
        whole = self.folder / "whole"
        begun = time.monotonic()
        code = self.start(whole)
        if code:
            raise SystemExit(f"the uninterrupted training ended with {code}:\n{self.output.read_text()}")
        self.result.whole_seconds = time.monotonic() - begun
        self.usual = set(os.listdir(self.temporary))  # torch's caches
        self.result.events = int(self.log.read_text().splitlines()[-1].split()[1])
        events = chance.sample(range(1, self.result.events + 1), self.result.events)
        while self.result.kills < kills:
            self._train(whole, kills, events, chance)
        self.result.starts -= 1  # without the one that was not killed
        return self.result

    def _train(self, whole: Path, kills: int, events: list[int], chance: random.Random) -> None:
        """Kill one training a few times, then let it end, and compare."""
        run_dir = self.folder / f"run{self.result.trainings}"
        self.result.trainings += 1
        begun = time.monotonic()
        for number in range(chance.randint(2, 6)):
            if self.result.kills >= kills:
                break
            alone = chance.random() < 0.5
            rank = "1" if "trainer.devices=2" in self.arguments and chance.random() < 0.4 else "0"
            if events and chance.random() < 0.75:
                event = chance.randint(1, self.result.events // 3) if number else events.pop()  # less is left of it
                code = self.start(run_dir, kill_at=event, kill_rank=rank, alone=alone)
                moment = self.log.read_text().split()[0] if self.log.exists() else "?"
            else:
                code = self.start(run_dir, after=chance.uniform(0.2, 1.2 * self.result.whole_seconds))
                moment = "a random time"
            if code == 0:
                break
            self.result.kills += 1
            self.result.moments[moment] = self.result.moments.get(moment, 0) + 1
            if self.say:
                print(f"  kill {self.result.kills}: {moment}", flush=True)
        else:
            code = None
        if code != 0 and (code := self.start(run_dir)):
            self.result.differences.append(f"{run_dir.name} ended with {code}: {self.output.read_text()[-2000:]}")
        self.result.seconds += time.monotonic() - begun
        self.result.differences += differences(run_dir, whole)
        left = [path for path in self.temporary.iterdir() if path.name not in self.usual]
        self.result.leftovers += [str(path.relative_to(self.folder)) for path in (*run_dir.rglob(".*"), *left)]
        shutil.rmtree(run_dir)
        for path in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def start(
        self,
        run_dir: Path,
        kill_at: int = -1,
        kill_rank: str = "0",
        alone: bool = False,
        after: float | None = None,
    ) -> int:
        """Start a training; it is killed at an event, or after some seconds. Return its exit code."""
        environment = {
            **os.environ,
            "RUN": str(run_dir),
            "KILL_AT": str(kill_at),
            "KILL_RANK": kill_rank,
            "KILL_ALONE": "1" if alone else "",
            "KILL_LOG": str(self.log),
            "TMPDIR": str(self.temporary),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, str(self.script), *self.arguments, f"run_dir={run_dir}"]
        self.log.unlink(missing_ok=True)
        self.result.starts += 1
        with self.output.open("w") as file:
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
            try:
                process.wait(timeout=300 if after is None else after)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        ended = time.monotonic()
        while (others := members(process.pid)) and time.monotonic() - ended < 60:
            time.sleep(0.05)
        self.result.slowest_end_of_others = max(self.result.slowest_end_of_others, time.monotonic() - ended)
        for pid in others:
            self.result.leftovers.append(f"process {pid}: {Path(f'/proc/{pid}/cmdline').read_text()[:100]!r}")
            os.kill(pid, signal.SIGKILL)
        return process.returncode


def members(session: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def differences(run_dir: Path, whole: Path) -> list[str]:
    """Compare two ended runs bit by bit: every state, metrics.csv, and what the exported files compute."""
    import torch

    from hiphop_train.export.torchscript import load

    found: list[str] = []

    def compare(path: str, one: Any, other: Any) -> None:
        if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
            for key in one.keys() - {"run_dir", "Clock"}:
                compare(f"{path}/{key}", one[key], other[key])
        elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
            for number, pair in enumerate(zip(one, other, strict=True)):
                compare(f"{path}/{number}", *pair)
        elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
            if not torch.equal(one, other):
                found.append(path)
        elif one != other and not (one != one and other != other):
            found.append(path)

    for name in ("last.ckpt", "previous.ckpt", "best.ckpt"):
        states = [torch.load(path / "checkpoints" / name, weights_only=True) for path in (run_dir, whole)]
        compare(name, *states)
    if (run_dir / "metrics.csv").read_bytes() != (whole / "metrics.csv").read_bytes():
        found.append("metrics.csv")
    models = [load(path / "model.pt") for path in (run_dir, whole)]
    for answer in models[0].golden:
        given = [answer[key] for key in ("species", "positions", "cell", "pbc")]
        compare("model.pt", *(model.energy_forces(*given) for model in models))
    results = [json.loads((path / "metrics.json").read_text()) for path in (run_dir, whole)]
    compare("metrics.json", results[0]["errors"], results[1]["errors"])
    return [f"{run_dir.name}: {each}" for each in found]


def main() -> int:
    """Run the campaign, print and store its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; all by default")
    parser.add_argument("--kills", type=int, default=30, help="of each scenario (30)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the result is stored (%(default)s)")
    given = parser.parse_args()
    if unknown := set(given.scenarios) - SCENARIOS.keys():
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    shared = set(os.listdir("/dev/shm"))
    results = {}
    for name in given.scenarios or SCENARIOS:
        print(name, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            result = Campaign(Path(folder), SCENARIOS[name], sys.stdout.isatty()).run(given.kills, given.seed)
        result.leftovers += [f"/dev/shm/{entry}" for entry in set(os.listdir("/dev/shm")) - shared]
        print(
            f"  {result.kills} kills among {result.events} events, {result.starts} starts of {result.trainings} "
            f"trainings; differences {len(result.differences)}, left behind {len(result.leftovers)}; "
            f"{result.lost_per_kill:.1f} s lost per kill (a whole training takes {result.whole_seconds:.1f} s)"
        )
        print(*(f"  {each}" for each in result.differences + result.leftovers), sep="\n", flush=True)
        results[name] = {**asdict(result), "lost_per_kill": result.lost_per_kill}
        given.output.write_text(json.dumps(results, indent=1) + "\n")
    return int(any(result["differences"] or result["leftovers"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
