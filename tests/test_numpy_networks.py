"""Portable networks in NumPy: outputs, analytic Jacobians, and the conventions that they share with the frameworks."""

import math

import numpy as np
import pytest

from gradreg_core.errors import BatchNormError, InputError, InputTypeError, UnsupportedError
from gradreg_core.networks import (
    ACTIVATIONS,
    Activation,
    Attention,
    AvgPool,
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Layer,
    LayerNorm,
    MaxPool,
    Network,
    Residual,
)
from gradreg_numpy.functions import erf, log1p, log_softmax, sigmoid, softmax, softplus
from gradreg_numpy.layers import forward, tangent
from gradreg_numpy.networks import Model, apply, coupled, full_jacobian, initialize, jacobian

STEP = 1e-30
EXACT = 1e-13  # relative: two routes in float64 through a few layers differ by some hundred roundings of 1e-16
TANH = Activation("tanh")

INDEPENDENT = {
    "linear": Network((4,), (Dense(3, bias=False),)),
    "mlp": Network((4,), (Dense(5), TANH, Dense(3))),
    "dense over the last axis": Network((2, 4), (Dense(3), TANH, Flatten(), Dense(2))),
    "layer norm": Network((4,), (Dense(5), TANH, LayerNorm(), Dense(3))),
    "frozen batch norm": Network((4,), (Dense(5), TANH, BatchNorm(), Dense(3))),
    "frozen batch norm over channels": Network((3, 3, 2), (Conv2D(3), BatchNorm(), TANH, Flatten())),
    "dropout": Network((4,), (Dense(5), TANH, Dropout(), Dense(3))),
    "conv valid, mean pooling": Network((6, 5, 2), (Conv2D(3), TANH, AvgPool(2), Flatten(), Dense(2))),
    "conv same, max pooling": Network((5, 4, 2), (Conv2D(3, 3, "same"), TANH, MaxPool(2), Flatten(), Dense(2))),
    "conv 1 and 5": Network((5, 6, 1), (Conv2D(2, 1), TANH, Conv2D(2, 5), Flatten())),
    "residual": Network((4,), (Dense(4), Residual((TANH, Dense(4), Dropout(), Residual((LayerNorm(),)))), Dense(2))),
    "attention": Network((3, 4), (Attention(2), TANH, Flatten(), Dense(2))),
    "transformer block": Network((3, 4), (Residual((LayerNorm(), Attention(1))), LayerNorm(), Dense(2))),
} | {kind: Network((4,), (Dense(5), Activation(kind), Dense(2))) for kind in ACTIVATIONS}

COUPLED = {
    "batch norm": Network((3,), (Dense(4), TANH, BatchNorm(training=True), Dense(2))),
    "batch norm over channels": Network((3, 3, 1), (Conv2D(2), TANH, BatchNorm(training=True), Flatten())),
    "in a residual block": Network((3,), (Residual((TANH, BatchNorm(training=True))), Dense(2))),
}


def scene(network: Network, batch: int = 3, seed: int = 0):
    """Random parameters without any 0 or 1 in them, inputs and dropout masks."""
    rng = np.random.default_rng(seed)
    params = {path: value + 0.3 * rng.uniform(0.1, 1, value.shape) for path, value in initialize(network, seed).items()}
    masks = {path: 2.0 * rng.integers(0, 2, (batch, *shape)) for path, shape in network.masks().items()}
    return params, rng.normal(size=(batch, *network.input_shape)), masks


def complex_step_jacobian(network, params, x, masks, start=0):
    """F[i, k, j, c] = dz[i, k] / dx[j, c] from `apply` alone."""
    flat = x.reshape(len(x), -1)
    columns = []
    for j, c in np.ndindex(flat.shape):
        moved = flat.astype(complex)
        moved[j, c] += 1j * STEP
        z = apply(network, params, moved.reshape(x.shape), masks, start=start)
        columns.append(z.reshape(len(x), -1).imag / STEP)
    return np.stack(columns, -1).reshape(*columns[0].shape, *flat.shape)


