"""Where TensorFlow's second derivatives are wrong or missing: right inside gradreg, found by the check elsewhere.

Each test of a raw operation shows that TensorFlow is still wrong there; when one fails, TensorFlow has changed.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import pytest
from keras import layers
from tensorflow.python.eager.polymorphic_function import polymorphic_function
from tensorflow.python.ops import gen_image_ops, gen_math_ops, gen_nn_ops, nn_impl

import gradreg_tensorflow as gradreg
import numpy as np
import tensorflow as tf
from gradreg_core.errors import DoubleBackwardError, InputError
from gradreg_core.presets import DataGrad, SpectReg
from gradreg_tensorflow.replace import replaced
from gradreg_tensorflow.second_order import second_order_safe

Function = Callable[[tf.Tensor], tf.Tensor]
RIGHT = 1e-7
"""Central differences in float64 with a step of 1e-5: the error of the step is 1e-10 times a third derivative of order
a hundred. Measured: below 3e-8."""
WRONG = 1e-4
"""TensorFlow's own errors. Measured: 3e-4 to 8e-1 along a random direction."""
SINGLE = 1e-6
"""Some ten roundings of float32. Measured: 2e-7 to 3e-7."""


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


VECTORS, IMAGES, SEQUENCES = tf.constant(normal(3, 6)), tf.constant(normal(2, 7, 9, 3)), tf.constant(normal(2, 5, 4))
VOLUMES = tf.constant(normal(2, 5, 5, 5, 2))
MATRIX, KERNEL = normal(6, 6, seed=1), normal(3, 3, 3, 3, seed=2) * 0.3
DOUBLE = {"dtype": "float64"}


def surrounded(layer: Any, x: tf.Tensor) -> Function:
    """The layer between nonlinear functions, without which a wrong second derivative does not show."""
    if len(x.shape) == 2:
        before: Function = lambda x: tf.tanh(x @ MATRIX)  # noqa: E731
    elif len(x.shape) == 4:
        before = lambda x: tf.tanh(tf.nn.conv2d(x, KERNEL, 1, "SAME"))  # noqa: E731
    else:
        before = tf.tanh
    return lambda x: tf.sin(layer(before(x)))


