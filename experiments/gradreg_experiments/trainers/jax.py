"""Trains in JAX: the loop over the steps is compiled, a chunk at a time; several seeds train together."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import gradreg_jax as gradreg
from gradreg_core.errors import InputError
from gradreg_core.portable.networks import Network
from gradreg_core.spec import JacobianTerm
from gradreg_experiments.plan import Masks, Plan, Steps, Trained, unseeded
from gradreg_experiments.trainers.trainer import Tick, Trainer, silent
from gradreg_jax.networks import apply
from gradreg_jax.versions import enable_x64

__all__ = ["JaxTrainer"]

Arrays = Mapping[str, Any]
_BETAS = 0.9, 0.999
_EPSILON = 1e-8


class JaxTrainer(Trainer):
    """See :class:`gradreg_experiments.trainers.trainer.Trainer`. Plans in float64 need no global setting."""

    def train(self, plan: Plan, tick: Tick = silent) -> Trained:
        return self.train_together([plan], tick)[0]

    def train_together(self, plans: Sequence[Plan], tick: Tick = silent) -> list[Trained]:
        """Train plans that differ only in their seeds as one program: with several, every operation has one more axis.

        Raises:
            InputError: networks or regularizers differ in more than their seeds.
        """
        with enable_x64(plans[0].dtype == "float64"):
            return _train(plans, _seeds(plans), tick)

    def logits(self, network: Network, params: Arrays, x: Any) -> Any:
        return np.asarray(_logits(network, _native(params), jnp.asarray(x)))

    def input_gradient(self, network: Network, params: Arrays, x: Any, y: Any) -> Any:
        return np.asarray(_input_gradient(network, _native(params), jnp.asarray(x), jnp.asarray(y, jnp.int32)))

    def jacobian_norms(self, network: Network, params: Arrays, x: Any) -> Any:
        return np.asarray(_jacobian_norms(network, _native(params), jnp.asarray(x)))


def _seeds(plans: Sequence[Plan]) -> Any:
    """The seed of each plan's draws, or None if all plans have the same terms, with their own seeds."""
    kinds = [(p.network, unseeded(p.reg), unseeded(p.apart), p.dtype, p.loss_fn, p.scale, p.chunk) for p in plans]
    if any(kind != kinds[0] for kind in kinds):
        raise InputError(
            "train_together: expected runs that differ only in their seeds, got several networks or regularizers; "
            "train them one by one."
        )
    if all((plan.reg, plan.apart) == (plans[0].reg, plans[0].apart) for plan in plans):
        return None
    terms = [(*(plan.reg.terms if plan.reg else ()), *(plan.apart.terms if plan.apart else ())) for plan in plans]
    seeds = [{term.seed for term in own if isinstance(term, JacobianTerm)} for own in terms]
    if any(len(own) != 1 for own in seeds):
        raise InputError(
            "train_together: expected one seed for all terms of a run's regularizer, which the traced seed "
            "replaces, got several; train the runs one by one."
        )
    return jnp.asarray(np.array([*chain(*seeds)], np.uint32))


def _train(plans: Sequence[Plan], seeds: Any, tick: Tick) -> list[Trained]:
    several, step = len(plans) > 1, _one_step(plans[0])

    def scan(data: Any, seed: Any, carry: Any, given: Any) -> Any:
        return lax.scan(lambda carry, given: step(data, seed, carry, given), carry, given)

    compiled = jax.jit(jax.vmap(scan) if several else scan)
    given = [_arrays(plan) for plan in plans]
    images, labels, fixed, weights = (jax.tree.map(_stacked(several), *leaves) for leaves in zip(*given, strict=True))
    zeros = jax.tree.map(jnp.zeros_like, weights)
    carry, losses = (weights, zeros, zeros), [np.zeros((len(plans), 0))]
    for chunks in zip(*(plan.chunks() for plan in plans), strict=True):
        inputs = jax.tree.map(_stacked(several), *(_inputs(steps, plans[0].dtype) for steps in chunks))
        carry, values = compiled((images, labels, fixed), seeds, carry, inputs)
        losses.append(np.asarray(values, np.float64).reshape(len(plans), -1))
        tick(losses[-1].size)
    params = fixed | carry[0]
    finals = [{path: np.asarray(v[i] if several else v) for path, v in params.items()} for i in range(len(plans))]
    return [Trained(*pair) for pair in zip(finals, np.concatenate(losses, -1), strict=True)]


