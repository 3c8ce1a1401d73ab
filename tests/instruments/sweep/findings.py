"""Findings of single operations, computed once, and what their programs print."""

import contextlib
import io
import re
from functools import cache

import numpy as np

from gradreg_sweep.registry import framework
from gradreg_sweep.search import Finding, examine

FEW = 4
"""Configurations per operation, besides the usual one: enough for all that is tested here."""


WRONG = {
    "tf.nn.moments": 1e-3,
    "tf.keras.layers.LayerNormalization": 1e-3,
    "tf.keras.layers.GroupNormalization": 1e-3,
    "tf.keras.layers.BatchNormalization": 1e-3,
    "tf.keras.ops.moments": 1e-3,
    "tf.nn.softmax_cross_entropy_with_logits, labels of the model": 1e-3,
}
"""Known errors of TensorFlow: operation -> the least relative error."""


@cache
def examined(name: str, operation: str, mode: str = "") -> Finding:
    swept = framework(name)
    (chosen,) = [known for known in swept.operations if known.name == operation]
    return examine(swept, chosen, mode or swept.modes[0], FEW)


def run(finding: Finding) -> str:
    """The output of the finding's program, run by itself."""
    assert "gradreg" not in finding.reproduction
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(finding.reproduction, finding.operation, "exec"), {})
    return printed.getvalue()


def disagreement(printed: str) -> float:
    """Relative, of the first and the last number that a program prints."""
    one, *_, other = (float(number) for number in re.findall(r": +(\S+)", printed))
    return abs(one - other) / max(abs(one), abs(other))


def small(finding: Finding) -> bool:
    """At most 36 numbers in x; an image of 3 by 3 pixels and an odd batch of two has 36."""
    (operation,) = [known for known in framework(finding.framework).operations if known.name == finding.operation]
    return bool(np.prod(operation.input_shape(finding.configuration)) <= 36)


def finding(**changes) -> Finding:
    """A finding that needs no framework."""
    values = {"framework": "torch", "version": "PyTorch 0", "mode": "eager", "operation": "mine", "kind": "wrong"}
    return Finding(**{**values, "error": 0.25, "reproduction": "print(1)\n", **changes})
