"""Layers in NumPy by hand and against PyTorch, and the elementary functions under them."""

import math

import numpy as np
import pytest

from closed_form import EXACT, STEP, assert_equal, scene
from gradreg_core.errors import SpecError
from gradreg_core.portable.networks import (
    ACTIVATIONS,
    Activation,
    Attention,
    AvgPool,
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    GroupNorm,
    Layer,
    LayerNorm,
    MaxPool,
    Network,
    Residual,
)
from gradreg_numpy.functions import erf, log1p, log_softmax, sigmoid, softmax, softplus
from gradreg_numpy.layers import linearize
from gradreg_numpy.networks import apply, full_jacobian, jacobian


# --- by hand ----------------------------------------------------------------------------------------------------------
def single(layer: Layer, x, **weights):
    """(z, J) of one layer at one sample, J as (*output, *input)."""
    x = np.asarray(x, dtype=float)
    params = {f"0.{name}": np.asarray(value, dtype=float) for name, value in weights.items()}
    z, J = jacobian(Network(x.shape, (layer,)), params, x[None])
    return z[0], J[0].reshape(*z[0].shape, *x.shape)


def test_dense_by_hand():
    z, J = single(Dense(2), [1, 2, 3], weight=[[1, 0], [0, 1], [5, -1]], bias=[10, 20])
    np.testing.assert_array_equal(z, [26, 19])
    np.testing.assert_array_equal(J, [[1, 0, 5], [0, 1, -1]])


def test_convolution_by_hand_is_a_correlation():
    x = np.arange(9.0).reshape(3, 3, 1)
    kernel = np.zeros((3, 3, 1, 1))
    kernel[0, 1] = 1  # the pixel above
    kernel[2, 2] = 10  # the pixel below and to the right
    z, _ = single(Conv2D(1), x, weight=kernel, bias=[0.5])
    np.testing.assert_array_equal(z, [[[81.5]]])
    z, J = single(Conv2D(1, 3, "same"), x, weight=kernel, bias=[0.5])
    np.testing.assert_array_equal(z[:, :, 0], [[40.5, 50.5, 0.5], [70.5, 81.5, 2.5], [3.5, 4.5, 5.5]])
    expected = np.zeros((3, 3))
    expected[0, 1], expected[2, 2] = 1, 10
    np.testing.assert_array_equal(J[1, 1, 0, :, :, 0], expected)


def test_pooling_by_hand_leaves_out_incomplete_windows():
    x = np.array([[1, 7, 100], [3, 5, 100], [100, 100, 100]], dtype=float)[:, :, None]
    z, J = single(MaxPool(2), x)
    np.testing.assert_array_equal(z, [[[7]]])
    np.testing.assert_array_equal(J[0, 0, 0, :, :, 0], [[0, 1, 0], [0, 0, 0], [0, 0, 0]])
    z, J = single(AvgPool(2), x)
    np.testing.assert_array_equal(z, [[[4]]])
    np.testing.assert_array_equal(J[0, 0, 0, :, :, 0], [[0.25, 0.25, 0], [0.25, 0.25, 0], [0, 0, 0]])


def test_max_pooling_gives_a_tie_to_the_first():
    _, J = single(MaxPool(2), np.ones((2, 2, 1)))
    np.testing.assert_array_equal(J[0, 0, 0, :, :, 0], [[1, 0], [0, 0]])


def test_max_pooling_of_complex_values_looks_at_the_real_part():
    x = np.array([1 + 0j, 1.5 - 9j, 1.5 + 5j, 0 + 9j]).reshape(1, 2, 2, 1)
    assert linearize(MaxPool(2), {}, x)[0].ravel() == [
        1.5 - 9j
    ]  # NumPy's own order would look at the imaginary part next


def test_layer_norm_by_hand():
    z, J = single(LayerNorm(eps=0.0), [1, 3], weight=[2, 2], bias=[1, 5])
    np.testing.assert_allclose(z, [-1, 7], rtol=1e-15)  # deviation 1: nothing is rounded but the square root
    np.testing.assert_allclose(J, 0 * J, atol=1e-15)  # two components, normalised, are always -1 and 1