def penalty(model: Function, x: tf.Tensor, safe: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """||J^T w||^2 for a fixed w, and its gradient; by plain tapes, so that TensorFlow alone is tested."""
    with tf.GradientTape() as outer:
        outer.watch(x)
        with second_order_safe() if safe else contextlib.nullcontext(), tf.GradientTape(persistent=True) as inner:
            inner.watch(x)
            z = model(x)
        gradient = inner.gradient(z, x, output_gradients=tf.constant(normal(*z.shape, seed=3), z.dtype))
        value = tf.reduce_sum(tf.convert_to_tensor(gradient) ** 2)
    return value, outer.gradient(value, x)


def disagreement(model: Function, x: tf.Tensor, safe: bool) -> float:
    """Of the penalty's gradient from central differences, along a random direction, relative."""
    v = normal(*x.shape, seed=4)
    value, gradient = penalty(model, x, safe)
    slope = float(tf.reduce_sum(gradient * v))
    ends = [float(penalty(model, x + sign * 1e-5 * v, safe)[0]) for sign in (1, -1)]
    difference = (ends[0] - ends[1]) / 2e-5
    return abs(difference - slope) / max(abs(difference), abs(slope), 1e-3 * float(value))


def norm_of_difference(found: Any, wanted: Any) -> float:
    found, wanted = (np.asarray(each, np.float64) for each in (found, wanted))
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def training(layer: Any) -> Function:
    return lambda x: layer(x, training=True)


WRONG_IN_TENSORFLOW: dict[str, tuple[Callable[[], Any], tf.Tensor]] = {
    "LayerNormalization": (lambda: layers.LayerNormalization(**DOUBLE), VECTORS),
    "LayerNormalization of images": (lambda: layers.LayerNormalization(**DOUBLE), IMAGES),
    "GroupNormalization": (lambda: layers.GroupNormalization(2, **DOUBLE), VECTORS),
    "GroupNormalization of images": (lambda: layers.GroupNormalization(3, **DOUBLE), IMAGES),
    "BatchNormalization": (lambda: training(layers.BatchNormalization(**DOUBLE)), VECTORS),
    "BatchNormalization of images": (lambda: training(layers.BatchNormalization(**DOUBLE)), IMAGES),
    "keras.ops.moments": (lambda: lambda x: sum(keras.ops.moments(x, [1])), VECTORS),
    "tf.nn.moments": (lambda: lambda x: sum(tf.nn.moments(x, [1])), VECTORS),
    "tf.compat.v1.nn.moments": (lambda: lambda x: sum(tf.compat.v1.nn.moments(x, [1])), VECTORS),
    "vectorized": (lambda: lambda x: tf.vectorized_map(lambda r: tf.nn.moments(r, [0])[1], x), VECTORS),
    "cross-entropy of soft labels": (
        lambda: lambda x: tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(x[:, ::-1]), x),
        VECTORS,
    ),
}
RIGHT_IN_TENSORFLOW: dict[str, tuple[Callable[[], Any], tf.Tensor]] = {
    "Dense": (lambda: layers.Dense(4, "gelu", **DOUBLE), VECTORS),
    "RMSNormalization": (lambda: layers.RMSNormalization(**DOUBLE), VECTORS),
    "softsign": (lambda: keras.activations.softsign, VECTORS),
    "Conv2D": (lambda: layers.Conv2D(3, 3, activation="elu", **DOUBLE), IMAGES),
    "MaxPooling2D": (lambda: layers.MaxPooling2D(**DOUBLE), IMAGES),
    "MaxPooling2D overlapping": (lambda: layers.MaxPooling2D(3, 2, "same", **DOUBLE), IMAGES),
    "MaxPooling1D": (lambda: layers.MaxPooling1D(2, **DOUBLE), SEQUENCES),
    "MaxPooling3D": (lambda: layers.MaxPooling3D(2, **DOUBLE), VOLUMES),
    "dilated pooling": (lambda: lambda x: tf.nn.pool(x, (2, 2), "MAX", dilations=(2, 2)), IMAGES),
    "LSTM": (lambda: layers.LSTM(3, **DOUBLE), SEQUENCES),
    "MultiHeadAttention": (
        lambda: (lambda layer: lambda x: layer(x, x))(layers.MultiHeadAttention(2, 3, **DOUBLE)),
        SEQUENCES,
    ),
}


@pytest.mark.parametrize("name", WRONG_IN_TENSORFLOW)
def test_wrong_in_tensorflow_and_right_in_gradreg(name: str) -> None:
    make, x = WRONG_IN_TENSORFLOW[name]
    model = surrounded(make(), x)
    assert disagreement(model, x, safe=True) < RIGHT
    assert disagreement(model, x, safe=False) > WRONG


@pytest.mark.parametrize("name", RIGHT_IN_TENSORFLOW)
def test_right_in_gradreg(name: str) -> None:
    make, x = RIGHT_IN_TENSORFLOW[name]
    assert disagreement(surrounded(make(), x), x, safe=True) < RIGHT


@pytest.mark.parametrize("name", ["LayerNormalization", "MaxPooling2D overlapping", "tf.nn.moments"])
def test_compiled_gives_the_same(name: str) -> None:
    make, x = (WRONG_IN_TENSORFLOW | RIGHT_IN_TENSORFLOW)[name]
    model = surrounded(make(), x)
    value, gradient = penalty(model, x, safe=True)
    compiled = tf.function(lambda x: penalty(model, x, safe=True), jit_compile=True, autograph=False)(x)
    assert norm_of_difference(compiled[1], gradient) < 1e-12  # roundoff of a few thousand operations
    assert float(compiled[0]) == pytest.approx(float(value), rel=1e-12)


def test_max_pooling_of_close_values_under_xla() -> None:
    x = tf.constant(1 + 1e-3 * normal(2, 8, 8, 3), tf.float32)
    model: Function = lambda x: tf.sin(3 * tf.nn.max_pool(x, 2, 2, "VALID"))  # noqa: E731
    raw = tf.function(lambda x: penalty(model, x, safe=False)[1], jit_compile=True, autograph=False)(x)
    safe = tf.function(lambda x: penalty(model, x, safe=True)[1], jit_compile=True, autograph=False)(x)
    wanted = penalty(model, tf.cast(x, tf.float64), safe=True)[1]
    assert norm_of_difference(safe, wanted) < SINGLE
    assert norm_of_difference(raw, wanted) > 1e-3


