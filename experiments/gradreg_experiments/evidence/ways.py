"""Ways to apply a penalty at few steps without disturbing Adam, and training with each."""

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

import gradreg_jax as gradreg
from gradreg_bench.networks import first_share, limit
from gradreg_core.presets import WeightDecay
from gradreg_experiments.paper.network import build
from gradreg_experiments.paper.protocol import Protocol
from gradreg_experiments.paper.summary import WEIGHT_DECAY
from gradreg_experiments.plan import Masks, Plan, Steps
from gradreg_jax.networks import apply

__all__ = ["PROTOCOL", "WAYS", "Gradients", "Moments", "State", "Way", "train"]

PROTOCOL = Protocol(before_last="dropout")
_BETAS = 0.9, 0.999
_EPSILON = 1e-8

Tree = Any


class Moments(NamedTuple):
    """Adam's running sums, and the sums of their weights, which correct their bias."""

    means: Tree
    squares: Tree
    first: Any
    second: Any


class State(NamedTuple):
    """The state of a training."""

    weights: Tree
    moments: Moments
    own: Moments
    """The moments of the penalty."""
    held: Tree
    """The last gradient of the penalty, unscaled."""


class Gradients(NamedTuple):
    """The gradients of one step."""

    loss: Tree
    penalty: Tree | None
    """The gradient of the weighted penalty, not multiplied by n; None if it is not due."""
    since: Any
    """The number of steps since the penalty was due."""


@dataclass(frozen=True)
class Way:
    """A way to apply a penalty at every n-th step.

    Args:
        name: the way's name.
        meaning: the meaning of its setting.
        every: n.
        settings: the settings to try.
        apart: whether a step with a penalty differentiates the loss and the penalty separately.
        advance: (state, gradients, rate, setting, n) -> the state after the step.
    """

    name: str
    meaning: str
    every: int
    settings: tuple[float, ...]
    apart: bool
    advance: Callable[[State, Gradients, Any, float, int], State]

    @property
    def cost(self) -> float:
        """Multiplications and additions of a step on average, relative to a plain step."""
        f = first_share(build(PROTOCOL))
        due = limit(f, 1) + (2 - f) / (3 - f) * self.apart
        return 1 + (due - 1) / self.every


def _moved(
    moments: Moments, gradient: Tree, betas: tuple[float, float] = _BETAS, squares: bool = True
) -> tuple[Moments, Tree]:
    """The moments after a gradient, and Adam's direction; `squares=False` keeps an existing second moment."""
    a, b = betas
    means = jax.tree.map(lambda m, g: a * m + (1 - a) * g, moments.means, gradient)
    first, keep = a * moments.first + 1 - a, (not squares) & (moments.second > 0)
    second = jnp.where(keep, moments.second, b * moments.second + 1 - b)
    after = jax.tree.map(lambda v, g: jnp.where(keep, v, b * v + (1 - b) * g * g), moments.squares, gradient)
    direction = jax.tree.map(lambda m, v: (m / first) / (jnp.sqrt(v / second) + _EPSILON), means, after)
    return Moments(means, after, first, second), direction


def _added(one: Tree, other: Tree, factor: Any) -> Tree:
    return jax.tree.map(lambda a, b: a + factor * b, one, other)


def _norm(tree: Tree) -> Any:
    return jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree)))


def _stepped(state: State, gradient: Tree, rate: Any, **options: Any) -> State:
    moments, direction = _moved(state.moments, gradient, **options)
    return state._replace(moments=moments, weights=_added(state.weights, direction, -rate))


def _multiplied(state: State, given: Gradients, rate: Any, setting: float, every: int) -> State:
    """The sum of both, with the penalty times the setting."""
    both = given.loss if given.penalty is None else _added(given.loss, given.penalty, setting)
    return _stepped(state, both, rate)


def _held(state: State, given: Gradients, rate: Any, setting: float, every: int) -> State:
    """The last gradient of the penalty at every step, times setting^k after k steps, in total n times it."""
    if given.penalty is not None:
        state = state._replace(held=given.penalty)
    scale = every / sum(setting**k for k in range(every))
    return _stepped(state, _added(given.loss, state.held, scale * setting**given.since), rate)


def _own_step(state: State, given: Gradients, rate: Any, setting: float, every: int) -> State:
    """The penalty in a separate step, the rate and the betas^c with c = n / (n + 1): StyleGAN2's lazy way."""
    share = every / (every + 1)
    betas = (_BETAS[0] ** share, _BETAS[1] ** share)
    state = _stepped(state, given.loss, share * rate, betas=betas)
    if given.penalty is not None:
        scaled = jax.tree.map(lambda p: setting * p, given.penalty)
        state = _stepped(state, scaled, share * rate, betas=betas)
    return state


def _own_moments(state: State, given: Gradients, rate: Any, setting: float, every: int) -> State:
    """The penalty has a separate Adam, at the rate times the setting."""
    state = _stepped(state, given.loss, rate)
    if given.penalty is not None:
        own, direction = _moved(state.own, given.penalty)
        state = state._replace(own=own, weights=_added(state.weights, direction, -rate * setting))
    return state


