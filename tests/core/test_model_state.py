"""A call moves a model's state once, whatever passes it makes, and leaves the numbers that others hold alone."""

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch
from flax import nnx
from torch import nn

import gradreg_jax
import gradreg_tensorflow
import gradreg_torch
from gradreg_core.errors import BatchNormError, BatchNormWarning, InputError, UnsupportedError
from gradreg_core.presets import ConfidencePenalty, DataGrad, FrobReg, SpectReg
from gradreg_core.spec import Regularizer
from gradreg_keras import RegularizedModel

X = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
Y = np.arange(16) % 3
DIFFERENCE = SpectReg(1.0, side="input", method="difference")
REGULARIZERS: list[Regularizer] = [
    SpectReg(1.0, side="input"),
    SpectReg(1.0, side="input", projections=3),
    SpectReg(1.0, side="input", method="difference", projections=3),
    SpectReg(1.0, side="input", every=2),
    DataGrad(1.0) + SpectReg(1.0, side="input"),
    SpectReg(1.0, side="input") + DataGrad(1.0, side="input"),
    SpectReg(1.0, fraction=0.5),
    DataGrad(1.0) + SpectReg(1.0, fraction=0.5),
    SpectReg(1.0, fraction=0.5) + SpectReg(1.0, fraction=0.25) + ConfidencePenalty(1.0),
]


def torch_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