RESIZES: dict[str, Function] = {
    "bilinear": lambda x: tf.image.resize(x, (4, 7)),
    "bilinear, aligned": lambda x: tf.compat.v1.image.resize_bilinear(x, (4, 7), align_corners=True),
    "UpSampling2D": layers.UpSampling2D(interpolation="bilinear"),
    "Resizing": layers.Resizing(4, 7),
    "bicubic": lambda x: tf.image.resize(x, (4, 7), "bicubic"),
    "nearest": lambda x: tf.image.resize(x, (4, 7), "nearest"),
    "antialiased": lambda x: tf.image.resize(x, (3, 4), antialias=True),
    "lanczos": lambda x: tf.image.resize(x, (4, 7), "lanczos3"),
}


def resized(name: str) -> tuple[Function, Function, tf.Tensor]:
    """A model with the resizing, the same in float64 with the resizing as a matrix, and x in float32."""
    resize, shape = RESIZES[name], (5, 5, 3)
    basis = np.eye(75, dtype=np.float32).reshape(75, *shape)
    matrix = tf.constant(np.reshape(resize(tf.constant(basis)), (75, -1)).astype(np.float64))
    around: Callable[[Function], Function] = lambda inner: lambda x: tf.sin(inner(tf.tanh(x)))  # noqa: E731
    native = around(lambda x: tf.reshape(resize(x), (2, -1)))
    return native, around(lambda x: tf.reshape(x, (2, -1)) @ matrix), tf.constant(normal(2, *shape), tf.float32)


@pytest.mark.parametrize("name", RESIZES)
def test_resizing(name: str) -> None:
    native, exact, x = resized(name)
    wanted = penalty(exact, tf.cast(x, tf.float64), safe=False)[1]
    assert norm_of_difference(penalty(native, x, safe=True)[1], wanted) < SINGLE
    if "bilinear" in name or name in ("UpSampling2D", "Resizing"):
        assert norm_of_difference(penalty(native, x, safe=False)[1], wanted) > 0.1  # silently incomplete
    else:
        with pytest.raises(LookupError, match=r"no entry for: (Resize|Scale)"):
            penalty(native, x, safe=False)


@pytest.mark.parametrize("compiled", [False, True])
def test_traced_bilinear_resizing(compiled: bool) -> None:
    native, exact, x = resized("bilinear")
    found = tf.function(lambda x: penalty(native, x, safe=True)[1], jit_compile=compiled, autograph=False)(x)
    assert norm_of_difference(found, penalty(exact, tf.cast(x, tf.float64), safe=False)[1]) < SINGLE


# --- the values stay -------------------------------------------------------------------------------------------------
SAME_BITS: dict[str, Function] = {
    "moments": lambda x: tf.concat(tf.nn.moments(x, [1, 2]), 0),
    "moments, kept": lambda x: tf.nn.moments(x, [1, 2], keepdims=True)[1],
    "half moments": lambda x: tf.nn.moments(tf.cast(x, tf.float16), [1, 2])[1],
    "bfloat16 moments": lambda x: tf.nn.moments(tf.cast(x, tf.bfloat16), [1, 2])[1],
    "max pool": lambda x: tf.nn.max_pool(x, 2, 2, "VALID"),
    "max pool, same": lambda x: tf.nn.max_pool(x, (3, 2), (2, 1), "SAME"),
    "max pool, explicit": lambda x: tf.nn.max_pool(x, 3, 2, [[0, 0], [1, 2], [2, 0], [0, 0]]),
    "max pool, 1-D": lambda x: tf.nn.max_pool1d(x[:, 0], 3, 2, "SAME"),
    "max pool, 3-D": lambda x: tf.nn.max_pool3d(x[..., None], 2, 1, "SAME"),
    "max pool over channels": lambda x: tf.nn.max_pool(x, (1, 1, 1, 3), (1, 1, 1, 3), "VALID"),
    "max pool of integers": lambda x: tf.nn.max_pool(tf.cast(10 * x, tf.int32), 2, 2, "VALID"),
    "bilinear": lambda x: tf.image.resize(x, (4, 5)),
    "bilinear of integers": lambda x: tf.image.resize(tf.cast(10 * x, tf.uint8), (4, 5)),
    "nearest": lambda x: tf.image.resize(x, (4, 5), "nearest"),
    "bicubic": lambda x: tf.image.resize(x, (4, 5), "bicubic"),
    "lanczos": lambda x: tf.image.resize(x, (4, 5), "lanczos5", antialias=True),
}


