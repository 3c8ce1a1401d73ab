"""State that a model changes on the side: it moves once, and nothing traced stays behind."""

import os
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradreg_jax as gradreg
from gradreg_core.errors import InputError
from gradreg_core.presets import DataGrad, SpectReg
from gradreg_core.spec import Regularizer
from gradreg_jax.backend import JaxBackend

X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1, 2])
W = jnp.asarray(np.random.default_rng(1).normal(size=(5, 3)), jnp.float32)
REGS: list[Regularizer] = [
    DataGrad(1.0),
    SpectReg(1.0, side="input", projections=2),
    SpectReg(1.0, side="input", method="difference"),
    SpectReg(1.0) + SpectReg(1.0, fraction=0.5),
]
MEAN = X.mean(0)
last: Any = None


class Counter:
    """A running mean and a list in attributes."""

    def __init__(self) -> None:
        self.mean: Any = jnp.zeros(5)
        self.means: list[Any] = []
        self.by_name: dict[str, Any] = {}

    def __call__(self, x: Any) -> Any:
        self.mean = self.mean + x.mean(0)
        self.means.append(x.mean(0))
        self.by_name["mean"] = x.mean(0)
        return jnp.tanh((x - self.mean) @ W)


def assert_means(*arrays: Any) -> None:
    for array in arrays:
        np.testing.assert_allclose(array, MEAN, rtol=1e-5, atol=1e-7)  # float32, summed in another order


@pytest.mark.parametrize("reg", REGS, ids=range(len(REGS)))
def test_attributes_and_containers(reg: Regularizer) -> None:
    model = Counter()
    ours, _ = gradreg.loss(model, X, Y, reg)
    assert_means(model.mean, *model.means, *model.by_name.values())
    assert len(model.means) == 1
    assert model(X).shape == (6, 3)
    if reg is REGS[0] or reg is REGS[2]:  # from one state; the others pass through the model again, behind the first
        first = gradreg.loss(lambda x: jnp.tanh((x - x.mean(0)) @ W), X, Y, reg)[0]
        assert float(ours) == pytest.approx(float(first), rel=1e-5)


def test_variables_of_enclosing_functions_and_globals() -> None:
    seen = None

    def model(x: Any) -> Any:
        global last
        nonlocal seen
        last = seen = x.mean(0)
        return x @ W

    gradreg.loss(model, X, Y, DataGrad(1.0))
    assert_means(seen, last)


def test_state_is_left_alone_where_it_must_be() -> None:
    model = Counter()
    with JaxBackend().repeatable(model):
        gradreg.loss(model, X, Y, REGS[3])
    gradreg.measure(JaxBackend().without_state_changes(model), X)
    np.testing.assert_array_equal(model.mean, 0)
    assert not model.means
    assert not model.by_name


def test_state_inside_of_jit_leaves_it_as_without_gradreg() -> None:
    @jax.jit
    def step(mean: Any) -> Any:
        model = Counter()
        model.mean = mean
        total, _ = gradreg.loss(model, X, Y, DataGrad(1.0))
        return total, model.mean

    assert_means(step(jnp.zeros(5))[1])


@pytest.fixture
def transform(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Stands for Haiku, which is not installed: inside of a transform, with a state."""
    haiku = types.ModuleType("haiku")
    monkeypatch.setitem(sys.modules, "haiku", haiku)

    def inside(starts: bool | None, state: dict[str, Any]) -> None:
        def running_init() -> bool:
            if starts is None:
                raise ValueError("not inside of a transform")
            return starts

        haiku.running_init = running_init  # type: ignore[attr-defined]
        haiku.get_current_state = lambda: state  # type: ignore[attr-defined]

    return inside


def test_a_haiku_transform_with_state_is_refused(transform: Callable[..., None]) -> None:
    calls: list[Any] = []

    def model(x: Any) -> Any:
        calls.append(None)
        return x @ W

    for starts, state in ((True, {}), (False, {"batch_norm": {}})):
        transform(starts, state)
        with pytest.raises(InputError, match=r"inside a haiku.transform.*Stateful\(lambda x, state: net.apply"):
            gradreg.loss(model, X, Y, DataGrad(1.0))
    assert not calls
    for starts in (False, None):
        transform(starts, {})
        gradreg.loss(model, X, Y, DataGrad(1.0))


KERAS = """
import jax, numpy as np, keras, pytest, warnings
from keras import layers
import gradreg_jax as gradreg
from gradreg_core.errors import BatchNormError, BatchNormWarning

assert keras.config.backend() == "jax"
x, y = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32), np.arange(6) % 3


def make():
    keras.utils.set_random_seed(0)
    names = [layers.Input((5,)), layers.Dense(4), layers.BatchNormalization(name="norm"), layers.Dropout(0.5)]
    return keras.Sequential([*names, layers.Dense(3)])


def same(net, values):
    return all(np.allclose(mine, other, rtol=1e-6, atol=1e-7) for mine, other in zip(net.get_weights(), values))


for reg in (gradreg.SpectReg(1.0), gradreg.SpectReg(1.0, side="input", method="difference", projections=2)):
    net, plain = make(), make()
    start = net.get_weights()
    with pytest.raises(BatchNormError, match=r"^penalty: norm \\(BatchNormalization\\) is in training mode"):
        gradreg.penalty(lambda z: net(z, training=True), x, y, reg, batch_norm="error")
    assert same(net, start)
    gradreg.loss(lambda z: net(z, training=True), x, y, reg, batch_norm="allow")
    plain(x, training=True)
    assert same(net, plain.get_weights()) and not same(net, start)
    net(x)  # nothing traced was left behind
with pytest.warns(BatchNormWarning) as caught:
    gradreg.penalty(lambda z: net(z, training=True), x, y, reg)
assert len(caught) == 1 and caught[0].filename == "<string>"
gradreg.penalty(lambda z: net(z, training=False), x, y, reg, batch_norm="error")

trained, state = [[v.value for v in part] for part in (net.trainable_variables, net.non_trainable_variables)]


def stateless(trained, training):
    model = lambda z: net.stateless_call(trained, state, z, training=training)[0]
    return gradreg.penalty(model, x, y, gradreg.SpectReg(1.0), batch_norm="error")


assert all(np.isfinite(slope).all() for slope in jax.grad(stateless)(trained, False))
with pytest.raises(BatchNormError):
    stateless(trained, True)


def scoped(trained):
    with keras.StatelessScope(state_mapping=list(zip(net.trainable_variables, trained))) as scope:
        total = gradreg.penalty(lambda z: net(z, training=True), x, y, gradreg.SpectReg(1.0), batch_norm="allow")
    return total, scope.get_current_value(net.layers[1].moving_mean)


before = net.get_weights()
(total, mean), slopes = jax.jit(jax.value_and_grad(scoped, has_aux=True))([2 * value for value in trained])
assert same(net, before) and any(np.abs(slope).max() > 0 for slope in slopes)
assert not np.allclose(mean, net.layers[1].moving_mean)
"""


@pytest.mark.slow
def test_keras_on_jax() -> None:
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KERAS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
