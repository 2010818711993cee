"""Invariants by straight-line programs with analytic derivatives, in C or in torch, instead of einsum."""

from functools import cache
from typing import List, Tuple

from torch import Tensor, nn

from hiphop_train.accelerate.contraction_programs import contraction_program
from hiphop_train.accelerate.polynomial_kernels import Kernels, evaluate_compiled
from hiphop_train.accelerate.polynomial_source import header
from hiphop_train.accelerate.polynomials import Program, evaluate, interpret
from hiphop_train.accelerate.twin import Setting, Twin, why_no_kernels
from hiphop_train.nn.contractions import Contraction
from hiphop_train.nn.invariants import Invariants


@cache
def _program(contractions: tuple[Contraction, ...], l_max: int) -> Program:
    return contraction_program(contractions, l_max)


def program_of(plain: Invariants) -> Program:
    """Return the program that evaluates the invariants of a module."""
    return _program(tuple(plain.contractions), plain.l_max)


class CompiledInvariants(nn.Module):
    """Invariants by a program in C."""

    def __init__(self, plain: Invariants, setting: Setting) -> None:
        super().__init__()
        self.n_invariants = plain.n_invariants
        self.program = program_of(plain)
        library = setting.compile("polynomial.c", generated=header(self.program), in_vectors=False)
        self.kernels = Kernels(library, self.program.n_inputs, plain.n_invariants)

    def forward(self, components: Tensor) -> Tensor:
        """Evaluate (n_invariants, ...) of ((l_max + 1)^2, ...), of any strides."""
        if not self.kernels.library.serves(components):  # converted or moved after compilation
            return evaluate(self.program, components.contiguous())
        return evaluate_compiled(self.kernels, components)


class ProgramInvariants(nn.Module):
    """Invariants by a program whose steps torch executes; its derivatives are programs too."""

    def __init__(self, plain: Invariants, setting: Setting) -> None:
        super().__init__()
        self.n_invariants = plain.n_invariants
        self.program = program_of(plain)

    def forward(self, components: Tensor) -> Tensor:
        """Evaluate (n_invariants, ...) of ((l_max + 1)^2, ...), of any strides."""
        return evaluate(self.program, components.contiguous())


class ScriptedInvariants(nn.Module):
    """Invariants by a program that TorchScript interprets, differentiated by autograd."""

    def __init__(self, plain: Invariants, setting: Setting) -> None:
        super().__init__()
        program = program_of(plain)
        self.n_invariants = plain.n_invariants
        self.outputs: List[int] = program.outputs
        self.steps: List[Tuple[int, int, int, float]] = [(*step,) for step in program.steps]

    def forward(self, components: Tensor) -> Tensor:
        """Evaluate (n_invariants, ...) of ((l_max + 1)^2, ...)."""
        return interpret(components.contiguous(), self.steps, self.outputs)


TWINS = [
    Twin("invariants", "C", Invariants, CompiledInvariants, why_not=why_no_kernels),
    Twin("invariants", "program", Invariants, ProgramInvariants),
    Twin("invariants", "scripted program", Invariants, ScriptedInvariants, purposes=("export",)),
]
