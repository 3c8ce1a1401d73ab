"""Training of a portable network in JAX: the whole run compiled, a chunk of steps at a time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradreg_core.plugins.lazy import import_heavy
from gradreg_core.training import Plan, Trained
from gradreg_jax import api
from gradreg_jax.networks import apply

__all__ = ["train"]

_CHUNK = 200
"""Steps in one compiled scan: bounds the memory that their dropout masks take."""


def train(plan: Plan) -> Trained:
    """Carry out the plan with Adam (optax, eps 1e-8); float64 plans need no global setting.

    Raises:
        BackendImportError: optax is not installed.
    """
    optax = import_heavy("train", "optax", "pip install optax")
    with jax.enable_x64(plan.dtype == "float64"):
        return _train(plan, optax.adam(1.0, b1=0.9, b2=0.999, eps=1e-8), optax.apply_updates)


def _train(plan: Plan, adam: Any, apply_updates: Any) -> Trained:
    trained = set(plan.network.weights())
    arrays = {path: jnp.asarray(value, plan.dtype) for path, value in plan.params.items()}
    weights = {path: value for path, value in arrays.items() if path in trained}
    fixed = {path: value for path, value in arrays.items() if path not in trained}
    images, labels = jnp.asarray(plan.x, plan.dtype), jnp.asarray(np.asarray(plan.y))

    def one_step(carry: Any, given: Any) -> Any:
        weights, state = carry
        step, batch, rate, masks = given

        def total(weights: Any) -> Any:
            network = lambda x: apply(plan.network, weights | fixed, x, masks)  # noqa: E731
            options = {"step": step, "params": weights, "batch_norm": "allow"}
            return api.loss(network, images[batch], labels[batch], plan.reg, **options)[0]

        loss, gradients = jax.value_and_grad(total)(weights)
        updates, state = adam.update(gradients, state)
        weights = apply_updates(weights, jax.tree.map(lambda each: rate * each, updates))
        return (weights, state), loss

    scan = jax.jit(lambda carry, given: jax.lax.scan(one_step, carry, given))
    carry, losses = (weights, adam.init(weights)), []
    for start in range(0, len(plan.batches), _CHUNK):
        steps = range(start, min(start + _CHUNK, len(plan.batches)))
        masks = [plan.masks(step) for step in steps] if plan.masks is not None else [{} for _ in steps]
        stacked = {path: jnp.asarray(np.stack([each[path] for each in masks]), plan.dtype) for path in masks[0]}
        rates = jnp.asarray([plan.learning_rate(step) for step in steps], plan.dtype)
        batches = jnp.asarray(np.asarray(plan.batches)[steps.start : steps.stop], jnp.int32)
        carry, values = scan(carry, (jnp.arange(steps.start, steps.stop, dtype=jnp.int32), batches, rates, stacked))
        losses.append(np.asarray(values, np.float64))
    return Trained({path: np.asarray(value) for path, value in (fixed | carry[0]).items()}, np.concatenate(losses))
