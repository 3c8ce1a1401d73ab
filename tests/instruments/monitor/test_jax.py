"""A monitor in JAX: parameters, and the state of Flax NNX modules, which is as before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gradreg_core import DataGrad
from gradreg_core.errors import InputTypeError
from gradreg_jax import programs
from gradreg_monitor import Monitor

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)), jnp.float32)
Y = jnp.arange(4) % 2


class Network(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(5, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(6, 2, rngs=rngs)
        self.norm.mean[...] = jnp.linspace(-1, 1, 6)  # in evaluation mode its derivative is not 0

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.drop(jnp.tanh(self.norm(self.first(x)))))


def by_hand(model: nnx.Module) -> tuple[float, float, float]:
    """(loss, share, cosine) of 2 * DataGrad in evaluation mode, for the parameters alone."""
    copied = nnx.clone(model)
    copied.eval()
    graph, params, rest = nnx.split(copied, nnx.Param, ...)

    def losses(params: nnx.State, x: jax.Array) -> jax.Array:
        return -jax.nn.log_softmax(nnx.merge(graph, params, rest)(x))[jnp.arange(4), Y]

    def penalty(params: nnx.State) -> jax.Array:
        return 2.0 * (jax.grad(lambda x: losses(params, x).sum())(X) ** 2).sum(1).mean()

    @jax.jit
    def both(params: nnx.State) -> tuple[jax.Array, nnx.State, nnx.State]:
        return losses(params, X).mean(), jax.grad(lambda p: losses(p, X).mean())(params), jax.grad(penalty)(params)

    loss, of_loss, of_penalty = both(params)
    p = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(of_penalty)]).astype(np.float64)
    t = p + np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(of_loss)])
    return float(loss), np.linalg.norm(p) / np.linalg.norm(t), p @ t / np.linalg.norm(p) / np.linalg.norm(t)


@pytest.mark.slow
def test_a_module_in_training_mode_is_left_as_it_is_and_looked_at_in_evaluation_mode() -> None:
    model = Network()
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngKey))))]
    values = Monitor(X, Y, DataGrad(2.0), jacobian=False)(model, jnp.int32(3))
    assert values is not None
    wanted = by_hand(model)
    # float32, some ten operations deep
    assert [values[name] for name in ("loss", "gradient/share", "gradient/cosine")] == pytest.approx(wanted, rel=1e-5)
    after = [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngKey))))]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert (model.norm.use_running_average, model.drop.deterministic) == (False, False)

    # A second record runs the programs of the first one, with the parameters as they are then. A function that refers
    # to the module is the same where its parameters are named; without them statistics count as parameters.
    count = len(programs._compiled)
    model.last.kernel[...] *= 2
    state = nnx.state(model, nnx.Param)
    moved = Monitor(X, Y, DataGrad(2.0), jacobian=False)(lambda x: model(x), 4, params=state)
    assert moved is not None
    assert len(programs._compiled) == count
    wanted = by_hand(model)
    assert [moved[name] for name in ("loss", "gradient/share", "gradient/cosine")] == pytest.approx(wanted, rel=1e-5)
    other = Monitor(X, Y, DataGrad(2.0), jacobian=False)(lambda x: model(x), 4)
    assert other is not None
    assert other["gradient/share"] != pytest.approx(moved["gradient/share"], rel=1e-3)


def test_inside_of_a_transformation_it_is_refused() -> None:
    monitor = Monitor(X, Y)
    with pytest.raises(InputTypeError, match=r"outside jax\.jit"):
        jax.jit(lambda step: monitor(lambda x: x, step))(0)
