"""The cause of a difference between two models, read from its pattern."""

import math
from collections.abc import Sequence

from gradreg_validation.report import Row

__all__ = [
    "INPUT",
    "LOSS",
    "OUTPUTS",
    "PARAMETER",
    "PENALTY",
    "VALUES",
    "cause_of",
    "differing_output",
    "same_function",
]

VALUES, OUTPUTS, LOSS = "parameters (values)", "outputs", "loss"
"""The names of rows; those below are followed by the name of a term or of a scalar."""
PENALTY = "penalty "
INPUT, PARAMETER = "input gradient of the ", "parameter gradient of the "


def cause_of(rows: Sequence[Row], parameters: str, unmatched: Sequence[str]) -> str | None:
    """The cause, judged by the first quantity that differs; None if none does.

    Args:
        rows: all quantities compared.
        parameters: the parameters that differ most, in words.
        unmatched: the parameters that the map leaves out, in words.
    """
    differ = [row.quantity for row in rows if not row.agrees]
    if not differ:
        return None
    wrong_outputs = not same_function(rows)
    if VALUES in differ and not wrong_outputs:
        return (
            f"the outputs agree, but not the parameters: {parameters}. They may hold the same numbers in another "
            f"order, as a dense layer after a flatten does (channels last or first). Give the rearrangement as third "
            f"element of parameters. Nothing else can be judged before that."
        )
    if VALUES in differ:
        return f"the parameters differ: {parameters}. Nothing else can be judged before they are equal."
    if infinite := [row.quantity for row in rows if math.isinf(row.difference)]:
        return f"NaN or infinite in at least one of the models: {', '.join(infinite)}."
    if wrong_outputs:
        extra = f" The map of parameters leaves out {' and '.join(unmatched)}." if unmatched else ""
        return f"the outputs differ: the models are not the same function.{extra}"
    if LOSS in differ:
        return "the outputs agree, but the loss differs: compare loss_fn and what it averages over."
    if all(name.startswith(f"{PENALTY}WeightDecay") for name in differ):
        return (
            "the outputs agree, but not WeightDecay: it counts the parameters with two or more axes, and those are not "
            "the same in both models, as where a bias has the shape (heads, features) in one of them."
        )
    stopped = "look for stop_gradient, detach, no_grad or a custom gradient in one of the models."
    if f"{INPUT}loss" in differ or any(name.startswith(PENALTY) for name in differ):
        return f"the outputs agree, but the first derivatives differ: {stopped}"
    if f"{PARAMETER}loss" in differ:
        return f"the input gradients agree, but those of the parameters differ: {stopped}"
    return (
        "values and first derivatives agree, but the penalty's gradient differs, which needs second derivatives: look "
        "for an operation whose second derivative is wrong or stopped, such as a variance with a stopped gradient; "
        "gradreg's check() on each model finds which is wrong."
    )


def same_function(rows: Sequence[Row]) -> bool:
    """Whether the outputs agree."""
    return all(row.agrees for row in rows if row.quantity.partition("[")[0] == OUTPUTS)


def differing_output(rows: Sequence[Row]) -> str:
    """The path of the first output that differs; "" for the only one."""
    names = [row.quantity for row in rows if not row.agrees and row.quantity.partition("[")[0] == OUTPUTS]
    return names[0].removeprefix(OUTPUTS).removeprefix("[").removesuffix("]") if names else ""
