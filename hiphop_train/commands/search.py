"""hiphop-train sweep=optuna: trainings whose settings Optuna proposes, one after another or several at a time.

The study is an SQLite file in the folder of the sweep; each trial is an ordinary run directory in it. This process
alone writes to the study: it reads the metrics of the trainings, and ends those that are not worth going on with.
"""

import hashlib
import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveInt

from hiphop_train import build, files
from hiphop_train.commands import launched, search_results
from hiphop_train.commands.lock import RunLock
from hiphop_train.commands.run_folder import refuse_foreign
from hiphop_train.commands.search_space import Varied
from hiphop_train.commands.search_trials import Local, OnSlurm, Trials
from hiphop_train.config import load_config, parse_overrides, quoted
from hiphop_train.errors import CheckpointError, ConfigError

OURS = ("sweep", "run_dir", "resume", "preflight")
"""Settings of the sweep, not of its trainings."""


@dataclass(frozen=True)
class Search:
    """How settings are sought.

    Attributes
    ----------
    trials : trainings in all
    parallel : trainings at a time
    minimise : column of metrics.csv
    sampler, pruner : of Optuna
    patience : epochs, and finished trainings, before one may be ended
    """

    trials: PositiveInt = 20
    parallel: PositiveInt = 1
    minimise: str = "val/error"
    sampler: Literal["tpe", "random", "gp"] = "tpe"
    pruner: Literal["median", "halving", "none"] = "median"
    patience: NonNegativeInt = 5


def search(overrides: list[str], train: launched.Job) -> int:
    """Run trials until there are enough; return 0, 128 + the signal that stopped it, or the first failure's exit code.

    Parameters
    ----------
    overrides : of the command line, some with ranges or several values
    train : called in each job of Slurm

    Raises
    ------
    ConfigError
        if Optuna is missing, nothing is varied, or a value would be refused
    CheckpointError
        if the folder holds a study of something else
    """
    optuna = _optuna()
    settings = None
    if launched.is_launched(overrides):
        overrides, settings = launched.split(overrides)
    parsed = parse_overrides(overrides)
    varied = [Varied.of(o) for o in parsed if o.is_sweep_override()]
    fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
    if not varied:
        raise ConfigError(
            "sweep=optuna has nothing to vary; give ranges or several values: "
            "'optimizer.lr=tag(log,interval(1e-4,1e-2))' model.n_features=32,64,128"
        )
    own = [word for word in fixed if word.lstrip("+").split("=")[0].split(".")[0] not in OURS]
    how, folder, seed = _checked(fixed, varied)
    definition = sorted([*own, *(each.line for each in varied), f"minimise={how.minimise}"])
    if folder is None:
        digest = hashlib.sha256(json.dumps(definition).encode()).hexdigest()[:8]
        folder = Path("runs") / f"sweep-{digest}"
    if not (folder / "study.db").is_file():
        refuse_foreign(folder)
    with RunLock(folder) as lock:
        with files.told(folder):
            folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        study = _study(optuna, folder, definition, how)
        trials: Trials = Local(folder) if settings is None else OnSlurm(folder, train, settings)
        stopped = _Loop(optuna, study, how, own, varied, trials, folder, seed).run()
        search_results.tell(optuna, study, folder, ["hiphop-train", *own], [each.key for each in varied], how.minimise)
    if stopped is not None:
        print(f"stopped    by {signal.Signals(stopped).name}; the same command goes on with the sweep", flush=True)
        return 128 + stopped
    failed = [t for t in study.trials if t.state is optuna.trial.TrialState.FAIL]
    good = [t for t in study.trials if t.state is optuna.trial.TrialState.COMPLETE]
    return 0 if good else int(failed[0].user_attrs.get("exit_code", 1)) if failed else 1


def _optuna() -> ModuleType:
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise ConfigError('sweep=optuna needs Optuna: pip install "hiphop-train[optuna]"') from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _checked(fixed: list[str], varied: list[Varied]) -> tuple[Search, Path | None, int]:
    """Compose with both ends of each range, all others at their first; return what is asked for, folder and seed."""
    first = {each.key: each.ends()[0] for each in varied}
    config = load_config("train", [*fixed, *(f"{key}={value}" for key, value in first.items())])
    if config.get("submit") is not None:
        raise ConfigError(f"sweep=optuna excludes submit; trainings become jobs of Slurm by {launched.CHOICE}")
    for each in varied:
        for value in each.ends()[1:]:
            changed = {**first, each.key: value}
            load_config("train", [*fixed, *(f"{key}={word}" for key, word in changed.items())])
    folder = None if config.run_dir is None else Path(config.run_dir).expanduser()
    found: Search = build.make_part(config.sweep, "sweep")
    return found, folder, int(config.seed)


