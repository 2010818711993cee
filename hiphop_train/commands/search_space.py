"""What a search varies: Hydra's ranges and lists of values, as Optuna is asked for them."""

from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep

from hiphop_train.errors import ConfigError


@dataclass(frozen=True)
class Varied:
    """A setting that is varied.

    Attributes
    ----------
    key : dotted path, or group
    line : as written
    choices : values of a list; otherwise empty
    low, high : ends of a range, both included; whole numbers where both were written so
    step : of a range, or None
    log : whether the logarithm is varied evenly
    """

    key: str
    line: str
    choices: tuple[str, ...] = ()
    low: float | int = 0
    high: float | int = 0
    step: float | int | None = None
    log: bool = False

    @classmethod
    def of(cls, override: Override) -> "Varied":
        """Read an override with several values.

        Raises
        ------
        ConfigError
            for an empty range, or one that has no logarithm
        """
        value, key, line = override.value(), str(override.get_key_element()), str(override.input_line)
        if isinstance(value, ChoiceSweep):
            return cls(key, line, tuple(str(word) for word in override.sweep_string_iterator()))
        assert isinstance(value, RangeSweep | IntervalSweep)
        low, step = value.start, value.step if isinstance(value, RangeSweep) else None
        high = value.stop if isinstance(value, RangeSweep) else value.end
        if low is None or high is None or not low < high:
            raise ConfigError(f"override '{line}': the range is empty")
        if "log" in value.tags and low <= 0:
            raise ConfigError(f"override '{line}': a range with log must be above 0")
        if step is not None:  # as Python's: without its end
            high = low + step * max(0, int((high - low) / step - 1e-9))
        elif "." not in line.partition("interval(")[2] and "e" not in line.partition("interval(")[2].lower():
            low, high = int(low), int(high)
        return cls(key, line, (), low, high, step, "log" in value.tags)

    def ends(self) -> list[str]:
        """Return what is checked before anything runs: all of a list, or both ends."""
        return list(self.choices) or [f"{self.low:.6g}", f"{self.high:.6g}"]

    def suggest(self, trial: Any) -> str:
        """Let a trial of Optuna choose a value, as text for the command line."""
        if self.choices:
            return str(trial.suggest_categorical(self.key, self.choices))
        if isinstance(self.low, int) and isinstance(self.high, int):
            return str(trial.suggest_int(self.key, self.low, self.high, step=int(self.step or 1), log=self.log))
        return f"{trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log):.6g}"
