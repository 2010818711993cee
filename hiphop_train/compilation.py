"""Compilation of a potential's parts, and what to say of it."""

import time
from typing import Literal

import torch

from hiphop_train.errors import ConfigError
from hiphop_train.nn.kernels import Compilable, CompilationError
from hiphop_train.potential import Potential

Choice = Literal["auto", True, False]


def compile_potential(
    potential: Potential, choice: Choice, dtype: torch.dtype, device: torch.device, key: str = "trainer.compile"
) -> str:
    """Compile the parts of a potential that can be; state and numbers stay what they are, up to rounding.

    Parameters
    ----------
    potential : of which only `nn.kernels.Compilable` parts change
    choice : "auto", compile where that is possible; True, or refuse to go on; False, do not
    dtype : of the network
    device : on which the potential runs
    key : of the configuration that says the choice, for messages

    Returns
    -------
    report : what was done, and where nothing was, why, in one line

    Raises
    ------
    ConfigError
        where True was chosen and there is no compiler, or no CPU to compile for
    """
    parts = [part for part in potential.modules() if isinstance(part, Compilable)]
    if choice is False:
        return f"no: {key}=false"
    if not parts:
        return "no: nothing in this model gains by it"
    started = time.perf_counter()
    try:
        if device.type != "cpu":
            raise CompilationError(f"what is compiled runs on CPUs, not on {device.type}")
        n_new = sum(part.compile_for(dtype) for part in parts)
    except CompilationError as error:
        if choice is True:
            raise ConfigError(f"{key}=true: {error}; or leave it at auto, which does without") from error
        return f"no: {error}"
    seconds = time.perf_counter() - started
    return f"yes: {seconds:.1f} s; the next start finds it in the cache" if n_new else f"yes: cached, {seconds:.2f} s"