def test_group_norm_by_hand():
    # Two groups of two channels at two positions: moments over {1, 3, 1, 3} and over {0, 0, 4, 4}.
    layer, weights = GroupNorm(2, eps=0.0), {"weight": [1, 2, 3, 4], "bias": [0, 0, 0, 1]}
    z, J = single(layer, [[1, 3, 0, 0], [1, 3, 4, 4]], **weights)
    np.testing.assert_allclose(z, [[-1, 2, -3, -3], [-1, 2, 3, 5]], rtol=1e-15)  # deviations of 1 and 2
    # d z_a / d x_b = weight_a (delta_ab - 1/4 - z_a z_b / 4) / deviation with standardized z, within a group
    np.testing.assert_allclose(J[0, 1, 0, :2], [2 * (0 - 1 / 4 + 1 / 4), 2 * (1 - 1 / 4 - 1 / 4)], atol=1e-15)
    assert not J[:, :2, :, 2:].any()
    assert not J[:, 2:, :, :2].any()


def test_group_norm_needs_channels_that_divide_into_its_groups():
    for groups in (0, 4):
        with pytest.raises(SpecError, match=f"6 channels do not divide into {groups} groups"):
            Network((6,), (GroupNorm(groups),)).weights()


def test_frozen_batch_norm_by_hand():
    z, J = single(BatchNorm(eps=1.0), [5, 1], weight=[4, 1], bias=[0, 1], mean=[3, 1], variance=[3, 8])
    np.testing.assert_array_equal(z, [4, 1])
    np.testing.assert_array_equal(J, [[2, 0], [0, 1 / 3]])


def test_batch_norm_in_training_uses_the_biased_variance_of_the_batch():
    network = Network((1,), (BatchNorm(eps=0.0, training=True),))
    params = {"0.weight": np.ones(1), "0.bias": np.zeros(1)}
    z, F = full_jacobian(network, params, [[0.0], [2.0], [4.0]])
    deviation = math.sqrt(8 / 3)
    np.testing.assert_allclose(z[:, 0], np.array([-2, 0, 2]) / deviation, rtol=1e-15)  # one division
    # d z_i / d x_j = (delta_ij - 1/3 - z_i z_j / 3) / deviation
    expected = (np.eye(3) - 1 / 3 - z @ z.T / 3) / deviation
    np.testing.assert_allclose(F[:, 0, :, 0], expected, atol=1e-15)  # a few roundings of numbers below 1


def test_dropout_multiplies_by_its_mask_and_is_the_identity_without():
    network = Network((2,), (Dropout(),))
    z, J = jacobian(network, {}, [[3.0, 5.0]], {"0": [[0.0, 2.0]]})
    np.testing.assert_array_equal(z, [[0, 10]])
    np.testing.assert_array_equal(J, [[[0, 0], [0, 2]]])
    np.testing.assert_array_equal(apply(network, {}, [[3.0, 5.0]]), [[3, 5]])


def test_residual_by_hand_and_the_paths_inside():
    network = Network((2,), (Residual((Dense(2, bias=False), Dropout())),))
    masks = {"0.1": [[1.0, 2.0]]}
    z, J = jacobian(network, {"0.0.weight": [[1.0, 2.0], [3.0, 4.0]]}, [[1.0, 10.0]], masks)
    np.testing.assert_array_equal(z, [[1 + 31, 10 + 84]])
    np.testing.assert_array_equal(J, [[[2, 3], [4, 9]]])


def test_attention_over_one_time_step_is_linear():
    weights = {name: np.random.default_rng(2).normal(size=(4, 4)) for name in ("query", "key", "value", "out")}
    _, J = single(Attention(2), [[1, 2, 3, 4]], **weights)
    # 1e-14: two orders of summation of four products
    np.testing.assert_allclose(J[0, :, 0, :], (weights["value"] @ weights["out"]).T, atol=1e-14)


