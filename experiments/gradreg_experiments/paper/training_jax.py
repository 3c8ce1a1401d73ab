"""Trains a job in JAX: the loop over the steps is compiled, a chunk at a time; several seeds train together."""

from collections.abc import Callable, Mapping, Sequence
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
from gradreg_experiments.paper.protocol import split, unseeded
from gradreg_experiments.paper.run import Run
from gradreg_experiments.paper.schedule import Masks
from gradreg_jax.networks import apply

__all__ = ["input_gradient", "jacobian_norms", "logits", "train", "train_together"]

Arrays = Mapping[str, Any]
_BETAS = 0.9, 0.999
_EPSILON = 1e-8


def train(run: Run, tick: Callable[[int], None] = lambda steps: None) -> tuple[dict[str, Any], Any]:
    """Carry the run out with Adam; see :class:`gradreg_experiments.paper.run.Trainer`."""
    return train_together([run], tick)[0]


def train_together(
    runs: Sequence[Run], tick: Callable[[int], None] = lambda steps: None
) -> list[tuple[dict[str, Any], Any]]:
    """Carry out runs that differ in their seeds only, as one program: with several, every operation has one more axis.

    Returns:
        Final weights and losses of each run, as :func:`train`.

    Raises:
        InputError: protocols or regularizers differ in more than their seeds.
    """
    with jax.enable_x64(runs[0].job.protocol.dtype == "float64"):
        return _train(runs, _seeds(runs), tick)


def _seeds(runs: Sequence[Run]) -> Any:
    """The seed of each run's draws, or None where all runs have the same regularizer, which knows its own."""
    first, jobs = runs[0].job, [run.job for run in runs]
    if any(
        (each.protocol, unseeded(each.regularizer)) != (first.protocol, unseeded(first.regularizer)) for each in jobs
    ):
        raise InputError(
            "train_together: expected runs that differ in their seeds only, got several protocols or regularizers; "
            "train them one by one."
        )
    if all(each.regularizer == first.regularizer for each in jobs):
        return None
    terms = [each.regularizer.terms if each.regularizer else () for each in jobs]
    seeds = [{term.seed for term in own if isinstance(term, JacobianTerm)} for own in terms]
    if any(len(own) != 1 for own in seeds):
        raise InputError(
            "train_together: expected one seed for all terms of a run's regularizer, which the traced one stands in "
            "place of, got several; train the runs one by one."
        )
    return jnp.asarray(np.array([*chain(*seeds)], np.uint32))


def _train(runs: Sequence[Run], seeds: Any, tick: Callable[[int], None]) -> list[tuple[dict[str, Any], Any]]:
    protocol, network = runs[0].job.protocol, runs[0].network
    dtype = protocol.dtype
    shared, apart = split(protocol, runs[0].job.regularizer)

    def one_step(data: Any, seed: Any, carry: Any, given: Any) -> Any:
        weights, means, squares = carry
        images, labels = data
        step, batch, rate, masks, other_masks, partners, share = given
        x, y = images[batch], labels[batch]
        if protocol.mixup:
            x, y = share * x + (1 - share) * images[partners], share * y + (1 - share) * labels[partners]

        def total(weights: Any) -> Any:
            options = {"step": step, "seed": seed, "batch_norm": "allow"}
            model = _model(network, weights, masks)
            value, _ = gradreg.loss(model, x, y, shared, params=weights, loss_fn=runs[0].loss_fn, **options)
            if apart is not None:
                model = _model(network, weights, other_masks)
                value = value + gradreg.penalty(model, x, y, apart, **options)
            return runs[0].scale * value

        loss, gradients = jax.value_and_grad(total)(weights)
        time = (step + 1).astype(dtype)
        means = jax.tree.map(lambda m, g: _BETAS[0] * m + (1 - _BETAS[0]) * g, means, gradients)
        squares = jax.tree.map(lambda v, g: _BETAS[1] * v + (1 - _BETAS[1]) * g * g, squares, gradients)
        ahead, spread = 1 - _BETAS[0] ** time, 1 - _BETAS[1] ** time
        weights = jax.tree.map(
            lambda w, m, v: w - rate * (m / ahead) / (jnp.sqrt(v / spread) + _EPSILON), weights, means, squares
        )
        return (weights, means, squares), loss

    def scan(data: Any, seed: Any, carry: Any, given: Any) -> Any:
        return lax.scan(lambda carry, given: one_step(data, seed, carry, given), carry, given)

    several = len(runs) > 1
    compiled = jax.jit(jax.vmap(scan) if several else scan)
    given = [_native(run) for run in runs]
    data, weights = (jax.tree.map(_stacked(several), *each) for each in zip(*given, strict=True))
    zeros = jax.tree.map(jnp.zeros_like, weights)
    carry, losses = (weights, zeros, zeros), []
    for start in range(0, protocol.steps, runs[0].chunk):
        inputs = [_inputs(run, start, dtype) for run in runs]
        stacked = jax.tree.map(_stacked(several), *inputs)
        carry, values = compiled(data, seeds, carry, stacked)
        losses.append(np.asarray(values, np.float64))
        tick(losses[-1].size)
    curves = np.concatenate(losses, -1).reshape(len(runs), -1)
    finals = [{path: np.asarray(v[i] if several else v) for path, v in carry[0].items()} for i in range(len(runs))]
    return list(zip(finals, curves, strict=True))