@pytest.mark.parametrize("name", SAME_BITS)
def test_values_are_the_same_bits(name: str) -> None:
    function, x = SAME_BITS[name], tf.constant(normal(2, 7, 9, 3), tf.float32)
    outside = function(x)
    with second_order_safe():
        inside = function(x)
    assert inside.dtype == outside.dtype
    assert inside.numpy().tobytes() == outside.numpy().tobytes()


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_values_of_softsign_and_cross_entropy(dtype: Any) -> None:
    z, y = tf.constant(normal(50, 10), dtype) * 5, tf.nn.softmax(tf.constant(normal(50, 10, seed=1), dtype))
    y = tf.concat([y[:25], tf.one_hot(tf.range(25) % 10, 10, dtype=dtype)], 0)
    functions = [lambda: tf.nn.softsign(z), lambda: tf.nn.softmax_cross_entropy_with_logits(y, z)]
    for function in functions:
        outside = function()
        with second_order_safe():
            inside = function()
        # A few units in the last place: sums of ten terms in another order.
        np.testing.assert_allclose(inside, outside, rtol=8 * np.finfo(dtype.as_numpy_dtype).eps)


def test_equal_values_in_a_window_give_the_gradient_to_the_first() -> None:
    x = tf.zeros((1, 4, 4, 1))
    for padding in ("VALID", "SAME"):
        for size, stride in ((2, 2), (3, 1), (3, 2)):

            def gradient(size: int = size, stride: int = stride, padding: str = padding) -> np.ndarray:
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    z = tf.nn.max_pool(x, size, stride, padding)
                return tape.gradient(z, x).numpy()

            outside = gradient()
            with second_order_safe():
                inside = gradient()
            np.testing.assert_array_equal(inside, outside)


def test_nan_is_not_lost_in_a_window() -> None:
    for position in range(4):
        x = np.zeros((1, 2, 2, 1), np.float32)
        x.reshape(-1)[position] = np.nan
        with second_order_safe():
            assert np.isnan(tf.nn.max_pool(x, 2, 2, "VALID").numpy()).all()


# --- the context -----------------------------------------------------------------------------------------------------
OWNERS = (nn_impl, gen_nn_ops, gen_image_ops, gen_math_ops, tf.nn, tf.math, tf, tf.compat.v1.nn)
CLASSES = (polymorphic_function.Function, layers.BatchNormalization, layers.Layer)


def functions() -> dict[tuple[int, str], Any]:
    """Everything that might be replaced."""
    return {
        (index, name): (value, getattr(value, "__code__", None))
        for index, owner in enumerate((*OWNERS, *CLASSES))
        for name, value in vars(owner).items()
        if callable(value)
    }


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    keras.utils.set_random_seed(0)
    before = functions()
    yield
    assert functions() == before


def failing(before: Any) -> None:
    with second_order_safe(), second_order_safe():
        assert functions() != before
        _ = 1 / 0


def test_nothing_stays_after_an_exception() -> None:
    before = functions()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            failing(before)
        assert functions() == before
    with pytest.raises(KeyError, match="'mine'"):
        gradreg.penalty(lambda x: {}["mine"], VECTORS, None, SpectReg(1.0))
    assert functions() == before


def test_other_threads_and_later_calls_are_not_affected() -> None:
    model = surrounded(layers.LayerNormalization(**DOUBLE), VECTORS)
    right, wrong = penalty(model, VECTORS, safe=True)[1], penalty(model, VECTORS, safe=False)[1]
    assert norm_of_difference(wrong, right) > 1e-3
    found: list[tf.Tensor] = []
    with second_order_safe():
        thread = threading.Thread(target=lambda: found.append(penalty(model, VECTORS, safe=False)[1]))
        thread.start()
        thread.join()
        found.append(penalty(model, VECTORS, safe=False)[1])
    found.append(penalty(model, VECTORS, safe=False)[1])
    np.testing.assert_array_equal(found[0], wrong)
    np.testing.assert_array_equal(found[1], right)
    np.testing.assert_array_equal(found[2], wrong)


