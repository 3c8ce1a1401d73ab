"""`check` moves copies of the weights: other threads see the live ones at rest."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch

import gradreg_tensorflow
import gradreg_torch
from gradreg_core.copies import copied
from gradreg_core.presets import SpectReg

X = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)


def elsewhere(function: Callable[[], Any]) -> Any:
    """function() in another thread."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


class Reading:
    """Reads live weights: unlike a function, an object with a call of its own is not made anew over copies."""

    def __init__(self, weights: Callable[[], Any]) -> None:
        self.weights = weights

    def __call__(self) -> Any:
        return self.weights()


def torch_case() -> tuple[Any, Any, Any, Callable[[], Any]]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh())
    return gradreg_torch, torch.tensor(X), net, Reading(lambda: net[0].weight.detach().numpy().copy())


def tensorflow_case() -> tuple[Any, Any, Any, Callable[[], Any]]:
    """A function that was traced before holds the variables themselves, in both threads."""
    weight, count = tf.Variable(X[:2, :2]), tf.Variable(0.0)

    @tf.function(autograph=False)
    def net(x: tf.Tensor) -> tf.Tensor:
        count.assign_add(1.0)
        return tf.tanh(x @ weight)

    traced = tf.function(lambda: tf.concat([tf.reshape(weight, [-1]), count[None]], 0), autograph=False)
    traced()
    return gradreg_tensorflow, tf.constant(X), net, Reading(lambda: np.append(traced(), weight.numpy()))


CASES = {"torch": torch_case, "tensorflow": tensorflow_case}


@pytest.mark.parametrize("framework", CASES)
def test_other_threads_see_weights_at_rest(framework: str) -> None:
    calls, x, net, read = CASES[framework]()
    before, seen = read(), []

    def model(x: Any) -> Any:
        seen.append(elsewhere(read))
        return net(x)

    report = calls.check(model, x, None, SpectReg(1.0))
    assert report.ok
    assert report.disagreement < 1e-3
    assert len(seen) > 20  # the differences' passes too
    assert all((values == before).all() for values in seen)
    assert (read() == before).all()


def test_functions_are_made_anew_over_copies() -> None:
    net = torch.nn.Linear(2, 2)
    pair = [net, 3]
    model = copied(lambda x: pair[0](x) + pair[1], lambda value: isinstance(value, torch.nn.Module))
    x = torch.tensor(X)
    assert torch.equal(model(x), net(x) + 3)
    with torch.no_grad():
        net.weight.zero_()
    assert not torch.equal(model(x), net(x) + 3)
    plain = len
    assert copied(plain, lambda value: False) is plain


def test_other_threads_keep_their_seeds() -> None:
    """TensorFlow's seed is the process's, so a check beside a training must not set it."""

    def draws() -> Any:
        tf.random.set_seed(1)
        return np.stack([tf.random.uniform([2]) for _ in range(3)])

    alone, seen = draws(), []
    weight = tf.constant(X[:2, :2])

    def model(x: Any) -> Any:
        seen.append(elsewhere(draws))
        return tf.tanh(tf.nn.dropout(x, 0.5) @ weight)

    assert gradreg_tensorflow.check(model, tf.constant(X), None, SpectReg(1.0)).disagreement < 1e-3
    assert all((values == alone).all() for values in seen)
