"""The NumPy oracle: the loss, measures, and gradients by complex step."""

import math

import numpy as np
import pytest

import gradreg_numpy as gradreg
from closed_form import EXACT, B, Hand, M, coupled_model, data_grad, general, length, normals, square
from gradreg_core.portable.networks import Activation, Dense, LayerNorm, Network, Residual
from gradreg_core.random import STREAM_START
from gradreg_core.spec import JacobianPenalty


@pytest.fixture
def hand():
    return Hand()


def test_loss_is_cross_entropy_and_the_terms(hand):
    reg = gradreg.DataGrad(2.0) + gradreg.WeightDecay(0.5)
    total, parts = gradreg.loss(hand.model, hand.x, hand.y, reg)
    cross_entropy = hand.mean(lambda i: -math.log(hand.f[i][hand.y[i]]))
    assert parts.loss == pytest.approx(cross_entropy, rel=EXACT)
    assert parts.penalty == pytest.approx((2 * data_grad(hand), 0.25 * (square(hand.U) + square(hand.V))), rel=EXACT)
    assert total == pytest.approx(parts.loss + sum(parts.penalty), rel=EXACT)
    np.testing.assert_allclose(parts.outputs, hand.z, rtol=EXACT)
    assert gradreg.loss(hand.model, hand.x, hand.y, None)[0] == parts.loss


def test_loss_takes_soft_labels_and_weights(hand):
    soft = np.random.default_rng(4).dirichlet(np.ones(M), B)
    w = np.array([1.0, 3.0, 0.0, 2.0])
    _, parts = gradreg.loss(hand.model, hand.x, soft, gradreg.DataGrad(1.0), sample_weight=w)
    f = np.array(hand.f)
    assert parts.loss == pytest.approx(-(w[:, None] * soft * np.log(f)).sum() / 6, rel=EXACT)
    squares = [square(hand.J[i].T @ (f[i] - soft[i])) for i in hand.samples]
    assert parts.penalty[0] == pytest.approx((w * squares).sum() / 6, rel=EXACT)


class SquaredError:
    """M = mean_k (z_k - y_k)^2."""

    def value(self, z, y):
        return (z - y) ** 2

    def gradient(self, z, y):
        return 2 * (z - y) / z.shape[1]


def test_loss_function_with_its_gradient(hand):
    y = np.random.default_rng(5).normal(size=(B, M))
    _, parts = gradreg.loss(hand.model, hand.x, y, gradreg.DataGrad(1.0), loss_fn=SquaredError())
    assert parts.loss == pytest.approx(((hand.z - y) ** 2).mean(), rel=EXACT)
    expected = hand.mean(lambda i: square(hand.J[i].T @ (2 / M * (hand.z[i] - y[i]))))
    assert parts.penalty[0] == pytest.approx(expected, rel=EXACT)
    measured = gradreg.measure(hand.model, hand.x, y, loss_fn=SquaredError())
    assert (measured.loss_gradient**2).mean() == pytest.approx(expected, rel=EXACT)


def test_measure_gives_unsquared_norms_of_each_sample(hand):
    measured = gradreg.measure(hand.model, hand.x, hand.y)
    np.testing.assert_allclose(measured.frobenius, [length(J) for J in hand.J], rtol=EXACT)
    np.testing.assert_allclose(measured.spectral, [np.linalg.svd(J)[1][0] for J in hand.J], rtol=EXACT)
    gradients = [length(hand.J[i].T @ (hand.f[i] - hand.e[i])) for i in hand.samples]
    np.testing.assert_allclose(measured.loss_gradient, gradients, rtol=EXACT)
    assert gradreg.measure(hand.model, hand.x).loss_gradient is None


def test_measure_of_coupled_samples_is_what_the_penalty_charges():
    model, x, y = coupled_model()
    measured = gradreg.measure(model, x, y)
    assert (measured.frobenius**2).mean() == pytest.approx(
        gradreg.penalty(model, x, y, gradreg.FrobReg(1.0)), rel=EXACT
    )
    assert (measured.loss_gradient**2).mean() == pytest.approx(
        gradreg.penalty(model, x, y, gradreg.DataGrad(1.0)), rel=EXACT
    )


GRADIENTS = [
    gradreg.DataGrad(1.0),
    gradreg.SpectReg(1.0, projections=2, fraction=0.75),
    gradreg.SpectReg(1.0, spherical=True),
    gradreg.JacReg(1.0),
    gradreg.GradientPenalty(1.0) + gradreg.WeightDecay(0.1),
    gradreg.InputFisher(1.0),
    gradreg.OneHot(1.0, every=2),
    gradreg.SpectralNormReg(1.0, iterations=80),
    gradreg.ConfidencePenalty(1.0),
    gradreg.FrobReg(1.0, at="0"),
    JacobianPenalty(1.0, projection=gradreg.top_k(2), norm="l1", squared=False, output="log_probabilities"),
    JacobianPenalty(1.0, projection=gradreg.exact(), norm="linf", phi=gradreg.hinge(0.1)),
    JacobianPenalty(1.0, projection=gradreg.orthonormal(2), phi=gradreg.target(3.0)),
]