def test_threads_may_enter_and_leave_in_any_order() -> None:
    model = surrounded(layers.LayerNormalization(**DOUBLE), VECTORS)
    right = penalty(model, VECTORS, safe=True)[1]
    turns = [threading.Event() for _ in range(3)]
    found: list[tf.Tensor] = []

    def other() -> None:
        with second_order_safe():
            turns[0].set()
            turns[1].wait()
            found.append(penalty(model, VECTORS, safe=False)[1])

    thread = threading.Thread(target=other)
    with second_order_safe():
        thread.start()
        turns[0].wait()
    turns[1].set()
    thread.join()
    np.testing.assert_array_equal(found[0], right)


def test_the_outermost_of_several_replacements_counts() -> None:
    def doubled(original: Any) -> Any:
        return lambda features, name=None: 2 * original(features)

    one = tf.constant(1.0)
    with replaced("a test", [(tf.nn, "softsign", doubled)]):
        with second_order_safe():
            assert float(tf.nn.softsign(one)) == 1.0
        assert float(tf.nn.softsign(one)) == 1.0
    with second_order_safe(), replaced("a test", [(tf.nn, "softsign", doubled)]):
        assert float(tf.nn.softsign(one)) == 0.5


@pytest.mark.parametrize("compiled", [False, True])
def test_a_function_traced_before_is_traced_anew(compiled: bool) -> None:
    plain = surrounded(layers.LayerNormalization(**DOUBLE), VECTORS)
    plain(VECTORS)  # makes the layer's variables, which would cost another trace
    traces: list[int] = []

    @tf.function(jit_compile=compiled)
    def model(x: tf.Tensor) -> tf.Tensor:
        traces.append(1)
        return plain(x)

    model(VECTORS)
    wanted = gradreg.penalty(plain, VECTORS, None, SpectReg(1.0))

    def gradient(model: Function) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(VECTORS)
            value = gradreg.penalty(model, VECTORS, None, SpectReg(1.0))
        assert float(value) == pytest.approx(float(wanted), rel=1e-12)  # roundoff
        return tape.gradient(value, VECTORS)

    right = gradient(plain)
    for _ in range(2):
        assert norm_of_difference(gradient(model), right) < 1e-12  # roundoff
    assert len(traces) == 2
    model(VECTORS)
    assert len(traces) == 2  # the user's own trace is still there
    assert disagreement(model, VECTORS, safe=False) > WRONG


# --- the check -------------------------------------------------------------------------------------------------------
X = tf.constant(normal(6, 8, 8, 3), tf.float32)
FLAT = tf.constant(normal(6, 10), tf.float32)
Y = np.arange(6) % 4


def variables(*shapes: tuple[int, ...]) -> list[tf.Variable]:
    return [
        tf.Variable(normal(*shape, seed=index) / np.sqrt(np.prod(shape[:-1])), dtype=tf.float32, name=f"w{index}")
        for index, shape in enumerate(shapes)
    ]


def convolutions(resize: Function, activation: Function) -> Function:
    first, second, last = variables((3, 3, 3, 4), (3, 3, 4, 4), (6 * 6 * 4, 4))

    def model(x: tf.Tensor) -> tf.Tensor:
        h = resize(activation(tf.nn.conv2d(x, first, 1, "SAME")))
        return tf.reshape(activation(tf.nn.conv2d(h, second, 1, "SAME")), (len(x), -1)) @ last

    return model


