"""Places of a model by taps and by Keras layers: which names there are, and how they are reached."""

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
from gradreg_core.presets import ConfidencePenalty, DataGrad, FrobReg, SpectReg
from tensorflow_models import MODES

RNG = np.random.default_rng(0)
X = tf.constant(RNG.normal(size=(4, 5)))
FIRST, SECOND, HEAD = (RNG.normal(size=shape) for shape in ((5, 4), (4, 4), (4, 3)))
Function = Callable[[tf.Tensor], tf.Tensor]


def linear(weight: np.ndarray, name: str) -> Any:
    """A layer x -> x W."""
    layer = layers.Dense(weight.shape[1], use_bias=False, name=name, dtype="float64")
    layer.build((None, weight.shape[0]))
    layer.kernel.assign(weight)
    return layer


def frobenius(*weights: np.ndarray) -> float:
    """Of the Jacobian of x -> x W_1 W_2 ..."""
    product = weights[0]
    for weight in weights[1:]:
        product = product @ weight
    return float((product**2).sum())


def stack() -> tuple[Any, Any, Any]:
    return linear(FIRST, "first"), linear(SECOND, "second"), linear(HEAD, "head")


def sequential() -> Any:
    return keras.Sequential([layers.Input((5,), dtype="float64"), *stack()])


def nested() -> Any:
    """A model in a model, called by a function in a container."""
    first, second, head = stack()
    inner = keras.Sequential([layers.Input((5,), dtype="float64"), first, second], name="inner")
    parts = {"all": [inner, head]}
    return lambda x: parts["all"][1](parts["all"][0](x))


def functional() -> Any:
    x = keras.Input((5,), dtype="float64")
    h = x
    for layer in stack():
        h = layer(h)
    return keras.Model(x, h)


def tapped() -> Any:
    def model(x: tf.Tensor) -> tf.Tensor:
        first = gradreg.tap("first", x @ FIRST)
        second = gradreg.tap("second", first @ SECOND)
        return second @ HEAD

    return model


def traced() -> Any:
    """Functions of TensorFlow in one another, where AutoGraph has something to convert."""
    model = tapped()

    @tf.function
    def inner(x: tf.Tensor) -> tf.Tensor:
        if tf.reduce_sum(x) > -1e9:
            x = x + 0.0
        return model(x)

    return tf.function(lambda x: inner(x) * 1.0)