def test_attention_by_hand():
    # One channel: scores are x_s x_t, so with x = (0, a) the second row attends with softmax(0, a^2).
    a = 1.3
    z, _ = single(Attention(1), [[0], [a]], query=[[1]], key=[[1]], value=[[1]], out=[[2]])
    np.testing.assert_allclose(z, [[a], [2 * a / (1 + math.exp(-a * a))]], rtol=1e-15)  # one exp, one division


@pytest.mark.parametrize(
    ("kind", "value", "slope"),
    [
        ("relu", [0, 0, 2], [0, 0, 1]),
        ("leaky_relu", [-0.4, 0, 2], [0.2, 0.2, 1]),
        ("tanh", [math.tanh(-2), 0, math.tanh(2)], [math.cosh(2) ** -2, 1, math.cosh(2) ** -2]),
        ("sigmoid", [1 / (1 + math.e**2), 0.5, 1 / (1 + math.e**-2)], [0.10499358540350652, 0.25, 0.10499358540350652]),
        (
            "softplus",
            [math.log1p(math.e**-2), math.log(2), 2 + math.log1p(math.e**-2)],
            [1 / (1 + math.e**2), 0.5, 1 / (1 + math.e**-2)],
        ),
        ("gelu", [-0.04550026389635842, 0, 1.9544997361036416], [-0.08523180107819693, 0.5, 1.0852318010781969]),
    ],
)
def test_activations_and_their_slopes_at_minus_two_zero_and_two(kind, value, slope):
    x = np.array([[-2.0, 0.0, 2.0]])
    z, tangent = linearize(Activation(kind), {}, x)
    # 1e-15 relative and absolute: one or two calls of a library function each
    np.testing.assert_allclose(z[0], value, rtol=1e-15, atol=1e-15)
    np.testing.assert_allclose(tangent(np.ones((1, 1, 3)))[0, 0], slope, rtol=2e-15, atol=1e-15)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_far_out_neither_overflow_nor_warn(kind):
    x = np.array([[-800.0, 800.0]])
    for argument in (x, x + 1j * STEP):
        z, tangent = linearize(Activation(kind), {}, argument)
        dz = tangent(np.ones((1, 1, 2)))
        low = -800 * 0.2 if kind == "leaky_relu" else -1 if kind == "tanh" else 0
        np.testing.assert_array_equal(z.real, [[low, 1 if kind in ("tanh", "sigmoid") else 800]])
        flat = 0.2 if kind == "leaky_relu" else 0
        np.testing.assert_array_equal(dz[0].real, [[flat, 0 if kind in ("tanh", "sigmoid") else 1]])


# --- elementary functions ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("function", "derivative"),
    [
        (erf, lambda a: 2 / np.sqrt(np.pi) * np.exp(-a * a)),
        (log1p, lambda a: 1 / (1 + a)),
        (sigmoid, lambda a: np.exp(-a) / (1 + np.exp(-a)) ** 2),
        (softplus, lambda a: 1 / (1 + np.exp(-a))),
    ],
)
def test_functions_of_complex_arguments_carry_their_derivative(function, derivative):
    a = np.array([-0.75, 0.0, 0.5, 3.0])
    z = function(a + 1j * STEP)
    np.testing.assert_allclose(z.real, function(a), rtol=1e-15, atol=1e-17)  # the same formula
    np.testing.assert_allclose(z.imag / STEP, derivative(a), rtol=1e-14)  # some roundings each


def test_small_values_of_softplus_are_accurate_in_complex_arithmetic():
    np.testing.assert_allclose(softplus(np.array([-40 + 1j * STEP])).real, math.exp(-40), rtol=1e-15)  # one exp


def test_softmax_does_not_overflow_and_agrees_with_log_softmax():
    z = np.array([[1000.0, 1001.0, -1000.0]])
    np.testing.assert_allclose(softmax(z), [[1 / (1 + math.e), math.e / (1 + math.e), 0]], rtol=1e-15)  # one division
    small = np.array([[0.3, -1.0, 2.0]])
    np.testing.assert_allclose(np.exp(log_softmax(small)), softmax(small), rtol=1e-15)  # exp of log


