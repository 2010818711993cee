"""Acceleration: faster twins of modules of `nn` and `models`, chosen here and nowhere else.

`accelerate` swaps them in. They hold the parameters of the modules they replace under the same names, so state dicts,
checkpoints and numbers (up to rounding) are unchanged. The plain modules never import from here.
"""

import time
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from hiphop_train.accelerate import (
    ace,
    alignn,
    allegro,
    group_norm,
    hip,
    invariants,
    matrices,
    newtonnet,
    radial,
    readout,
    schnet,
    sensitivity,
    symmetric_powers,
    symmetry_functions,
    tensor_convolution,
    tensornet,
)
from hiphop_train.accelerate.compiler import CompilationError, find_compiler
from hiphop_train.accelerate.precision import MatmulPrecision, MixedPrecision, Precision
from hiphop_train.accelerate.twin import Choice, Purpose, Setting, Twin
from hiphop_train.errors import ConfigError
from hiphop_train.potential import Network, Potential
from hiphop_train.types import Graph, Prepare

TWINS: list[Twin] = [
    *sensitivity.TWINS,
    *invariants.TWINS,
    *group_norm.TWINS,
    *hip.TWINS,
    *schnet.TWINS,
    *alignn.TWINS,
    *allegro.TWINS,
    *symmetry_functions.TWINS,
    *readout.TWINS,
    *matrices.TWINS,
    *newtonnet.TWINS,
    *tensornet.TWINS,
    *radial.TWINS,
    *symmetric_powers.TWINS,
    *tensor_convolution.TWINS,
    *ace.TWINS,
]
"""All twins; among those that replace the same module, the first applicable one is used."""


class Part(NamedTuple):
    """What was chosen for one part of a potential."""

    part: str
    chosen: str
    why_not: str
    """Why no faster twin was used; empty if none exists."""


@dataclass(frozen=True)
class Preparation:
    """Adds the extras that the twins of a potential need to a graph; runs in the loader.

    Attributes
    ----------
    hooks : distinct hooks of the twins
    """

    hooks: tuple[Prepare, ...]

    def __call__(self, graph: Graph) -> Graph:
        """Return the graph with all extras."""
        for hook in self.hooks:
            graph = hook(graph)
        return graph


@dataclass(frozen=True)
class Acceleration:
    """Report of what `accelerate` did to a potential.

    Attributes
    ----------
    parts : choice for each part
    prepare : hook for the loader; graphs without its extras are prepared in the model
    compiled : remark on compilation; empty if the compiler was not called
    """

    parts: list[Part]
    prepare: Preparation
    compiled: str

    def __str__(self) -> str:
        """Summarise in one line."""
        chosen = "; ".join(f"{part.part}: {part.chosen}" for part in self.parts) or "plain modules"
        reasons = dict.fromkeys(part.why_not for part in self.parts if part.why_not)
        remarks = "; ".join([*([self.compiled] if self.compiled else []), *reasons])
        return f"{chosen} ({remarks})" if remarks else chosen


def accelerate(
    potential: Potential,
    dtype: torch.dtype,
    device: torch.device,
    purpose: Purpose,
    choice: Choice = "auto",
    precision: Precision = "full",
    key: str = "trainer.compile",
) -> Acceleration:
    """Swap faster twins into a potential, in place; twins of an earlier call are removed first.

    Parameters
    ----------
    potential : keeps its parameters, state and numbers; for inference, weights are frozen and evaluation mode is set
    dtype : of the network
    device : on which the potential will run
    purpose : training, inference or export
    choice : whether C is compiled: "auto", where possible; True, required; False, never
    precision : of training steps, see `accelerate.precision`
    key : configuration key of the choice, for messages

    Raises
    ------
    ConfigError
        if C is required, but no compiler is found or the device is not a CPU
    """
    restore(potential)
    if purpose == "inference":
        potential.eval().requires_grad_(False)
    setting = Setting(dtype, device, purpose, choice, precision, _missing_compiler(choice, key))
    started = time.perf_counter()
    parts: dict[Part, None] = {}
    hooks: dict[Prepare, None] = {}
    for path, module in reversed(list(potential.named_modules())):  # submodules before their parents
        part, hook = _replace(potential, path, module, setting, key)
        if part is not None:
            parts[part] = None
        if hook is not None:
            hooks[hook] = None
    if precision != "full" and purpose == "training":
        for term in potential.terms:
            if isinstance(term, Network):
                potential.__dict__.setdefault("mixed_precision", []).append(MixedPrecision(term.representation))
    seconds = time.perf_counter() - started
    compiled = f"{setting.n_compiled} libraries compiled in {seconds:.1f} s, now cached" if setting.n_compiled else ""
    return Acceleration(list(reversed(parts)), Preparation(tuple(hooks)), compiled)


def restore(potential: Potential) -> None:
    """Replace all twins in a potential by the plain modules, in place."""
    for path, module in list(potential.named_modules()):
        plain = module.__dict__.get("plain")
        if isinstance(plain, nn.Module):
            plain.training = module.training
            potential.set_submodule(path, plain)
    for mixed in potential.__dict__.pop("mixed_precision", []):
        mixed.remove()


def _replace(
    potential: Potential, path: str, module: nn.Module, setting: Setting, key: str
) -> tuple[Part | None, Prepare | None]:
    reasons: dict[str, None] = {}
    part = ""
    for twin in TWINS:
        if not isinstance(module, twin.replaces) or setting.purpose not in twin.purposes or not twin.concerns(module):
            continue
        part = twin.part
        reason = twin.why_not(module, setting)
        if not reason:
            try:
                made = twin.make(module, setting)
            except CompilationError as error:
                if setting.choice is True:
                    raise _refusal(key, str(error)) from error
                reasons[str(error)] = None
                continue
            made.__dict__["plain"] = module
            potential.set_submodule(path, made)
            hook = None if twin.prepare is None else twin.prepare(module)
            return Part(part, twin.chosen, "; ".join(reasons)), hook
        if setting.choice is True and reason == setting.why_no_kernels():
            raise _refusal(key, reason)
        reasons[reason] = None
    return (Part(part, "plain", "; ".join(reasons)) if part and reasons else None), None


def _missing_compiler(choice: Choice, key: str) -> str:
    if choice is False:
        return f"no C: {key}=false"
    try:
        find_compiler()
    except CompilationError as error:
        return str(error)
    return ""


def _refusal(key: str, reason: str) -> ConfigError:
    return ConfigError(f"{key}=true: {reason}; or set {key}=auto, which falls back to PyTorch")


__all__ = [
    "Acceleration",
    "Choice",
    "MatmulPrecision",
    "Part",
    "Precision",
    "Preparation",
    "Purpose",
    "accelerate",
    "restore",
]
