"""Helpers of the tests of JAX: portable models as functions, their gradients, and those of the reference."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradreg_jax as gradreg
import gradreg_numpy
from gradreg_core.spec import Regularizer
from gradreg_jax.networks import apply

STEP = 2


def compiled(function: Any) -> Any:
    """`function` under jit, with little optimization: it runs once."""
    options = {"xla_backend_optimization_level": "0", "xla_llvm_disable_expensive_passes": "True"}
    return jax.jit(function, compiler_options=options)


def split(model: gradreg_numpy.Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trainable weights, and the statistics."""
    trained = model.network.weights()
    weights = {path: jnp.asarray(value) for path, value in model.params.items() if path in trained}
    return weights, {path: jnp.asarray(value) for path, value in model.params.items() if path not in trained}


def total(weights: Any, x: Any, y: Any, step: Any, model: gradreg_numpy.Model, reg: Any, **options: Any) -> Any:
    fixed = split(model)[1]
    options = {"params": weights, "batch_norm": "allow"} | options
    return gradreg.loss(lambda x: apply(model.network, weights | fixed, x), x, y, reg, step=step, **options)


def gradients(model: gradreg_numpy.Model, x: Any, y: Any, reg: Any, transform: Any = compiled) -> Any:
    """(total, penalties, gradients by path and for the input)."""
    call = jax.value_and_grad(lambda w, x, step: total(w, x, y, step, model, reg), argnums=(0, 1), has_aux=True)
    (value, parts), (weights, inputs) = transform(call)(split(model)[0], jnp.asarray(x), STEP)
    arrays = {path: np.asarray(weight, np.float64) for path, weight in weights.items()}
    return float(value), parts.penalty, arrays | {"x": np.asarray(inputs, np.float64)}


def oracle(model: gradreg_numpy.Model, x: Any, y: Any, reg: Regularizer) -> tuple[float, dict[str, Any]]:
    weights, inputs = gradreg_numpy.gradient(model, x, y, reg, step=STEP, of="total")
    return float(gradreg_numpy.loss(model, x, y, reg, step=STEP)[0]), weights | {"x": inputs}


def loop(x: Any) -> Any:
    """Something that reverse mode cannot differentiate."""
    return jax.lax.while_loop(lambda pair: pair[0] < 3, lambda pair: (pair[0] + 1, pair[1] * 2), (0, x))[1]
