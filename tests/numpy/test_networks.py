"""Portable networks in NumPy: analytic Jacobians against complex steps, parameters, models."""

import math

import numpy as np
import pytest

from closed_form import EXACT, STEP, TANH, assert_equal, scene
from gradreg_core.errors import BatchNormError, InputError, InputTypeError, UnsupportedError
from gradreg_core.portable.networks import (
    ACTIVATIONS,
    Activation,
    Attention,
    AvgPool,
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GroupNorm,
    Layer,
    LayerNorm,
    MaxPool,
    Network,
    Residual,
)
from gradreg_numpy.networks import Model, apply, coupled, full_jacobian, initialize, jacobian

INDEPENDENT = {
    "linear": Network((4,), (Dense(3, bias=False),)),
    "mlp": Network((4,), (Dense(5), TANH, Dense(3))),
    "dense over the last axis": Network((2, 4), (Dense(3), TANH, Flatten(), Dense(2))),
    "layer norm": Network((4,), (Dense(5), TANH, LayerNorm(), Dense(3))),
    "group norm": Network((4,), (Dense(6), TANH, GroupNorm(2), Dense(3))),
    "group norm over positions": Network((3, 2, 2), (Conv2D(4, 3, "same"), TANH, GroupNorm(2), TANH, Flatten())),
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
    with pytest.raises(InputTypeError, match=r"expected a gradreg_core\.portable\.networks\.Network, got tuple"):
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
    with pytest.raises(UnsupportedError, match="no rule for"):
        apply(network, {}, [[1.0, 2.0]])
    with pytest.raises(UnsupportedError, match="no rule for"):
        jacobian(network, {}, [[1.0, 2.0]])