def _native(run: Run) -> Any:
    dtype = run.job.protocol.dtype
    labels = jnp.asarray(run.y, dtype if run.soft else jnp.int32)
    return (jnp.asarray(run.x, dtype), labels), {path: jnp.asarray(each, dtype) for path, each in run.params.items()}


def _inputs(run: Run, start: int, dtype: str) -> Any:
    steps = run.schedule.steps(start, start + run.chunk)
    masks, other_masks = (
        {path: jnp.asarray(each, dtype) for path, each in pair.items()} for pair in (steps.masks, steps.other_masks)
    )
    rates, shares = jnp.asarray(steps.rates, dtype), jnp.asarray(steps.shares, dtype)
    return jnp.asarray(steps.numbers), jnp.asarray(steps.batches), rates, masks, other_masks, steps.partners, shares


def _stacked(several: bool) -> Callable[..., Any]:
    return lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]) if several else jnp.asarray(leaves[0])


def _model(network: Network, weights: Arrays, masks: Arrays) -> Callable[[Any], Any]:
    rows = Masks(masks)
    return lambda x: apply(network, weights, x, rows.next(len(x)))


def logits(network: Network, params: Arrays, x: Any) -> Any:
    """The outputs without dropout, (N, m)."""
    return _logits(network, _native_params(params), jnp.asarray(x))


def input_gradient(network: Network, params: Arrays, x: Any, y: Any) -> Any:
    """The gradient of each sample's cross-entropy with respect to its input, of the shape of x, without dropout."""
    return _input_gradient(network, _native_params(params), jnp.asarray(x), jnp.asarray(y, jnp.int32))


def jacobian_norms(network: Network, params: Arrays, x: Any) -> Any:
    """||dz/dx||_F of each sample without dropout, (N,)."""
    return _jacobian_norms(network, _native_params(params), jnp.asarray(x))


def _native_params(params: Arrays) -> dict[str, Any]:
    return {path: jnp.asarray(value) for path, value in params.items()}


@jax.jit(static_argnums=0)
def _logits(network: Network, params: Any, x: Any) -> Any:
    return apply(network, params, x)


@jax.jit(static_argnums=0)
def _input_gradient(network: Network, params: Any, x: Any, y: Any) -> Any:
    def total(x: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(apply(network, params, x)), y[:, None], 1).sum()

    return jax.grad(total)(x)


@jax.jit(static_argnums=0)
def _jacobian_norms(network: Network, params: Any, x: Any) -> Any:
    return gradreg.measure(lambda inputs: apply(network, params, inputs), x).frobenius
