"""A reference model moved by a little wherever a computation rounds: what that changes is the condition of a case.

Moving the weights alone does not show two places that lose digits. The slope of a saturated tanh is 1 - t^2, with t
near one: a computation that rounds t has it, and its own slope, with an absolute error of about a unit roundoff,
however small they are. And normal draws that are nearly parallel lose as many digits as they agree in when they are
made orthogonal.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

import gradreg_numpy
from gradreg_core.portable.networks import Activation, Layer, Residual
from gradreg_numpy.layers import Linearized, Weights, linearize

__all__ = ["moved", "moved_model"]

_KINKED = ("relu", "leaky_relu")
"""Their slopes are constants, which no rounding moves."""


@dataclass(frozen=True)
class _Moved(Activation):
    size: float = 0.0
    seed: tuple[int, ...] = ()


@lru_cache(maxsize=512)
def _signs(seed: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).choice([-1.0, 1.0], size=shape)


@linearize.register
def _(layer: _Moved, weights: Weights, x: np.ndarray) -> Linearized:
    value, tangent = linearize(Activation(layer.kind), weights, x)
    # The second term vanishes for a real x. A complex step takes it for an error of the second derivative.
    error = _signs(layer.seed, x.shape) + _signs((*layer.seed, 1), x.shape) * (x - x.real)
    return value, lambda dx: tangent(dx) + layer.size * error * dx


def moved(values: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    """Each value larger or smaller by the relative amount `size`."""
    return values * (1 + size * rng.choice([-1.0, 1.0], size=values.shape))


def moved_model(model: gradreg_numpy.Model, size: float, *seed: int) -> gradreg_numpy.Model:
    """The model with weights and normal draws moved by the relative amount `size`, as `seed` says.

    The first and the second derivatives of smooth activations move by the same absolute amount.
    """
    rng = np.random.default_rng(seed)
    return replace(
        model,
        network=replace(model.network, layers=_moved_layers(model.network.layers, size, seed)),
        params={path: moved(array, size, rng) for path, array in model.params.items()},
        normals=lambda drawn: drawn * (1 + size * _signs(seed, drawn.shape)),
    )


def _moved_layers(layers: tuple[Layer, ...], size: float, seed: tuple[int, ...]) -> tuple[Layer, ...]:
    result: list[Layer] = []
    for index, layer in enumerate(layers):
        own = (*seed, index)
        if isinstance(layer, Residual):
            result.append(replace(layer, layers=_moved_layers(layer.layers, size, own)))
        elif isinstance(layer, Activation) and layer.kind not in _KINKED:
            result.append(_Moved(layer.kind, size, own))
        else:
            result.append(layer)
    return tuple(result)