def assert_equal(value, expected, tolerance=EXACT):
    assert value.shape == expected.shape
    assert np.abs(value - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("name", INDEPENDENT)
def test_jacobian_is_the_derivative_of_apply(name):
    network = INDEPENDENT[name]
    params, x, masks = scene(network)
    z, J = jacobian(network, params, x, masks)
    F = complex_step_jacobian(network, params, x, masks)
    np.testing.assert_array_equal(z, apply(network, params, x, masks))
    assert z.shape == (3, *network.output_shape)
    assert np.abs(J).max() > 0.01
    for i in range(3):
        assert_equal(J[i], F[i, :, i])
        assert not np.delete(F[i], i, axis=1).any()


@pytest.mark.parametrize("name", INDEPENDENT)
def test_jacobian_at_every_layer(name):
    network = INDEPENDENT[name]
    params, x, masks = scene(network, batch=2)
    for start in range(1, len(network.layers)):
        h = apply(network, params, x, masks, stop=start)
        z, J = jacobian(network, params, h, masks, start=start)
        np.testing.assert_array_equal(z, apply(network, params, x, masks))
        F = complex_step_jacobian(network, params, h, masks, start=start)
        assert_equal(J, np.stack([F[i, :, i] for i in range(2)]))


@pytest.mark.parametrize("name", COUPLED)
def test_full_jacobian_of_coupled_samples(name):
    network = COUPLED[name]
    params, x, masks = scene(network)
    z, F = full_jacobian(network, params, x, masks)
    np.testing.assert_array_equal(z, apply(network, params, x, masks))
    assert_equal(F, complex_step_jacobian(network, params, x, masks))
    assert np.abs(F[0, :, 1]).max() > 1e-3
    with pytest.raises(BatchNormError, match="use full_jacobian"):
        jacobian(network, params, x, masks)


def test_full_jacobian_of_independent_samples_is_block_diagonal():
    network = INDEPENDENT["mlp"]
    params, x, _ = scene(network)
    _, F = full_jacobian(network, params, x)
    _, J = jacobian(network, params, x)
    for i, j in np.ndindex(3, 3):
        np.testing.assert_allclose(F[i, :, j], J[i] if i == j else 0 * J[i], rtol=EXACT, atol=0)


def test_samples_are_coupled_up_to_the_last_batch_norm_in_training():
    network = COUPLED["batch norm"]
    assert [coupled(network, start) for start in range(4)] == [True, True, True, False]
    assert coupled(COUPLED["in a residual block"])
    assert not coupled(INDEPENDENT["frozen batch norm"])


@pytest.mark.parametrize("name", ["mlp", "gelu", "softplus", "layer norm", "attention", "conv same, max pooling"])
def test_jacobian_is_holomorphic_in_the_parameters(name):
    network = INDEPENDENT[name]
    params, x, masks = scene(network)
    rng = np.random.default_rng(1)
    ways = {path: rng.normal(size=value.shape) for path, value in params.items()}

    def moved(t):
        return jacobian(network, {path: value + t * ways[path] for path, value in params.items()}, x, masks)[1]

    h = 1e-5
    differences = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)
    # 1e-9: roundoff 1e-16 over the step 1e-5, times a few; the truncation error h^4 is below it
    assert_equal(moved(1j * STEP).imag / STEP, differences, 1e-9)


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
    assert forward(MaxPool(2), {}, x).ravel() == [1.5 - 9j]  # NumPy's own order would look at the imaginary part next


def test_layer_norm_by_hand():
    z, J = single(LayerNorm(eps=0.0), [1, 3], weight=[2, 2], bias=[1, 5])
    np.testing.assert_allclose(z, [-1, 7], rtol=1e-15)  # deviation 1: nothing is rounded but the square root
    np.testing.assert_allclose(J, 0 * J, atol=1e-15)  # two components, normalised, are always -1 and 1


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
    layer = Activation(kind)
    # 1e-15 relative and absolute: one or two calls of a library function each
    np.testing.assert_allclose(forward(layer, {}, x)[0], value, rtol=1e-15, atol=1e-15)
    np.testing.assert_allclose(tangent(layer, {}, x, np.ones((1, 1, 3)))[0, 0], slope, rtol=2e-15, atol=1e-15)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_far_out_neither_overflow_nor_warn(kind):
    x = np.array([[-800.0, 800.0]])
    for argument in (x, x + 1j * STEP):
        z = forward(Activation(kind), {}, argument)
        dz = tangent(Activation(kind), {}, argument, np.ones((1, 1, 2)))
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
    compare(forward(Activation(kind), {}, x), theirs[kind](to_torch(torch, x)))