def raw_bilinear(x: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.ResizeBilinear(images=x, size=[6, 6])


def dense(normalise: Function, scale: float = 1.0) -> Function:
    first, last = variables((10, 16), (16, 4))
    return lambda x: normalise(tf.tanh(scale * (x @ first))) @ last


def stopped(h: tf.Tensor) -> tf.Tensor:
    """Normalisation written by hand in TensorFlow's way."""
    mean = tf.reduce_mean(h, 1, keepdims=True)
    variance = tf.reduce_mean((h - tf.stop_gradient(mean)) ** 2, 1, keepdims=True)
    return (h - mean) / tf.sqrt(variance + 1e-3)


def moments(h: tf.Tensor) -> tf.Tensor:
    mean, variance = tf.nn.moments(h, [1], keepdims=True)
    return (h - mean) / tf.sqrt(variance + 1e-3)


def sequential(*inner: Any, shape: tuple[int, ...] = (8, 8, 3)) -> keras.Model:
    return keras.Sequential([layers.Input(shape), *inner, layers.Flatten(), layers.Dense(4)])


GOOD: dict[str, tuple[Callable[[], Any], tf.Tensor]] = {
    "linear": (lambda: sequential(shape=(10,)), FLAT),
    "rectifiers and pooling": (
        lambda: sequential(
            layers.Conv2D(6, 3, activation="relu"),
            layers.LayerNormalization(),
            layers.MaxPooling2D(),
            layers.Conv2D(6, 3, activation="leaky_relu"),
            layers.ReLU(6.0),
        ),
        X,
    ),
    "bilinear": (lambda: convolutions(lambda x: tf.image.resize(x, (6, 6)), tf.nn.relu), X),
    "dropout": (
        lambda: (lambda m: lambda x: m(x, training=True))(
            sequential(layers.Dense(16, "relu"), layers.Dropout(0.5), shape=(10,))
        ),
        FLAT,
    ),
    "traced before": (lambda: tf.function(dense(moments)), FLAT),
}


@pytest.mark.parametrize("name", GOOD)
def test_the_check_passes(name: str) -> None:
    make, x = GOOD[name]
    model = make()
    model(x)
    report = gradreg.check(model, x, Y, DataGrad(1.0) + SpectReg(0.1))
    assert report.ok, report
    assert not report.findings
    report.raise_if_failed()


KEPT = dense(moments)  # a concrete function does not keep its variables alive
BAD: dict[str, tuple[Callable[[], Any], tf.Tensor, str]] = {
    "bilinear": (
        lambda: convolutions(raw_bilinear, tf.tanh),
        X,
        r"depends on w1:0, w2:0, but its gradient there is None",
    ),
    "bilinear and rectifiers": (lambda: convolutions(raw_bilinear, tf.nn.relu), X, "its gradient there is None"),
    "moments by hand": (lambda: dense(stopped), FLAT, "most for w0:0: some operation has a wrong second derivative"),
    "a concrete function": (
        lambda: tf.function(KEPT).get_concrete_function(tf.TensorSpec((6, 10))),
        FLAT,
        "has a wrong second derivative",
    ),
    "no second derivative": (
        lambda: dense(lambda h: tf.raw_ops.Softsign(features=h)),
        FLAT,
        "no second derivative in TensorFlow .SoftsignGrad",
    ),
    "recompute_grad": (lambda: dense(tf.recompute_grad(tf.sin)), FLAT, "tf.recompute_grad has no second derivative"),
    "not a number": (
        lambda: (lambda model: lambda x: tf.sqrt(tf.nn.relu(model(x)) * [[0.0], *[[1.0]] * 5]))(dense(tf.sin)),
        FLAT,
        "gradient is NaN or infinite",
    ),
    "no variable": (
        lambda: (lambda w: lambda x: tf.tanh(x @ tf.stop_gradient(w)))(variables((10, 4))[0]),
        FLAT,
        "gradient is None for every variable",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_the_check_finds(name: str) -> None:
    make, x, message = BAD[name]
    report = gradreg.check(make(), x, Y, SpectReg(0.1))
    assert not report.ok
    assert any(finding.level == "error" for finding in report.findings)
    with pytest.raises((DoubleBackwardError, InputError), match=message):
        report.raise_if_failed()


def test_the_check_changes_nothing() -> None:
    model = sequential(layers.Dense(8, "relu"), layers.BatchNormalization(), layers.Dropout(0.5), shape=(10,))
    tf.random.set_seed(5)
    before = [each.numpy() for each in model.weights]
    seeds = [each.numpy() for each in model.non_trainable_variables]
    report = gradreg.check(lambda x: model(x, training=True), FLAT, Y, SpectReg(0.1))
    assert [finding.level for finding in report.findings] == ["warning"], report
    assert "is in training mode and couples the samples" in report.findings[0].problem
    drawn = tf.random.normal((3,))
    tf.random.set_seed(5)
    np.testing.assert_array_equal(drawn, tf.random.normal((3,)))
    for each, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(each, value)
    for each, value in zip(model.non_trainable_variables, seeds, strict=True):
        np.testing.assert_array_equal(each, value)


def test_the_check_wants_eager_mode() -> None:
    with pytest.raises(InputError, match=r"call it in eager mode, outside tf\.function"):
        tf.function(lambda x: gradreg.check(dense(tf.sin), x, Y, SpectReg(0.1)), autograph=False)(FLAT)