# --- against PyTorch --------------------------------------------------------------------------------------------------
@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def to_torch(torch, array):
    return torch.from_numpy(np.ascontiguousarray(array))


def compare(value, tensor):
    # 1e-13 of the largest: the same sums of some dozen float64 products in another order
    assert_equal(value, tensor.numpy(), EXACT)


@pytest.mark.parametrize(("kernel", "padding"), [(3, "valid"), (3, "same"), (5, "same"), (1, "valid")])
def test_convolution_is_torchs(torch, kernel, padding):
    network = Network((6, 7, 2), (Conv2D(3, kernel, padding),))
    params, x, _ = scene(network)
    image = to_torch(torch, np.moveaxis(x, -1, 1))
    weight = to_torch(torch, np.transpose(params["0.weight"], (3, 2, 0, 1)))
    z = torch.nn.functional.conv2d(image, weight, to_torch(torch, params["0.bias"]), padding=padding)
    compare(np.moveaxis(apply(network, params, x), -1, 1), z)


@pytest.mark.parametrize("size", [2, 3])
def test_pooling_is_torchs(torch, size):
    x = np.random.default_rng(3).normal(size=(2, 7, 6, 3))
    image = to_torch(torch, np.moveaxis(x, -1, 1))
    pools = {MaxPool: torch.nn.functional.max_pool2d, AvgPool: torch.nn.functional.avg_pool2d}
    for layer, pool in pools.items():
        z = apply(Network((7, 6, 3), (layer(size),)), {}, x)
        compare(np.moveaxis(z, -1, 1), pool(image, size))


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_are_torchs(torch, kind):
    functions = torch.nn.functional
    theirs = {
        "relu": functions.relu,
        "leaky_relu": lambda x: functions.leaky_relu(x, 0.2),
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "softplus": functions.softplus,
        "gelu": functions.gelu,
        "gelu_tanh": lambda x: functions.gelu(x, approximate="tanh"),
    }
    x = np.linspace(-6, 6, 25)[None]
    compare(linearize(Activation(kind), {}, x)[0], theirs[kind](to_torch(torch, x)))


def test_normalisation_is_torchs(torch):
    functions = torch.nn.functional
    x = np.random.default_rng(4).normal(size=(4, 5, 3)) * 2 + 1
    for layer in (LayerNorm(), BatchNorm(), BatchNorm(training=True), GroupNorm(3), GroupNorm(1)):
        network = Network((5, 3), (layer,))
        params, _, _ = scene(network)
        given = {path.partition(".")[2]: to_torch(torch, value) for path, value in params.items()}
        z = apply(network, params, x)
        if isinstance(layer, BatchNorm):
            rows = to_torch(torch, x.reshape(-1, 3))
            moments = (None, None) if layer.training else (given["mean"], given["variance"])
            wanted = functions.batch_norm(rows, *moments, given["weight"], given["bias"], layer.training, eps=layer.eps)
            compare(z.reshape(-1, 3), wanted)
        elif isinstance(layer, GroupNorm):
            image = to_torch(torch, np.moveaxis(x, -1, 1))
            wanted = functions.group_norm(image, layer.groups, given["weight"], given["bias"], layer.eps)
            compare(np.moveaxis(z, -1, 1), wanted)
        else:
            compare(z, functions.layer_norm(to_torch(torch, x), (3,), given["weight"], given["bias"], layer.eps))


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_torchs(torch, heads):
    network = Network((5, 8), (Attention(heads),))
    params, x, _ = scene(network)
    weights = {name: to_torch(torch, params[f"0.{name}"]) for name in ("query", "key", "value", "out")}
    split = [
        (to_torch(torch, x) @ weights[name]).unflatten(-1, (heads, -1)).transpose(1, 2) for name in list(weights)[:3]
    ]
    attended = torch.nn.functional.scaled_dot_product_attention(*split)
    compare(apply(network, params, x), attended.transpose(1, 2).flatten(2) @ weights["out"])
