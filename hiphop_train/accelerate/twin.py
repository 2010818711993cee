"""Declaration of twins: a twin is a module that replaces another, with the same parameters and the same numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from hiphop_train.accelerate.compiler import Library, compile_library
from hiphop_train.accelerate.precision import Precision
from hiphop_train.types import Prepare

Purpose = Literal["training", "inference", "export"]
"""training: forces are differentiated, except in evaluation between epochs; inference: weights are frozen and forces
not differentiated; export: compiled by TorchScript."""

Choice = Literal["auto", True, False]
"""Whether C is compiled: where possible, required, or never."""


@dataclass
class Setting:
    """What the choice of twins depends on besides the modules themselves.

    Attributes
    ----------
    dtype : of the network
    device : on which the network runs
    purpose : training, inference or export
    choice : whether C is compiled
    precision : of training steps
    missing : why nothing can be compiled here; empty if it can
    n_compiled : number of libraries compiled, not cached
    """

    dtype: torch.dtype
    device: torch.device
    purpose: Purpose
    choice: Choice
    precision: Precision
    missing: str = ""
    n_compiled: int = field(default=0, init=False)

    def why_no_kernels(self) -> str:
        """Return why kernels in C do not apply; empty if they do."""
        if self.device.type != "cpu":
            return f"C runs on CPUs, not on {self.device.type}"
        return self.missing

    def compile(
        self,
        file: str,
        sizes: Mapping[str, object] | None = None,
        generated: str = "",
        in_vectors: bool = True,
    ) -> Library:
        """Compile a file of `accelerate/kernels`, see `compiler.compile_library`."""
        library, is_new = compile_library(file, self.dtype, sizes or {}, generated, in_vectors)
        self.n_compiled += is_new
        return library


def always(plain: nn.Module, setting: Setting) -> str:
    """Return no reason against a twin."""
    return ""


def why_no_kernels(plain: nn.Module, setting: Setting) -> str:
    """Return why a twin in C does not apply; empty if it does."""
    return setting.why_no_kernels()


def any_module(plain: nn.Module) -> bool:
    """Return that a twin exists for all modules of its class."""
    return True


@dataclass(frozen=True)
class Twin:
    """A faster replacement of a plain module.

    Attributes
    ----------
    part : name of the part of a potential, for the report
    chosen : name of the twin, for the report
    replaces : class of the plain module
    make : builds the twin from the plain module, with its parameters and submodules under the same names
    purposes : for which the twin exists; TorchScript cannot call C or derivatives of our own
    why_not : returns why the twin does not apply to a module; empty if it does
    concerns : whether the twin exists for a module of this class at all; if not, nothing is reported
    prepare : builds the hook that adds the twin's extras to each graph, in the loader; None if it needs none
    """

    part: str
    chosen: str
    replaces: type[nn.Module]
    make: Callable[[Any, Setting], nn.Module]
    purposes: tuple[Purpose, ...] = ("training", "inference")
    why_not: Callable[[Any, Setting], str] = always
    concerns: Callable[[Any], bool] = any_module
    prepare: Callable[[Any], Prepare] | None = None


def adopt(twin: nn.Module, plain: nn.Module) -> None:
    """Give a twin the parameters, buffers and submodules of the plain module, under the same names.

    Both share the same dictionaries, so a move to another device, for instance, affects both.
    """
    twin._parameters = plain._parameters
    twin._buffers = plain._buffers
    twin._modules = plain._modules
    twin._non_persistent_buffers_set = plain._non_persistent_buffers_set
    twin.training = plain.training