def central_differences(value, array, h=1e-5):
    """The derivative with an error of h^4."""
    result = np.zeros_like(array)
    for index in np.ndindex(array.shape):

        def moved(by, index=index):
            shifted = array.copy()
            shifted[index] += by
            return value(shifted)

        result[index] = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)
    return result


@pytest.mark.parametrize(
    ("reg", "of"), [(reg, "penalty") for reg in GRADIENTS] + [(reg, "total") for reg in GRADIENTS[:2]], ids=repr
)
def test_gradient_is_that_of_central_differences(reg, of):
    network = Network((2,), (Dense(3), Activation("softplus"), Residual((LayerNorm(),)), Dense(3)))
    model = gradreg.Model(network, gradreg.initialize(network, 1))
    x, y = np.random.default_rng(6).normal(size=(3, 2)), np.array([2, 0, 1])
    weights, inputs = gradreg.gradient(model, x, y, reg, of=of)

    def value(model, x):
        return gradreg.penalty(model, x, y, reg) if of == "penalty" else gradreg.loss(model, x, y, reg)[0]

    largest = max(np.abs(gradient).max() for gradient in (*weights.values(), inputs))
    assert largest > 1e-2
    # 1e-9: roundoff 1e-16 over the step 1e-5, times the size of the value, below 100
    tolerance = 1e-9 * max(1.0, largest)
    np.testing.assert_allclose(
        inputs, central_differences(lambda moved: value(model, moved), x), atol=tolerance, rtol=0
    )
    assert set(weights) == set(network.weights())
    for path in ("0.weight", "2.0.weight", "3.bias"):
        array = model.params[path]
        differences = central_differences(lambda moved, path=path: value(model.replaced(path, moved), x), array)
        np.testing.assert_allclose(weights[path], differences, atol=tolerance, rtol=0)


def test_gradient_of_coupled_samples():
    model, x, y = coupled_model()
    reg = gradreg.DataGrad(1.0) + gradreg.SpectReg(1.0)
    weights, inputs = gradreg.gradient(model, x, y, reg)
    differences = central_differences(lambda moved: gradreg.penalty(model, moved, y, reg), x)
    np.testing.assert_allclose(inputs, differences, atol=1e-8, rtol=0)  # as above, values of some tens
    array = model.params["0.weight"]
    differences = central_differences(
        lambda moved: gradreg.penalty(model.replaced("0.weight", moved), x, y, reg), array
    )
    np.testing.assert_allclose(weights["0.weight"], differences, atol=1e-8, rtol=0)


def test_the_singular_vector_is_a_constant_to_differentiation(hand):
    start = normals(1, stream=STREAM_START)[0]
    u = np.stack([hand.J[i] @ (hand.J[i].T @ start[i]) for i in hand.samples])
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    ours = gradreg.gradient(hand.model, hand.x, None, gradreg.SpectralNormReg(1.0, iterations=1))
    fixed = gradreg.gradient(hand.model, hand.x, None, general(gradreg.direction()), directions=u)
    np.testing.assert_allclose(ours[1], fixed[1], rtol=1e-12)  # some cancellation between the layers
    np.testing.assert_allclose(ours[0]["0.weight"], fixed[0]["0.weight"], rtol=1e-12)


@pytest.mark.parametrize("norm", ["l2", "l1", "linf"])
def test_the_gradient_of_a_norm_at_zero_is_zero(norm):
    network = Network((2,), (Dense(3, bias=False),))
    model = gradreg.Model(network, {"0.weight": np.zeros((2, 3))})
    reg = JacobianPenalty(1.0, projection=gradreg.exact(), norm=norm, squared=False)
    weights, inputs = gradreg.gradient(model, np.ones((2, 2)), None, reg)
    assert not weights["0.weight"].any()
    assert not inputs.any()


def test_a_linear_layers_frobenius_norm_is_weight_decay():
    network = Network((3,), (Dense(4),))
    model = gradreg.Model(network, gradreg.initialize(network, 2))
    x = np.random.default_rng(7).normal(size=(2, 3))
    frobenius_gradient, inputs = gradreg.gradient(model, x, None, gradreg.FrobReg(1.0))
    decay, _ = gradreg.gradient(model, x, None, gradreg.WeightDecay(2.0))
    np.testing.assert_allclose(frobenius_gradient["0.weight"], decay["0.weight"], rtol=EXACT)
    np.testing.assert_allclose(decay["0.weight"], 2 * model.params["0.weight"], rtol=EXACT)
    assert not inputs.any()