def _plain_squares(state: State, given: Gradients, rate: Any, setting: float, every: int) -> State:
    """Steps with a penalty do not enter Adam's second moment; the penalty is multiplied by the setting."""
    if given.penalty is None:
        return _stepped(state, given.loss, rate)
    return _stepped(state, _added(given.loss, given.penalty, setting), rate, squares=False)


def _clipped(state: State, given: Gradients, rate: Any, setting: float, every: int) -> State:
    """The penalty's gradient times n, clipped to the setting times the norm of the loss's."""
    if given.penalty is None:
        return _stepped(state, given.loss, rate)
    allowed = setting * _norm(given.loss) / (_norm(given.penalty) + 1e-30)
    return _stepped(state, _added(given.loss, given.penalty, jnp.minimum(1.0 * every, allowed)), rate)


_FACTOR = "factor on the penalty"
WAYS = (
    Way("no penalty", "", 8, (0.0,), False, _multiplied),
    Way("every second step", "", 2, (2.0,), False, _multiplied),
    Way("multiplied by less than n", _FACTOR, 8, (1.0, 3.0), False, _multiplied),
    Way("second moment of plain steps", _FACTOR, 8, (3.0, 8.0), False, _plain_squares),
    Way("last gradient held", "decay per step", 12, (1.0, 0.8), True, _held),
    Way("step of its own", _FACTOR, 16, (4.0, 16.0), True, _own_step),
    Way("moments of its own", "factor on the rate", 12, (1.0, 4.0), True, _own_moments),
    Way("clipped", "multiple of the loss's gradient", 12, (1.0, 4.0), True, _clipped),
)


def train(plan: Plan, way: Way, setting: float) -> dict[str, Any]:
    """The weights and statistics after training, by path.

    Args:
        plan: its regularizer is the penalty applied at every n-th step; weight decay applies at every step.
        way: the way to apply it.
        setting: the way's setting.
    """
    block = _block(plan, way, setting)
    rest = jax.jit(block)
    blocks = jax.jit(lambda data, state, given: lax.scan(lambda s, g: (block(data, s, g), None), state, given)[0])
    params = {path: jnp.asarray(value) for path, value in plan.params.items()}
    weights = {path: params.pop(path) for path in plan.network.weights()}
    zeros = jax.tree.map(jnp.zeros_like, weights)
    none = Moments(zeros, zeros, jnp.zeros(()), jnp.zeros(()))
    state = State(weights, none, none, zeros)
    data = (jnp.asarray(plan.x), jnp.asarray(plan.y, jnp.int32), params)
    for steps in replace(plan, chunk=way.every * max(1, 200 // way.every)).chunks():
        given = jax.tree.map(lambda v: jnp.asarray(v, None if v.dtype.kind == "i" else jnp.float32), steps)
        whole = len(steps.numbers) // way.every
        if whole:
            state = blocks(data, state, jax.tree.map(partial(_blocks, count=whole, every=way.every), given))
        if whole * way.every < len(steps.numbers):
            state = rest(data, state, jax.tree.map(operator.itemgetter(slice(whole * way.every, None)), given))
    return params | state.weights


def _blocks(values: Any, count: int, every: int) -> Any:
    return values[: count * every].reshape(count, every, *values.shape[1:])


def _block(plan: Plan, way: Way, setting: float) -> Callable[[Any, State, Steps], State]:
    """(data, state, n steps, of which the first is due) -> the state after them."""
    decay = WeightDecay(WEIGHT_DECAY)

    def values(weights: Tree, data: Any, given: Steps, due: bool) -> tuple[Any, Any]:
        images, labels, fixed = data
        rows, reg = Masks(given.masks), decay + plan.reg if due and plan.reg is not None else decay
        x, y = images[given.batches], labels[given.batches]
        _, parts = gradreg.loss(
            lambda x: apply(plan.network, fixed | weights, x, rows.next(len(x))), x, y, reg, params=weights
        )
        return parts.loss + parts.penalty[0], parts.penalty[1] if len(parts.penalty) > 1 else jnp.zeros(())

    def one(data: Any, state: State, given: Steps, since: Any, due: bool) -> State:
        _, pull = jax.vjp(lambda weights: values(weights, data, given, due), state.weights)
        (loss,) = pull((jnp.ones(()), jnp.zeros(())))
        penalty = pull((jnp.zeros(()), jnp.ones(())))[0] if due else None
        return way.advance(state, Gradients(loss, penalty, since), given.rates, setting, way.every)

    def block(data: Any, state: State, given: Steps) -> State:
        state = one(data, state, jax.tree.map(lambda v: v[0], given), 0, due=setting > 0)
        rest = (jax.tree.map(lambda v: v[1:], given), jnp.arange(1, len(given.numbers)))
        return lax.scan(lambda s, g: (one(data, s, *g, due=False), None), state, rest)[0]

    return block
