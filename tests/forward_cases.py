"""Forward passes for tests of the core."""

from typing import Any

from torch import Tensor

from gradreg_core.backend import ModelPass
from gradreg_core.forward import Call, Forward, Samples, forward_pass, make_forward
from gradreg_core.inputs import Arguments

INPUT = ((None, None),)
"""The outputs with respect to the input."""


def samples(call: Call, x: Any, y: Any = None) -> Samples:
    """`x` and `y` as a call takes them apart."""
    return Samples(Arguments.of(call.ops, call.name, x), y)


def passed(call: Call, model: Any, x: Any, pairs: Any = INPUT, y: Any = None) -> Forward:
    """A pass through `model`."""
    return forward_pass(call, model, samples(call, x, y), pairs)


def made(call: Call, x: Any, outputs: Tensor, y: Any = None) -> Forward:
    """A pass that gave these outputs."""
    return make_forward(call, None, samples(call, x, y), ModelPass(outputs, outputs, {}, {}))
