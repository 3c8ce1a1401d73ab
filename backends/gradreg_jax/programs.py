"""Traced programs: run one equation at a time, or compiled once per distinct program."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

__all__ = ["INLINED", "compiled_once", "inner_program", "run_equation"]

INLINED = ("jit", "pjit", "closed_call", "checkpoint", "remat2")
"""Primitives whose inner program may run as a part of the outer one."""

_MOST_COMPILED = 16
_compiled: OrderedDict[Any, Any] = OrderedDict()
"""Compiled programs by their text, the most recently used last."""


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


def compiled_once(fn: Callable[..., Any], *arguments: Any) -> Any:
    """fn(*arguments), compiled as a whole. A program with the text of an earlier one is not compiled again.

    The text of a lowered program is complete, constants included. Programs that call back to Python are compiled again:
    their text has addresses, which may later mean something else.
    """
    lowered = jax.jit(fn).lower(*arguments)
    text = lowered.as_text()
    if "callback" in text:
        return lowered.compile()(*arguments)
    places = [str(getattr(leaf, "sharding", None)) for leaf in jax.tree.leaves(arguments)]
    parts = [text, str(lowered.in_tree), str(lowered.out_tree), *places]
    key = hashlib.sha256("\0".join(parts).encode()).digest()
    program = _compiled.pop(key, None) or lowered.compile()
    _compiled[key] = program
    if len(_compiled) > _MOST_COMPILED:
        _compiled.popitem(last=False)
    return program(*arguments)
