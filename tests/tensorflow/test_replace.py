"""Functions of TensorFlow and Keras are replaced for one thread and for a while, and nothing stays replaced."""

import threading
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import gradreg_tensorflow as gradreg
from double_backpropagation import (
    DOUBLE,
    VECTORS,
    WRONG,
    Function,
    disagreement,
    functions,
    norm_of_difference,
    penalty,
    surrounded,
)
from gradreg_core.presets import SpectReg
from gradreg_tensorflow.replace import replaced
from gradreg_tensorflow.second_order import second_order_safe


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
    gradients: list[tf.Tensor] = []
    with second_order_safe():
        thread = threading.Thread(target=lambda: gradients.append(penalty(model, VECTORS, safe=False)[1]))
        thread.start()
        thread.join()
        gradients.append(penalty(model, VECTORS, safe=False)[1])
    gradients.append(penalty(model, VECTORS, safe=False)[1])
    np.testing.assert_array_equal(gradients[0], wrong)
    np.testing.assert_array_equal(gradients[1], right)
    np.testing.assert_array_equal(gradients[2], wrong)


def test_threads_may_enter_and_leave_in_any_order() -> None:
    model = surrounded(layers.LayerNormalization(**DOUBLE), VECTORS)
    right = penalty(model, VECTORS, safe=True)[1]
    turns = [threading.Event() for _ in range(3)]
    gradients: list[tf.Tensor] = []

    def other() -> None:
        with second_order_safe():
            turns[0].set()
            turns[1].wait()
            gradients.append(penalty(model, VECTORS, safe=False)[1])

    thread = threading.Thread(target=other)
    with second_order_safe():
        thread.start()
        turns[0].wait()
    turns[1].set()
    thread.join()
    np.testing.assert_array_equal(gradients[0], right)


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


@pytest.mark.slow
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