class Net(nnx.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.first, self.last = nnx.Linear(6, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
        self.norm, self.dropout = nnx.BatchNorm(8, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.last(self.dropout(jnp.tanh(self.norm(self.first(x)))))


def test_the_loss_is_that_of_a_plain_step_where_a_part_is_penalised() -> None:
    """A part has statistics of its own; those of the whole batch count for the loss."""
    x, y = torch.tensor(X), torch.tensor(Y)
    _, parts = gradreg_torch.loss(torch_net(), x, y, SpectReg(1.0, fraction=0.5), batch_norm="allow")
    torch.testing.assert_close(parts.loss, nn.functional.cross_entropy(torch_net()(x), y))


# --- moving statistics ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: lambda x: model(x)], ids=["module", "function"])
@pytest.mark.parametrize("reg", REGULARIZERS, ids=repr)
def test_once_in_pytorch(reg: Regularizer, wrap: Callable[[Any], Any]) -> None:
    plain, model = torch_net(), torch_net()
    plain(torch.tensor(X))
    buffers = list(model.buffers())
    gradreg_torch.loss(wrap(model), torch.tensor(X), torch.tensor(Y), reg, step=0, batch_norm="allow")
    for wanted, before, after in zip(plain.buffers(), buffers, model.buffers(), strict=True):
        assert after is before
        torch.testing.assert_close(after, wanted)


@pytest.mark.slow
@pytest.mark.sample(4)
@pytest.mark.parametrize("reg", REGULARIZERS, ids=repr)
def test_once_in_jax_where_the_step_is_traced(reg: Regularizer) -> None:
    plain, model = Net(), Net()
    plain(jnp.asarray(X))

    @nnx.jit
    def total(model: Net, step: Any) -> Any:
        return gradreg_jax.loss(model, jnp.asarray(X), jnp.asarray(Y), reg, step=step, batch_norm="allow")[0]

    total(model, 0)
    assert int(model.dropout.rngs.count[...]) == 1
    np.testing.assert_allclose(model.norm.var[...], plain.norm.var[...], rtol=1e-5)  # roundings of a compiled program


@pytest.mark.sample(4)
@pytest.mark.parametrize("reg", REGULARIZERS, ids=repr)
def test_once_in_keras_where_the_step_is_traced(reg: Regularizer) -> None:
    layers = tf.keras.layers

    def make() -> Any:
        tf.keras.utils.set_random_seed(0)
        return tf.keras.Sequential(
            [layers.Input((6,)), layers.Dense(8), layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(3)]
        )

    plain, net = make(), make()
    plain(X, training=True)
    model = RegularizedModel(net, reg, batch_norm="allow")
    model.compile(tf.keras.optimizers.SGD(0.0), tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(X, Y, batch_size=16, epochs=1, verbose=0, shuffle=False)
    for after, wanted in zip(net.non_trainable_variables, plain.non_trainable_variables, strict=True):
        np.testing.assert_allclose(after.numpy(), wanted.numpy(), rtol=1e-5)  # roundings of a compiled program


def test_once_with_named_activations_of_a_part_of_the_batch() -> None:
    reg = SpectReg(1.0) + SpectReg(1.0, at="2", fraction=0.5)
    model = torch_net()
    gradreg_torch.loss(model, torch.tensor(X), torch.tensor(Y), reg, batch_norm="allow")
    assert int(model[1].num_batches_tracked) == 1


@pytest.mark.slow
def test_check_leaves_keras_layers_behind_an_attribute_alone() -> None:
    class Trainer:
        def __init__(self) -> None:
            layers = tf.keras.layers
            self.net = tf.keras.Sequential(
                [layers.Input((6,)), layers.Dense(8), layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(3)]
            )

        def check(self, reg: Regularizer) -> None:
            y = tf.constant(Y)
            assert gradreg_tensorflow.check(lambda x: self.net(x, training=True), tf.constant(X), y, reg).ok

    trainer = Trainer()
    name = trainer.net.layers[0].name
    before = [variable.numpy() for variable in trainer.net.variables]
    for reg in (SpectReg(1.0), DIFFERENCE, SpectReg(1.0) + SpectReg(1.0, at=name)):
        trainer.check(reg)
    for now, then in zip(trainer.net.variables, before, strict=True):
        np.testing.assert_array_equal(now.numpy(), then)


# --- batch normalisation behind a function --------------------------------------------------------------------------
def test_batch_normalisation_behind_a_function_is_seen_and_check_leaves_it_alone() -> None:
    model, x, y = torch_net(), torch.tensor(X), torch.tensor(Y)
    reg = SpectReg(1.0)

    def hidden(x: torch.Tensor) -> torch.Tensor:
        return model(x)

    with pytest.raises(BatchNormError, match=r"a layer \(BatchNorm1d\) is in training mode"):
        gradreg_torch.penalty(hidden, x, None, reg, batch_norm="error")
    with pytest.warns(BatchNormWarning, match="couples the samples") as caught:
        gradreg_torch.penalty(hidden, x, None, reg)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    buffers = list(model.buffers())
    assert "couples the samples" in str(gradreg_torch.check(hidden, x, y, reg))
    assert all(now is before for now, before in zip(model.buffers(), buffers, strict=True))
    for name, now in model.state_dict().items():
        assert torch.equal(now, state[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradreg_torch.penalty(model.eval().__call__, x, None, reg)


def test_buffers_that_functional_call_brings_are_put_back_by_it() -> None:
    model = torch_net()
    own = list(model.buffers())
    brought = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def call(x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, brought, (x,))

    gradreg_torch.loss(call, torch.tensor(X), torch.tensor(Y), REGULARIZERS[1], batch_norm="allow")
    assert all(now is before for now, before in zip(model.buffers(), own, strict=True))
    assert int(model[1].num_batches_tracked) == 0
    assert int(brought["1.num_batches_tracked"]) == 1


# --- equal masks in both passes of a difference ---------------------------------------------------------------------
# A mask of its own in each pass makes the penalty of order 1 / h^2 = 1e4; with one mask it is of order 1 to 10.
def test_keras_layers_behind_an_attribute_have_equal_masks() -> None:
    class Trainer:
        def __init__(self) -> None:
            layers = tf.keras.layers
            self.net = tf.keras.Sequential([layers.Input((6,)), layers.Dropout(0.5), layers.Dense(3)])

        def __call__(self) -> float:
            return float(gradreg_tensorflow.penalty(lambda x: self.net(x, training=True), tf.constant(X), None, reg))

    reg = DIFFERENCE
    assert Trainer()() < 100


def test_random_modules_behind_a_function_have_equal_masks_in_jax() -> None:
    wanted = gradreg_jax.penalty(Net(), jnp.asarray(X), None, DIFFERENCE, batch_norm="allow")
    assert 0 < float(wanted) < 100
    model = Net()
    value = gradreg_jax.penalty(lambda x: model(x), jnp.asarray(X), None, DIFFERENCE, batch_norm="allow")
    assert float(value) == pytest.approx(float(wanted), rel=1e-4)  # roundings of float32 divided by h


def test_functions_that_look_at_values_are_not_refused_in_jax() -> None:
    weight = np.ones((6, 3), np.float32)
    assert (
        gradreg_jax.penalty(lambda x: x @ weight * (2 if float(x[0, 0]) else 1), jnp.asarray(X), None, DIFFERENCE) > 0
    )


def test_check_finds_random_numbers_that_are_out_of_reach() -> None:
    weight, passes = tf.Variable(X[:6, :3]), itertools.count()

    def model(x: tf.Tensor) -> tf.Tensor:
        mask = np.random.default_rng(next(passes)).choice([0.0, 2.0], x.shape)
        return x * mask.astype(np.float32) @ weight

    report = gradreg_tensorflow.check(model, tf.constant(X), tf.constant(Y), DIFFERENCE)
    assert not report.ok
    assert "on equal inputs the two passes differ" in str(report)


@pytest.mark.parametrize("wrapped", [True, False])
def test_what_may_draw_is_refused_inside_torch_compile(wrapped: bool) -> None:
    attention = nn.MultiheadAttention(6, 1, dropout=0.5, batch_first=True)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.attention(x[:, None], x[:, None], x[:, None])[0][:, 0]

    module = Model().train()
    model = (lambda x: module(x)) if wrapped else module
    compiled = torch.compile(
        lambda x: gradreg_torch.penalty(model, x, None, DIFFERENCE), backend="eager", fullgraph=True
    )
    with pytest.raises(
        (UnsupportedError, torch._dynamo.exc.TorchDynamoException), match="cannot repeat a dropout mask"
    ):
        compiled(torch.tensor(X))


# --- half precision in the middle -----------------------------------------------------------------------------------
def test_a_difference_under_autocast_is_refused() -> None:
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(UnsupportedError, match="autocast's rounding errors are divided by h"),
    ):
        gradreg_torch.penalty(lambda x: nn.functional.linear(x, x).float(), torch.tensor(X), None, DIFFERENCE)


def test_a_difference_over_half_precision_layers_is_refused_in_keras() -> None:
    layers = tf.keras.layers
    net = tf.keras.Sequential([layers.Input((6,)), layers.Dense(8, dtype="mixed_float16"), layers.Dense(3)])
    with pytest.raises(InputError, match="computes in float16"):
        gradreg_tensorflow.penalty(net, tf.constant(X), None, DIFFERENCE)


# --- layers that work in place --------------------------------------------------------------------------------------
def test_layers_in_place_make_no_difference() -> None:
    results = []
    for inplace in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(6, 8), nn.ELU(inplace=inplace), nn.Linear(8, 8), nn.ReLU(inplace), nn.Linear(8, 3)
        )
        for reg in (SpectReg(1.0), FrobReg(1.0, at="2"), FrobReg(1.0, at="0") + FrobReg(1.0)):
            value = gradreg_torch.penalty(net, torch.tensor(X), None, reg)
            gradients = torch.autograd.grad(value, list(net.parameters()), allow_unused=True, materialize_grads=True)
            results.append(torch.cat([value[None], *(gradient.flatten() for gradient in gradients)]))
    for plain, written in zip(results[:3], results[3:], strict=True):
        torch.testing.assert_close(written, plain, rtol=1e-5, atol=1e-6)  # ELU in place has another formula
    assert not torch.allclose(results[1][0], results[2][0])


def test_an_input_that_the_model_writes_into_is_refused() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 3))
    x = torch.tensor(X, requires_grad=True) * 1
    with pytest.raises(InputError, match="writes into its input"):
        gradreg_torch.penalty(model, x, None, SpectReg(1.0))


# --- arguments whose shapes go wrong in silence ---------------------------------------------------------------------
@pytest.mark.parametrize("backend", ["torch", "jax", "tensorflow"])
def test_labels_that_broadcast_against_the_outputs_are_refused(backend: str) -> None:
    module, array = {
        "torch": (gradreg_torch, torch.tensor),
        "jax": (gradreg_jax, jnp.asarray),
        "tensorflow": (gradreg_tensorflow, tf.constant),
    }[backend]
    weight, x, y = array(X[:6, :1]), array(X), array(Y.astype(np.float32))
    with pytest.raises(InputError, match=r"losses of shape \(16, 16\) for outputs of shape \(16, 1\)"):
        module.loss(lambda x: x @ weight, x, y, DataGrad(1.0), loss_fn=lambda z, y: (z - y) ** 2)
    module.loss(lambda x: (x @ weight)[:, 0], x, y, DataGrad(1.0), loss_fn=lambda z, y: (z - y) ** 2)
