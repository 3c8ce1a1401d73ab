"""Traced programs, run one equation at a time."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.extend import core

__all__ = ["INLINED", "inner_program", "run_equation"]

INLINED = ("jit", "pjit", "closed_call", "checkpoint", "remat2")
"""Primitives whose own program may run as a part of the outer one."""


def inner_program(equation: Any) -> Any:
    """The program that an equation runs if it may run as a part of the outer one, else None."""
    if equation.primitive.name not in INLINED:
        return None
    return equation.params.get("jaxpr", equation.params.get("call_jaxpr"))


def run_equation(program: Any, equation: Any, inputs: Sequence[Any]) -> list[Any]:
    """The results of one equation of a program."""
    pairs = zip(equation.invars, inputs, strict=True)
    variables = {variable: value for variable, value in pairs if isinstance(variable, core.Var)}
    alone = program.replace(
        constvars=(), invars=list(variables), outvars=equation.outvars, eqns=[equation], effects=equation.effects
    )
    return jax.core.eval_jaxpr(alone, (), *variables.values())