def _study(optuna: ModuleType, folder: Path, definition: list[str], how: Search) -> Any:
    """Open or make the study of a folder."""
    pruners: dict[str, Callable[[], Any]] = {
        "median": lambda: optuna.pruners.MedianPruner(how.patience, n_warmup_steps=how.patience),
        "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=max(1, how.patience)),
        "none": optuna.pruners.NopPruner,
    }
    path = folder / "study.db"
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{path.resolve()}",
            study_name="sweep",
            pruner=pruners[how.pruner](),
            load_if_exists=True,
        )
        before = study.user_attrs.get("definition")
    except Exception as error:  # whatever a file that is no study provokes
        raise CheckpointError(
            f"{path} cannot be read as a study ({str(error).splitlines()[0][:150]}); choose another folder: "
            "run_dir=PATH"
        ) from error
    if before is None:
        study.set_user_attr("definition", definition)
    elif before != definition:
        lines = [f"  stored {word}" for word in before if word not in definition]
        lines += [f"  requested {word}" for word in definition if word not in before]
        raise CheckpointError(
            f"{folder} holds a sweep of something else:\n" + "\n".join(lines) + "\ngive the same settings, or another "
            "folder: run_dir=PATH"
        )
    return study


@dataclass
class _Loop:
    """The state of a search: what runs, and which signal came."""

    optuna: ModuleType
    study: Any
    how: Search
    own: list[str]
    varied: list[Varied]
    trials: Trials
    folder: Path
    seed: int
    received: int | None = None

    def run(self) -> int | None:
        """Run trials; return the signal that stopped it."""
        handlers = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            waiting = self._interrupted()
            running: dict[int, Any] = {}
            while self.received is None and (running or waiting or len(self.study.trials) < self.how.trials):
                while len(running) < self.how.parallel and (waiting or len(self.study.trials) < self.how.trials):
                    trial = waiting.pop(0) if waiting else self._ask()
                    running[trial.number] = trial
                    self._start(trial)
                time.sleep(0.2)
                for number, trial in list(running.items()):
                    if self._watch(trial):
                        del running[number]
            if running:
                self.trials.stop()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return self.received

    def _handle(self, number: int, frame: Any) -> None:
        self.received = self.received or number

    def _interrupted(self) -> list[Any]:
        """Return the trials that an earlier start left unfinished."""
        states = self.optuna.trial.TrialState
        trials = [
            self.optuna.trial.Trial(self.study, t._trial_id) for t in self.study.trials if t.state is states.RUNNING
        ]
        for trial in trials:
            if "pruned" in trial.user_attrs:
                self.study.tell(trial, state=states.PRUNED)
        return [trial for trial in trials if "pruned" not in trial.user_attrs]

    def _ask(self) -> Any:
        """Return a new trial; what is proposed depends on seed, number and earlier results only."""
        seed = (self.seed * 100_003 + len(self.study.trials)) % 2**32
        samplers = self.optuna.samplers
        if self.how.sampler == "tpe":
            self.study.sampler = samplers.TPESampler(
                seed=seed, constant_liar=self.how.parallel > 1, n_startup_trials=max(2, min(10, self.how.trials // 3))
            )
        elif self.how.sampler == "gp":
            self.study.sampler = samplers.GPSampler(seed=seed)
        else:
            self.study.sampler = samplers.RandomSampler(seed=seed)
        return self.study.ask()

    def _start(self, trial: Any) -> None:
        values = {each.key: each.suggest(trial) for each in self.varied}
        words = [f"{key}={value}" for key, value in values.items()]
        run_dir = self.folder / f"trial_{trial.number:03d}"
        trial.set_user_attr("values", values)
        print(f"trial {trial.number:3d}  of {self.how.trials}: {' '.join(words)}", flush=True)
        self.trials.start(trial.number, [*self.own, *words, quoted("run_dir", str(run_dir)), "preflight=off"])

    def _watch(self, trial: Any) -> bool:
        """Report a trial's epochs, and end it where it is not worth going on; return whether it has ended."""
        ended = self.trials.ended(trial.number)
        values = search_results.column(self.folder / f"trial_{trial.number:03d}", self.how.minimise)
        known = self.study._storage.get_trial(trial._trial_id).intermediate_values
        for epoch, value in values.items():
            if epoch not in known:
                trial.report(value, epoch)
        if ended is None:
            if values and trial.should_prune() and not trial.user_attrs.get("pruned"):
                trial.set_user_attr("pruned", max(values))
                self.trials.end(trial.number)
            return False
        code, problem = ended
        state = self.optuna.trial.TrialState
        if trial.user_attrs.get("pruned") and code != 0:
            self.study.tell(trial, state=state.PRUNED)
            said = f"ended after epoch {max(values)}: {min(values.values()):.4g} is worse than others at that time"
        elif code == 0 and values:
            self.study.tell(trial, min(values.values()))
            said = f"{self.how.minimise} {min(values.values()):.4g}"
        elif self.received is not None:
            return True  # ended with us: the next start goes on with it
        else:
            trial.set_user_attr("problem", problem or f"no column {self.how.minimise} in metrics.csv")
            trial.set_user_attr("exit_code", code or 1)
            self.study.tell(trial, state=state.FAIL)
            said = f"failed: {trial.user_attrs['problem']}"
        print(f"trial {trial.number:3d}  {said}", file=sys.stderr if "failed" in said else sys.stdout, flush=True)
        return True