def test_normalisation_is_torchs(torch):
    functions = torch.nn.functional
    x = np.random.default_rng(4).normal(size=(4, 5, 3)) * 2 + 1
    for layer in (LayerNorm(), BatchNorm(), BatchNorm(training=True)):
        network = Network((5, 3), (layer,))
        params, _, _ = scene(network)
        given = {path.partition(".")[2]: to_torch(torch, value) for path, value in params.items()}
        z = apply(network, params, x)
        if isinstance(layer, BatchNorm):
            rows = to_torch(torch, x.reshape(-1, 3))
            moments = (None, None) if layer.training else (given["mean"], given["variance"])
            wanted = functions.batch_norm(rows, *moments, given["weight"], given["bias"], layer.training, eps=layer.eps)
            compare(z.reshape(-1, 3), wanted)
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


# --- parameters and models --------------------------------------------------------------------------------------------
def test_initialize_is_glorot_uniform_with_neutral_norms():
    layers = (Conv2D(8), BatchNorm(), Flatten(), Dense(50), LayerNorm())
    params = initialize(Network((6, 6, 4), layers), seed=5)
    for path, fans in (("0.weight", 9 * (4 + 8)), ("3.weight", 128 + 50)):
        limit = math.sqrt(6 / fans)
        assert 0.9 * limit < np.abs(params[path]).max() <= limit
        assert abs(params[path].mean()) < 0.1 * limit
    ones = ("1.weight", "1.variance", "4.weight")
    zeros = ("0.bias", "1.bias", "1.mean", "3.bias", "4.bias")
    assert all((params[path] == 1).all() for path in ones)
    assert not any(params[path].any() for path in zeros)
    assert set(params) == {"0.weight", "3.weight", *ones, *zeros}


def test_initialize_depends_on_the_seed_alone():
    network = INDEPENDENT["mlp"]
    first, again, other = (initialize(network, seed) for seed in (1, 1, 2))
    assert all((first[path] == again[path]).all() for path in first)
    assert not (first["0.weight"] == other["0.weight"]).any()


def test_model_is_a_callable_with_its_network_params_and_masks():
    network = INDEPENDENT["dropout"]
    params, x, masks = scene(network)
    model = Model(network, params, masks)
    np.testing.assert_array_equal(model(x), apply(network, params, x, masks))
    assert (model(x) != Model(network, params)(x)).any()
    part = np.array([2, 0])
    np.testing.assert_allclose(
        model.take(part)(x[part]), model(x)[part], rtol=EXACT
    )  # the order of BLAS sums may differ
    assert model.network is network


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"3.weight": np.zeros(2)}, r"unknown are \['3.weight'\]"),
        ({"0.weight": None}, r"missing are \['0.weight'\]"),
        ({"0.weight": np.zeros((4, 6))}, r"params\['0.weight'\] must have shape \(4, 5\), got \(4, 6\)"),
    ],
)
def test_model_refuses_arrays_that_do_not_fit(change, message):
    network = INDEPENDENT["mlp"]
    params = {key: value for key, value in (initialize(network, 0) | change).items() if value is not None}
    with pytest.raises(InputError, match=message):
        Model(network, params)


def test_model_refuses_what_is_no_network_mask_or_input():
    network = INDEPENDENT["dropout"]
    params, x, masks = scene(network)
    with pytest.raises(InputTypeError, match=r"expected a gradreg_core\.networks\.Network, got tuple"):
        Model(network.layers, params)
    with pytest.raises(InputError, match=r"masks\['2'\] has shape \(3, 4\)"):
        Model(network, params, {"2": masks["2"][:, :4]})
    with pytest.raises(InputError, match="for 3 samples, but x has 2"):
        Model(network, params, masks)(x[:2])
    with pytest.raises(InputError, match=r"expected x of shape \(B, 4\)"):
        Model(network, params)(x[:, :2])
    with pytest.raises(InputTypeError, match="only floating-point inputs have a gradient"):
        Model(network, params)(np.ones((2, 4), dtype=int))


def test_a_layer_without_a_rule_is_refused():
    class Mystery(Layer):
        pass

    network = Network((2,), (Mystery(),))
    with pytest.raises(UnsupportedError, match="no rule for the layer"):
        apply(network, {}, [[1.0, 2.0]])
    with pytest.raises(UnsupportedError, match="no rule for the layer"):
        jacobian(network, {}, [[1.0, 2.0]])