def _one_step(plan: Plan) -> Callable[..., Any]:
    """A function (data, seed, (weights, moments), inputs of a step) -> (weights and moments after it, loss before)."""

    def one_step(data: Any, seed: Any, carry: Any, given: Steps) -> Any:
        weights, means, squares = carry
        images, labels, fixed = data
        x, y, share, others = images[given.batches], labels[given.batches], given.shares, given.partners
        if plan.mixing is not None:
            x, y = share * x + (1 - share) * images[others], share * y + (1 - share) * labels[others]
        reg, apart = plan.terms(given.weights)

        def total(weights: Any) -> Any:
            options = {"step": given.numbers, "seed": seed, "batch_norm": "allow"}
            model = _model(plan.network, fixed | weights, given.masks)
            value, _ = gradreg.loss(model, x, y, reg, params=weights, loss_fn=plan.loss_fn, **options)
            if apart is not None:
                model = _model(plan.network, fixed | weights, given.apart_masks)
                value = value + gradreg.penalty(model, x, y, apart, **options)
            return plan.scale * value

        loss, gradients = jax.value_and_grad(total)(weights)
        time = (given.numbers + 1).astype(plan.dtype)
        means = jax.tree.map(lambda m, g: _BETAS[0] * m + (1 - _BETAS[0]) * g, means, gradients)
        squares = jax.tree.map(lambda v, g: _BETAS[1] * v + (1 - _BETAS[1]) * g * g, squares, gradients)
        ahead, spread = 1 - _BETAS[0] ** time, 1 - _BETAS[1] ** time
        weights = jax.tree.map(
            lambda w, m, v: w - given.rates * (m / ahead) / (jnp.sqrt(v / spread) + _EPSILON), weights, means, squares
        )
        return (weights, means, squares), loss

    return one_step


def _arrays(plan: Plan) -> tuple[Any, Any, dict[str, Any], dict[str, Any]]:
    """(inputs, labels, statistics, weights)."""
    params = {path: jnp.asarray(value, plan.dtype) for path, value in plan.params.items()}
    weights = {path: params.pop(path) for path in plan.network.weights()}
    return jnp.asarray(plan.x, plan.dtype), jnp.asarray(plan.y, plan.dtype if plan.soft else jnp.int32), params, weights


def _inputs(steps: Steps, dtype: str) -> Steps:
    """The steps' arrays in the dtype, integer arrays unchanged."""
    return jax.tree.map(lambda v: jnp.asarray(v, None if v.dtype.kind == "i" else dtype), steps)


def _stacked(several: bool) -> Callable[..., Any]:
    return lambda *leaves: jnp.stack(leaves) if several else leaves[0]


def _model(network: Network, params: Arrays, masks: Arrays) -> Callable[[Any], Any]:
    rows = Masks(masks)
    return lambda x: apply(network, params, x, rows.next(len(x)))


def _native(params: Arrays) -> dict[str, Any]:
    return {path: jnp.asarray(value) for path, value in params.items()}


@partial(jax.jit, static_argnums=0)
def _logits(network: Network, params: Any, x: Any) -> Any:
    return apply(network, params, x)


@partial(jax.jit, static_argnums=0)
def _input_gradient(network: Network, params: Any, x: Any, y: Any) -> Any:
    def total(x: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(apply(network, params, x)), y[:, None], 1).sum()

    return jax.grad(total)(x)


@partial(jax.jit, static_argnums=0)
def _jacobian_norms(network: Network, params: Any, x: Any) -> Any:
    return gradreg.measure(lambda inputs: apply(network, params, inputs), x).frobenius
