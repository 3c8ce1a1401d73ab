"""Mutants that differ from the original at a kink alone.

Left out: hinge(t) with >= for >, whose value and derivative at t are 0 either way.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from gradreg_core import norms
from gradreg_torch import networks
from mutants.mutant import mutant, patched, per_sample

__all__: list[str] = []


@mutant("any_regularizer_of_any_network", "kink_of_the_l2_norm")
def square_root_without_a_guard() -> Any:
    return patched(norms, "safe_sqrt", lambda ops, array: ops.sqrt(array))


@mutant("kink_of_the_l2_norm")
def gradient_penalty_without_a_guard() -> Any:
    """As in many a WGAN-GP: (sqrt(sum of squares) - 1)^2."""

    def change(plain: Any, term: Any, forward: Any) -> Any:
        if not isinstance(term.phi, norms.target) or term.norm != "l2" or term.squared:
            return plain(term, forward)
        squares = plain(replace(term, squared=True, phi=norms.identity()), forward)
        return term.phi.apply(forward.call.ops, squares.sqrt())

    return per_sample(change)


@mutant("kink_of_the_l1_norm")
def absolute_value_with_slope_1_at_0() -> Any:
    return patched(norms, "_absolute", lambda ops, array: ops.where(array >= 0, array, -array))


@mutant("kink_of_the_linf_norm")
def maximum_that_divides_a_tie() -> Any:
    return patched(norms, "_maximum", lambda ops, array: array.amax(-1))


@mutant("kink_of_relu")
def relu_with_slope_one_half_at_0() -> Any:
    relu = {"relu": lambda x: torch.maximum(x, torch.zeros_like(x))}
    return patched(networks, "_ACTIVATIONS", networks._ACTIVATIONS | relu)


@mutant("kink_of_max_pooling")
def max_pooling_that_divides_a_tie() -> Any:
    def pool(x: torch.Tensor, size: int) -> torch.Tensor:
        rows, columns = x.shape[2] // size, x.shape[3] // size
        cut = x[:, :, : rows * size, : columns * size]
        return cut.reshape(*x.shape[:2], rows, size, columns, size).amax((3, 5))

    return patched(F, "max_pool2d", pool)
