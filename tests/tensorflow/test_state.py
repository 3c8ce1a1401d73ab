"""A model's state moves once per call and not at all in a check, wherever the model keeps it."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import gradreg_tensorflow as gradreg
from cases import FLOAT64
from gradreg_core.errors import InputError
from gradreg_core.presets import DataGrad, FrobReg, SpectReg
from gradreg_core.spec import Regularizer
from gradreg_tensorflow.second_order import second_order_safe
from tensorflow_models import MODES

X = tf.constant(np.random.default_rng(0).normal(size=(8, 5)))
Y = np.arange(8) % 3
DIFFERENCE = SpectReg(1.0, side="input", method="difference")
SEVERAL: list[Regularizer] = [
    SpectReg(1.0) + SpectReg(1.0, fraction=0.5),
    DIFFERENCE,
    SpectReg(1.0, side="input", projections=2),
    DataGrad(1.0) + SpectReg(1.0, side="input"),
]
"""Each passes through the model more than once."""
State = Callable[[], list[np.ndarray]]


def dense(count: int, activation: str = "linear") -> Any:
    return layers.Dense(count, activation, dtype="float64")


def values(model: Any) -> State:
    return lambda: [variable.numpy().copy() for variable in (*model.variables, *model.non_trainable_variables)]


def training(model: Any) -> tuple[Any, State]:
    return lambda x: model(x, training=True), values(model)


def spectral() -> tuple[Any, State]:
    """The kernel itself is state."""
    layer: Any = lambda inner: layers.SpectralNormalization(inner, dtype="float64")  # noqa: E731
    return training(keras.Sequential([layers.Input((5,)), layer(dense(6, "tanh")), layer(dense(3))]))


def statistics(*more: Any) -> Any:
    norm, drop = layers.BatchNormalization(dtype="float64"), layers.Dropout(0.5, dtype="float64", seed=3)
    return keras.Sequential([layers.Input((5,)), dense(6, "tanh"), norm, drop, *more, dense(3)])


def in_a_container() -> tuple[Any, State]:
    nets = {"first": [statistics()]}
    return lambda x: nets["first"][0](x, training=True), values(nets["first"][0])


def generator() -> tuple[Any, State]:
    """A private generator, reached through an attribute of an object that is not a module."""

    class Noise:
        def __init__(self) -> None:
            self.source, self.weight = tf.random.Generator.from_seed(7), tf.Variable(np.eye(5)[:, :3])

        def __call__(self, x: tf.Tensor) -> tf.Tensor:
            return tf.tanh(x * self.source.uniform(x.shape, dtype=x.dtype)) @ self.weight

    noise = Noise()
    return noise, lambda: [noise.source.state.numpy()]


def written_in_parts() -> tuple[Any, State]:
    """Written by slices and scattered updates, inside of a branch."""
    weight, count = tf.Variable(np.eye(5)[:, :3]), tf.Variable(np.zeros(4))

    def more(x: tf.Tensor) -> tf.Tensor:
        count.scatter_nd_add([[1]], tf.ones(1, tf.float64))
        return tf.tanh(x)

    def model(x: tf.Tensor) -> tf.Tensor:
        count[2:].assign(count[2:] * 2 + 1)
        h = tf.cond(tf.reduce_sum(x) > -1e9, lambda: more(x), lambda: x)
        return (h * (1 + tf.reduce_sum(count))) @ weight

    return model, lambda: [count.numpy()]


def traced() -> tuple[Any, State]:
    net = statistics()
    return tf.function(lambda x: net(x, training=True), autograph=False), values(net)


def traced_twice() -> tuple[Any, State]:
    """A function inside a function, traced before with another shape too."""
    net = statistics()
    inner = tf.function(lambda x: net(x, training=True), autograph=False)
    outer = tf.function(lambda x: inner(x) + 1.0, autograph=False)
    start = values(net)()
    for size in (8, 3):
        outer(X[:size])
    for variable, value in zip((*net.variables, *net.non_trainable_variables), start, strict=True):
        variable.assign(value)
    return outer, values(net)


def concrete() -> tuple[Any, State]:
    net = statistics()
    traced = tf.function(lambda x: net(x, training=True), autograph=False)
    with second_order_safe():  # or gradreg would refuse the statistics, whose second derivative would be wrong
        whole, half = traced.get_concrete_function(X), traced.get_concrete_function(X[:4])

    def model(x: tf.Tensor) -> tf.Tensor:
        assert net.built  # a concrete function refers to its variables weakly, so the model has to hold the network
        return (whole if len(x) == 8 else half)(x)

    return model, values(net)


KINDS: dict[str, Callable[[], tuple[Any, State]]] = {
    "spectral normalisation": spectral,
    "in a container": in_a_container,
    "a private generator": generator,
    "written in parts": written_in_parts,
    "a tf.function": traced,
    "nested tf.functions": traced_twice,
    "a concrete function": concrete,
}


def made(kind: str) -> tuple[Any, State]:
    keras.utils.set_random_seed(0)
    return KINDS[kind]()


@pytest.mark.sample(12)
@pytest.mark.parametrize("reg", SEVERAL, ids=["part", "difference", "jvp", "both sides"])
@pytest.mark.parametrize("kind", KINDS)
def test_state_moves_once(kind: str, reg: Regularizer) -> None:
    plain, moved = made(kind)
    plain(X)
    model, state = made(kind)
    gradreg.loss(model, X, Y, reg, batch_norm="allow")
    for mine, wanted in zip(state(), moved(), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-12)  # roundoff in another order


@pytest.mark.sample(3)
@pytest.mark.parametrize("mode", ["graph", "xla"])
@pytest.mark.parametrize("kind", ["spectral normalisation", "written in parts", "nested tf.functions"])
def test_state_moves_once_where_the_step_is_traced(kind: str, mode: str) -> None:
    plain, moved = made(kind)
    plain(X)
    model, state = made(kind)
    call = MODES[mode](lambda x: gradreg.loss(model, x, Y, sum(SEVERAL[:2]), batch_norm="allow")[0])
    call(X)
    for mine, wanted in zip(state(), moved(), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-10)  # roundings of a compiled program


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_pass_of_a_call_begins_with_the_same_state(kind: str) -> None:
    alone = [float(gradreg.penalty(made(kind)[0], X, None, term, batch_norm="allow")) for term in SEVERAL[0].terms]
    together = float(gradreg.penalty(made(kind)[0], X, None, SEVERAL[0], batch_norm="allow"))
    assert together == pytest.approx(sum(alone), rel=FLOAT64)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["spectral normalisation", "a private generator", "written in parts", "nested tf.functions"]
)
def test_check_changes_nothing(kind: str) -> None:
    model, state = made(kind)
    before = state()
    report = gradreg.check(model, X, Y, DIFFERENCE)
    assert report.ok, report
    for mine, wanted in zip(state(), before, strict=True):
        np.testing.assert_array_equal(mine, wanted)


def test_check_changes_nothing_where_the_model_fails() -> None:
    for last in (1, 4, 15, 31):
        model, state = made("spectral normalisation")
        calls: list[int] = []

        def failing(x: tf.Tensor, model: Any = model, calls: list[int] = calls, last: int = last) -> tf.Tensor:
            calls.append(1)
            outputs = model(x)
            if len(calls) >= last:
                raise KeyError("in the middle")
            return outputs

        before = state()
        assert "in the middle" in str(gradreg.check(failing, X, Y, DIFFERENCE))
        for mine, wanted in zip(state(), before, strict=True):
            np.testing.assert_array_equal(mine, wanted)


# --- state that is in no variable ------------------------------------------------------------------------------------
class Centred(layers.Layer):
    """Keeps a running mean, a count and a generator as attributes."""

    def __init__(self) -> None:
        super().__init__(dtype="float64")
        self.mean, self.total, self.count = tf.zeros(5, tf.float64), np.zeros(5), 0
        self.generator = np.random.default_rng(4)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        self.mean = 0.5 * self.mean + 0.5 * tf.reduce_mean(tf.stop_gradient(x), 0)
        self.total += np.mean(x, 0)
        self.count += 1
        return x * self.generator.choice([0.0, 2.0], x.shape) - self.mean - self.total

    def state(self) -> list[np.ndarray]:
        return [np.array(self.mean), self.total.copy(), np.array(self.count), self.generator.bit_generator.state]


def test_arrays_counters_and_generators_in_attributes() -> None:
    plain, layer = Centred(), Centred()
    plain(X)
    weight = tf.Variable(np.eye(5)[:, :3])
    holder = {"layers": [layer]}
    model: Any = lambda x: holder["layers"][0](x) @ weight  # noqa: E731
    value = float(gradreg.penalty(model, X, None, DIFFERENCE))
    assert value < 100  # masks of their own in both passes would make it 1e4
    for mine, wanted in zip(layer.state(), plain.state(), strict=True):
        np.testing.assert_equal(mine, wanted)
    before = layer.state()
    assert gradreg.check(model, X, Y, DIFFERENCE).ok
    for mine, wanted in zip(layer.state(), before, strict=True):
        np.testing.assert_equal(mine, wanted)


def test_the_generators_of_numpy_and_python_stay_as_they_were_in_a_check() -> None:
    weight = tf.constant(np.eye(5)[:, :3])
    start = np.random.get_state()[1].copy()  # noqa: NPY002
    gradreg.check(lambda x: x * np.random.rand(*x.shape) @ weight, X, Y, FrobReg(1.0))  # noqa: NPY002
    np.testing.assert_array_equal(np.random.get_state()[1], start)  # noqa: NPY002


# --- random operations without state ---------------------------------------------------------------------------------
WEIGHT = tf.constant(np.random.default_rng(2).normal(size=(5, 3)))
DRAWS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "dropout": lambda x: tf.nn.dropout(x, 0.5),
    "uniform": lambda x: x * tf.random.uniform(x.shape, dtype=x.dtype),
    "normal": lambda x: x + x * tf.random.normal(x.shape, dtype=x.dtype),
    "truncated": lambda x: x * tf.random.truncated_normal(x.shape, dtype=x.dtype),
    "integers": lambda x: x * tf.cast(tf.random.uniform(x.shape, 0, 3, tf.int32), x.dtype),
    "gamma": lambda x: x * tf.random.gamma(x.shape, 1.0, dtype=x.dtype),
    "categories": lambda x: x * tf.cast(tf.random.categorical(tf.zeros((8, 2)), 5), x.dtype),
    "poisson": lambda x: x * tf.random.poisson(x.shape, 1.0, x.dtype),
    "order": lambda x: x * tf.random.shuffle(tf.range(5, dtype=x.dtype) / 4)[None],
}


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("name", DRAWS)
def test_both_passes_of_a_difference_draw_the_same(name: str, mode: str) -> None:
    model = lambda x: tf.tanh(DRAWS[name](x)) @ WEIGHT  # noqa: E731
    call = MODES[mode](lambda x: gradreg.penalty(model, x, None, DIFFERENCE))
    assert float(call(X)) < 100  # draws of their own in both passes would make it 1e4


def hidden_draws(kind: str) -> Any:
    noisy = lambda x: tf.nn.dropout(x, 0.5) @ WEIGHT  # noqa: E731
    match kind:
        case "tf.function":
            return tf.function(noisy, autograph=False)
        case "nested":
            inner = tf.function(noisy, autograph=False)
            return tf.function(lambda x: inner(x), autograph=False)
        case "concrete":
            return tf.function(noisy, autograph=False).get_concrete_function(X)
        case "nested concrete":
            inner = tf.function(noisy, autograph=False)
            return tf.function(lambda x: inner(x), autograph=False).get_concrete_function(X)
    return lambda x: tf.map_fn(lambda row: noisy(row[None])[0], x, fn_output_signature=tf.TensorSpec(3, tf.float64))


@pytest.mark.parametrize("kind", ["tf.function", "nested", "concrete", "nested concrete", "map"])
def test_draws_out_of_reach_are_refused(kind: str) -> None:
    model = hidden_draws(kind)
    call = lambda x: gradreg.penalty(model, x, None, DIFFERENCE)  # noqa: E731
    for mode in ("graph",) if kind == "map" else MODES:
        for _ in range(2):
            with pytest.raises(InputError, match="calls the model twice and needs the same random numbers"):
                MODES[mode](call)(X)
    gradreg.penalty(model, X, None, SpectReg(1.0))


@pytest.mark.parametrize("way", ["plain", "tf.function"])
def test_half_precision_is_seen_in_both_ways(way: str) -> None:
    net = keras.Sequential([layers.Input((5,)), layers.Dense(6, dtype="mixed_float16"), layers.Dense(3)])
    model = net if way == "plain" else tf.function(net, autograph=False)
    for _ in range(2):
        with pytest.raises(InputError, match=r"computes in (float16|half precision)"):
            gradreg.penalty(model, tf.cast(X, tf.float32), None, DIFFERENCE)


def test_a_tf_function_gives_what_its_function_gives() -> None:
    net = statistics()
    plain = lambda x: net(x, training=True)  # noqa: E731
    function, nested = tf.function(plain), tf.function(tf.function(plain))
    start = values(net)()
    results = []
    for model in (plain, function, function, nested):
        for size in (8, 6):
            for variable, value in zip((*net.variables, *net.non_trainable_variables), start, strict=True):
                variable.assign(value)
            results.append(float(gradreg.penalty(model, X[:size], None, DIFFERENCE, batch_norm="allow")))
    np.testing.assert_allclose(results, results[:2] * 4, rtol=1e-8)  # roundoff divided by h = 1e-2
