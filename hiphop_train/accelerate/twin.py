"""What a twin declares: a module that takes the place of another, with the same parameters and the same numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from hiphop_train.accelerate.compiler import Library, compile_library
from hiphop_train.accelerate.precision import Precision
from hiphop_train.types import Prepare

Purpose = Literal["training", "inference", "export"]
"""training: differentiated twice, and evaluated between epochs; inference: weights are frozen and forces are not
differentiated; export: compiled by TorchScript."""

Choice = Literal["auto", True, False]
"""Whether C is compiled: where possible, required, or never."""


NOT_FOR_THIS = "for another purpose"
"""Reason why a twin does not apply that needs no mention in a report."""


@dataclass
class Setting:
    """What the choice of twins depends on beside the modules themselves.

    Attributes
    ----------
    dtype : of the network
    device : on which it runs
    purpose : what for
    choice : whether C is compiled
    precision : of training steps
    missing : why nothing can be compiled here; empty where it can
    n_compiled : libraries that were not in the cache
    """

    dtype: torch.dtype
    device: torch.device
    purpose: Purpose
    choice: Choice
    precision: Precision
    missing: str = ""
    n_compiled: int = field(default=0, init=False)

    def why_no_kernels(self) -> str:
        """Say why C does not serve; empty where it does."""
        if self.purpose == "export":
            return "TorchScript cannot call it"
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


@dataclass(frozen=True)
class Twin:
    """A faster module in the place of a plain one.

    Attributes
    ----------
    part : of a potential, for the report
    chosen : what the twin is, for the report
    replaces : class of the plain module
    why_not : says why it does not apply to a module; empty where it does
    make : builds it from the plain module, whose parameters and submodules it holds under the same names
    prepare : makes the hook that adds what the twin needs to each graph, in the loader; None where it needs nothing
    """

    part: str
    chosen: str
    replaces: type[nn.Module]
    why_not: Callable[[Any, Setting], str]
    make: Callable[[Any, Setting], nn.Module]
    prepare: Callable[[Any], Prepare] | None = None


def adopt(twin: nn.Module, plain: nn.Module) -> None:
    """Give a twin the parameters, buffers and submodules of the plain module, under the same names.

    Both hold the same dictionaries: what is done to one, a move to another device for instance, is done to the other.
    """
    twin._parameters = plain._parameters
    twin._buffers = plain._buffers
    twin._modules = plain._modules
    twin._non_persistent_buffers_set = plain._non_persistent_buffers_set
    twin.training = plain.training