def module() -> Any:
    class Module(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stack = stack()

        @tf.function
        def __call__(self, x: tf.Tensor) -> tf.Tensor:
            for layer in self.stack:
                x = layer(x)
            return x

    return Module()


WAYS: dict[str, Callable[[], Any]] = {
    "sequential": sequential,
    "nested": nested,
    "functional": functional,
    "tapped": tapped,
    "tf.function": traced,
    "tf.Module": module,
}
PLACES: list[tuple[dict[str, str], float]] = [
    ({"at": "first"}, frobenius(SECOND, HEAD)),
    ({"at": "second"}, frobenius(HEAD)),
    ({"of": "first"}, frobenius(FIRST)),
    ({"of": "second"}, frobenius(FIRST, SECOND)),
    ({"of": "second", "at": "first"}, frobenius(SECOND)),
]


@pytest.mark.sample(9)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", WAYS)
def test_any_two_places_have_a_jacobian(way: str, mode: str) -> None:
    model = WAYS[way]()
    reg = sum([FrobReg(1.0, **places) for places, _ in PLACES[1:]], FrobReg(1.0, **PLACES[0][0])) + FrobReg(1.0)
    _, parts = MODES[mode](lambda x: gradreg.loss(model, x, [0, 1, 2, 1], reg))(X)
    wanted = [value for _, value in PLACES] + [frobenius(FIRST, SECOND, HEAD)]
    np.testing.assert_allclose(parts.penalty, wanted, rtol=FLOAT64)


def test_a_tap_is_the_identity_outside_of_a_call() -> None:
    assert gradreg.tap("name", X) is X


@pytest.mark.parametrize("mode", MODES)
def test_one_pass_serves_all_places(mode: str) -> None:
    passes = []
    model = tapped()

    def counted(x: tf.Tensor) -> tf.Tensor:
        passes.append(1)
        return model(x)

    reg = FrobReg(1.0) + FrobReg(1.0, at="first") + SpectReg(1.0, of="second") + SpectReg(1.0, of="second", at="first")
    MODES[mode](lambda x: gradreg.loss(counted, x, [0, 1, 2, 1], reg)[0])(X)
    assert len(passes) == 1


def test_gradients_flow_to_what_comes_before_a_place() -> None:
    """The Jacobian at h = tanh(x W) of h^2 is diag(2 h), and depends on W through h."""
    weight = tf.Variable(FIRST)

    def model(x: tf.Tensor) -> tf.Tensor:
        return gradreg.tap("h", tf.tanh(x @ weight)) ** 2

    with tf.GradientTape(persistent=True) as tape:
        value = gradreg.penalty(model, X, None, FrobReg(1.0, at="h"))
        wanted = tf.reduce_mean(tf.reduce_sum(4 * tf.tanh(X @ weight) ** 2, 1))
    assert float(value) == pytest.approx(float(wanted), rel=FLOAT64)
    np.testing.assert_allclose(tape.gradient(value, weight), tape.gradient(wanted, weight), rtol=1e-12)  # roundoff


# --- places passed several times, and structures ---------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_place_that_is_passed_several_times(mode: str) -> None:
    square, head = linear(SECOND, "square"), linear(HEAD, "head")
    first = linear(FIRST, "first")
    model: Function = lambda x: head(square(square(first(x))))  # noqa: E731
    call: Any = lambda **places: float(  # noqa: E731
        MODES[mode](lambda x: gradreg.penalty(model, x, None, FrobReg(1.0, **places)))(X)
    )
    assert call(at="square#0") == pytest.approx(frobenius(SECOND, HEAD), rel=FLOAT64)
    assert call(at="square#1") == pytest.approx(frobenius(HEAD), rel=FLOAT64)
    assert call(of="square#1", at="square#0") == pytest.approx(frobenius(SECOND), rel=FLOAT64)
    with pytest.raises(InputError, match=r"'square' is passed more than once .*'square#0'"):
        call(at="square")
    with pytest.raises(InputError, match="no tap or layer 'square#2' was passed"):
        call(at="square#2")


def test_layers_of_equal_names_are_told_apart_by_their_paths() -> None:
    def block(name: str, weight: np.ndarray) -> Any:
        inner = keras.Sequential([layers.Dense(4, use_bias=False, name="dense", dtype="float64")], name=name)
        inner(np.ones((1, len(weight))))
        inner.layers[0].kernel.assign(weight)
        return inner

    one, two, head = block("one", FIRST), block("two", SECOND), linear(HEAD, "head")
    model: Function = lambda x: head(two(one(x)))  # noqa: E731
    value = gradreg.penalty(model, X, None, FrobReg(1.0, of="two/dense", at="one/dense"))
    assert float(value) == pytest.approx(frobenius(SECOND), rel=FLOAT64)


class Several(layers.Layer):
    """Returns a structure."""

    def __init__(self) -> None:
        super().__init__(dtype="float64", name="several")

    def call(self, x: tf.Tensor) -> Any:
        return {"count": tf.shape(x), "codes": (x @ FIRST, gradreg.tap("inside", x @ FIRST @ SECOND))}


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_place_keeps_the_mask_of_an_embedding(mode: str) -> None:
    """Keras hands a mask on as an attribute of the tensor: against double backward by hand, in float64."""
    tokens = tf.constant([[3, 1, 4, 0], [2, 0, 0, 0], [1, 2, 3, 4]])
    embed = layers.Embedding(5, 4, mask_zero=True, name="embed", dtype="float64")
    inner = layers.MultiHeadAttention(1, 4, dtype="float64")
    pool, last = layers.GlobalAveragePooling1D(dtype="float64"), layers.Dense(3, dtype="float64")
    ids = keras.Input((4,), dtype="int32")
    model = keras.Model(ids, last(pool(inner(hidden := embed(ids), hidden))))
    reg = DataGrad(1.0, at="embed")
    total, parts = MODES[mode](lambda x: gradreg.loss(model, x, tf.constant([0, 1, 2]), reg))(tokens)
    h = tf.gather(embed.embeddings, tokens)
    with tf.GradientTape() as tape:
        tape.watch(h)
        mask = tokens != 0
        outputs = last(pool(inner(h, h, query_mask=mask, value_mask=mask), mask=mask))
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits([0, 1, 2], outputs)
    penalty = tf.reduce_mean(tf.reduce_sum(tape.gradient(losses, h) ** 2, [1, 2]))
    np.testing.assert_allclose(parts.outputs, outputs, rtol=FLOAT64)
    np.testing.assert_allclose(total, tf.reduce_mean(losses) + penalty, rtol=FLOAT64)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_leaf_of_what_a_layer_returns(mode: str) -> None:
    layer = Several()
    model: Function = lambda x: layer(x)["codes"][1] @ HEAD + 0.0 * tf.reduce_sum(layer(x)["codes"][0])  # noqa: E731
    call: Any = lambda **places: float(  # noqa: E731
        MODES[mode](lambda x: gradreg.penalty(model, x, None, FrobReg(1.0, **places)))(X)
    )
    assert call(at="several#0[codes.1]") == pytest.approx(frobenius(HEAD), rel=FLOAT64)
    assert call(of="several#1") == pytest.approx(frobenius(FIRST), rel=FLOAT64)
    assert call(of="inside#0") == pytest.approx(frobenius(FIRST, SECOND), rel=FLOAT64)
    with pytest.raises(InputError, match=r"holds codes\.0, codes\.1, and no 'count'"):
        call(of="several#0[count]")


def test_what_goes_wrong_inside_of_a_layer_keeps_its_type_and_its_words() -> None:
    class Twice(layers.Layer):
        def call(self, x: tf.Tensor) -> tf.Tensor:
            return gradreg.tap("h", gradreg.tap("h", x * 2.0))

    layer = Twice(dtype="float64")
    with pytest.raises(InputError, match=r"'h' is passed more than once .*'h#0'"):
        gradreg.penalty(layer, X, None, FrobReg(1.0, at="h"))
    assert float(gradreg.penalty(layer, X, None, FrobReg(1.0, at="h#1"))) == pytest.approx(5.0, rel=FLOAT64)


# --- integer inputs and parts of the batch ---------------------------------------------------------------------------
@pytest.mark.parametrize("mode", MODES)
def test_a_frozen_embedding_under_every_and_fraction(mode: str) -> None:
    table = layers.Embedding(7, 5, name="table", dtype="float64", trainable=False)
    tokens = tf.constant([[1, 2], [3, 4], [5, 6], [0, 1]])
    table(tokens)
    model: Function = lambda tokens: tf.reduce_sum(table(tokens), 1) @ tf.constant(FIRST)  # noqa: E731
    wanted = 2 * frobenius(FIRST)
    for reg in (
        FrobReg(1.0, at="table"),
        FrobReg(1.0, at="table", fraction=0.5),
        FrobReg(0.5, at="table", every=2),
    ):
        call = MODES[mode](lambda step, reg=reg: gradreg.penalty(model, tokens, None, reg, step=step))
        assert float(call(tf.constant(2))) == pytest.approx(wanted, rel=FLOAT64)


# --- what is refused -------------------------------------------------------------------------------------------------
def branching(x: tf.Tensor) -> tf.Tensor:
    return tf.cond(tf.reduce_sum(x) > -1e9, lambda: gradreg.tap("h", x * 2.0), lambda: x) @ FIRST


def looping(x: tf.Tensor) -> tf.Tensor:
    return tf.map_fn(lambda row: gradreg.tap("h", row * 2.0), x) @ FIRST


REFUSED: dict[str, tuple[Any, dict[str, str], str]] = {
    "a branch": (branching, {"at": "h"}, "the place is inside a branch, a loop"),
    "a loop": (looping, {"at": "h"}, "the place is inside a branch, a loop|'h' is passed more than once"),
    "integers": (
        lambda x: x @ FIRST * tf.cast(tf.reduce_sum(gradreg.tap("h", tf.argmax(x, 1))), x.dtype),
        {"of": "h"},
        "must hold a tensor of a floating-point type, got int64",
    ),
    "wrong order": (tapped(), {"of": "first", "at": "second"}, "is passed before at='second'"),
    "no path": (
        lambda x: gradreg.tap("b", tf.stop_gradient(gradreg.tap("a", x @ FIRST))) @ SECOND,
        {"of": "b", "at": "a"},
        "at='a' does not reach of='b': there is no differentiable path",
    ),
    "a concrete function": (
        tf.function(tapped(), autograph=False).get_concrete_function(X),
        {"at": "first"},
        "no tap or layer 'first' was passed",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    model, places, message = REFUSED[name]
    mode = "graph" if name in ("a branch", "a loop") else "eager"
    with pytest.raises(InputError, match=message):
        MODES[mode](lambda x: gradreg.penalty(model, x, None, FrobReg(1.0, **places)))(X)


def test_a_place_in_the_step_of_a_recurrent_layer_is_refused_in_words() -> None:
    lstm = layers.RNN(layers.LSTMCell(3, name="cell", dtype="float64"), dtype="float64")
    sequence = tf.constant(RNG.normal(size=(2, 3, 2)))
    lstm(sequence)
    with pytest.raises(InputError, match=r"inside a branch, a loop or an RNN's step|passed more than once"):
        tf.function(lambda x: gradreg.penalty(lstm, x, None, FrobReg(1.0, at="cell")), autograph=False)(sequence)


# --- structures and precisions ---------------------------------------------------------------------------------------
def test_structures_of_attributes() -> None:
    """TensorFlow and Keras wrap the lists and dicts that modules and layers have as attributes."""
    module, layer = tf.Module(), layers.Layer()
    module.list, module.dict = [X, X], {"a": X, "pair": (X, X)}
    layer.list = [X, X]
    for x, model in (
        (module.list, lambda x: x[0] @ FIRST),
        (layer.list, lambda x: x[0] @ FIRST),
        (module.dict, lambda x: x["a"] @ FIRST),
        (module.dict["pair"], lambda x: x[1] @ FIRST),
    ):
        assert float(gradreg.penalty(model, x, None, FrobReg(1.0))) == pytest.approx(frobenius(FIRST), rel=FLOAT64)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_an_input_in_float64_of_a_model_in_float32(mode: str) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([layers.Input((5,)), layers.Dense(4, "tanh"), layers.Dense(3)])
    reg = FrobReg(1.0) + SpectReg(1.0, fraction=0.5) + ConfidencePenalty(1.0) + SpectReg(1.0, side="input")
    call = MODES[mode](lambda x: gradreg.loss(model, x, [0, 1, 2, 1], reg)[0])
    assert float(call(X)) == pytest.approx(float(call(tf.cast(X, tf.float32))), rel=1e-5)  # float32
    gradreg.measure(model, X, [0, 1, 2, 1])
