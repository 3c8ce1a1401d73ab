"""The NumPy oracle: sums of outputs, norms of presets, target Jacobians, layers, differences along the gradient."""

import math

import numpy as np
import pytest

import gradreg_numpy as gradreg
from closed_form import EXACT, STEP, TANH, B, D, Hand, M, coupled_model, general, length, normals, sequence, square
from gradreg_core.errors import InputError
from gradreg_core.portable.networks import Dense, Network
from gradreg_core.spec import JacobianPenalty
from gradreg_numpy.networks import initialize

DIVIDED = 1e-11
"""Relative: a difference of outputs of order 1, each rounded by 1e-16, divided by a step of 0.01, and some room."""


@pytest.fixture
def hand():
    return Hand()


def gradient_of_the_loss(n, i):
    return n.J[i].T @ (n.f[i] - n.e[i])


# --- sums of outputs and norms ----------------------------------------------------------------------------------------
def test_ones_is_the_gradient_of_the_sum_of_the_outputs(hand):
    expected = hand.mean(lambda i: square(hand.J[i].sum(axis=0)))
    assert gradreg.penalty(hand.model, hand.x, None, general(gradreg.ones())) == pytest.approx(expected, rel=EXACT)
    r1 = gradreg.penalty(hand.model, hand.x, None, gradreg.R1(1.0, projection=gradreg.ones()))
    assert r1 == pytest.approx(0.5 * expected, rel=EXACT)
    wgan = gradreg.penalty(hand.model, hand.x, None, gradreg.GradientPenalty(1.0, projection=gradreg.ones()))
    wanted = hand.mean(lambda i: (length(hand.J[i].sum(axis=0)) - 1) ** 2)
    assert wgan == pytest.approx(wanted, rel=EXACT)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("norm", ["l1", "linf"])
def test_presets_with_other_norms(hand, norm, squared):
    def of(rows):
        value = np.abs(rows).sum() if norm == "l1" else np.abs(rows).max()
        return float(value**2 if squared else value)

    def softmax(i):
        return np.diag(hand.f[i]) - np.outer(hand.f[i], hand.f[i])

    r = normals(2) / math.sqrt(2)
    chosen = {"norm": norm, "squared": squared}
    for reg, rows in [
        (gradreg.DataGrad(1.0, **chosen), lambda i: gradient_of_the_loss(hand, i)),
        (gradreg.SpectReg(1.0, projections=2, **chosen), lambda i: r[:, i] @ hand.J[i]),
        (gradreg.FrobReg(1.0, **chosen), lambda i: hand.J[i]),
        (gradreg.JacReg(1.0, **chosen), lambda i: softmax(i) @ hand.J[i]),
        (gradreg.R1(2.0, **chosen), lambda i: hand.J[i]),
        (gradreg.OneHot(1.0, **chosen), lambda i: hand.J[i][hand.y[i]]),
    ]:
        expected = hand.mean(lambda i, rows=rows: of(rows(i)))
        assert gradreg.penalty(hand.model, hand.x, hand.y, reg) == pytest.approx(expected, rel=EXACT), reg


def test_the_spectral_norm_itself(hand):
    reg = gradreg.SpectralNormReg(1.0, iterations=200, squared=False)
    expected = hand.mean(lambda i: np.linalg.norm(hand.J[i], 2))
    assert gradreg.penalty(hand.model, hand.x, None, reg) == pytest.approx(expected, rel=EXACT)


# --- target Jacobians -------------------------------------------------------------------------------------------------
def test_a_target_array_is_subtracted_along_the_directions(hand):
    T = np.random.default_rng(3).normal(size=(B, M, D))
    r = normals(1)[0]
    for reg, expected in [
        (gradreg.SobolevReg(1.0), lambda i: square(r[i] @ (hand.J[i] - T[i]))),
        (gradreg.SobolevReg(1.0, projection=gradreg.exact()), lambda i: square(hand.J[i] - T[i])),
        (
            gradreg.SobolevReg(1.0, projection=gradreg.exact(), norm="l1", squared=False),
            lambda i: float(np.abs(hand.J[i] - T[i]).sum()),
        ),
    ]:
        value = gradreg.penalty(hand.model, hand.x, None, reg, target=T)
        assert value == pytest.approx(hand.mean(expected), rel=EXACT), reg
    G = np.random.default_rng(4).normal(size=(B, D))
    reg = gradreg.SobolevReg(1.0, projection=gradreg.exact(), output="loss")
    expected = hand.mean(lambda i: square(gradient_of_the_loss(hand, i) - G[i]))
    assert gradreg.penalty(hand.model, hand.x, hand.y, reg, target=G) == pytest.approx(expected, rel=EXACT)


def test_a_teacher_gives_its_own_jacobian(hand):
    teacher = Hand(seed=5).model
    reg = gradreg.SobolevReg(1.0, projection=gradreg.exact(), output="probabilities")
    f, T = [], gradreg.jacobian(teacher.network, teacher.params, hand.x)[1]
    for z in teacher(hand.x):
        f.append(np.exp(z) / np.exp(z).sum())

    def distance(i):
        own, other = (np.diag(p) - np.outer(p, p) for p in (hand.f[i], f[i]))
        return square(own @ hand.J[i] - other @ T[i])

    value = gradreg.penalty(hand.model, hand.x, None, reg, target=teacher)
    assert value == pytest.approx(hand.mean(distance), rel=EXACT)
    assert gradreg.penalty(hand.model, hand.x, None, gradreg.SobolevReg(1.0), target=hand.model) == 0


def test_the_target_is_a_constant(hand):
    """Along a teacher with its Jacobian's values the gradient is that of the array."""
    teacher = Hand(seed=5).model
    T = gradreg.jacobian(teacher.network, teacher.params, hand.x)[1]
    reg = gradreg.SobolevReg(1.0)
    given, drawn = (gradreg.gradient(hand.model, hand.x, None, reg, target=target) for target in (T, teacher))
    np.testing.assert_allclose(drawn[1], given[1], rtol=1e-10, atol=1e-12)
    for path in given[0]:
        np.testing.assert_allclose(drawn[0][path], given[0][path], rtol=1e-10, atol=1e-12)


def test_the_target_of_a_part_and_of_classes_on_another_axis(hand):
    T = np.random.default_rng(3).normal(size=(B, M, D))
    reg = gradreg.SobolevReg(1.0, projection=gradreg.exact(), fraction=0.5)
    both = [gradreg.penalty(hand.model, hand.x, None, reg, step=step, target=T) for step in range(40)]
    singly = np.array([square(hand.J[i] - T[i]) for i in hand.samples])
    pairs = {(singly[i] + singly[j]) / 2 for i in hand.samples for j in hand.samples if i != j}
    assert all(min(abs(value - pair) for pair in pairs) < 1e-10 for value in both)
    model, x, _, J = sequence()
    S = np.random.default_rng(4).normal(size=(B, 4, 3, 4, 2))
    exact = gradreg.SobolevReg(1.0, projection=gradreg.exact())
    expected = ((J - S.reshape(B, 4, 3, 8)) ** 2).sum() / B
    for axis in (None, 1, -1):
        value = gradreg.penalty(model, x, None, exact, target=S, class_axis=axis)
        assert value == pytest.approx(expected, rel=EXACT)


def test_targets_that_do_not_fit(hand):
    sobolev, T = gradreg.SobolevReg(1.0), np.zeros((B, M, D))
    with pytest.raises(InputError, match=r"needs target= of shape \(4, 3, 3\) or a teacher, got nothing"):
        gradreg.penalty(hand.model, hand.x, None, sobolev)
    with pytest.raises(InputError, match=r"shape \(4, 3, 3\) or a teacher, got shape \(4, 3\)"):
        gradreg.penalty(hand.model, hand.x, None, sobolev, target=T[..., 0])
    for call in (gradreg.penalty, gradreg.loss):
        with pytest.raises(InputError, match="target= was given, but no term uses it"):
            call(hand.model, hand.x, hand.y, gradreg.SpectReg(1.0), target=T)
    with pytest.raises(InputError, match="target= was given, but no term uses it"):
        gradreg.loss(hand.model, hand.x, hand.y, None, target=T)
    with pytest.raises(InputError, match="the teacher must map"):
        gradreg.penalty(hand.model, hand.x, None, sobolev, target=Hand(classes=2).model)
    with pytest.raises(InputError, match="a teacher has no places"):
        gradreg.penalty(hand.model, hand.x, None, gradreg.SobolevReg(1.0, at="0"), target=hand.model)


# --- from layer to layer ----------------------------------------------------------------------------------------------
def test_the_jacobian_of_a_layer_with_respect_to_another():
    network = Network((3,), (Dense(4), TANH, Dense(5), TANH, Dense(2)))
    rng = np.random.default_rng(0)
    params = {path: rng.normal(size=value.shape) for path, value in initialize(network, 0).items()}
    model, x = gradreg.Model(network, params), rng.normal(size=(B, 3))
    h = np.tanh(x @ params["0.weight"] + params["0.bias"])
    second = np.tanh(h @ params["2.weight"] + params["2.bias"])

    def value(**places):
        return gradreg.penalty(model, x, None, gradreg.FrobReg(1.0, **places))

    slopes = {
        ("1", "3"): np.mean([square(np.diag(1 - second[i] ** 2) @ params["2.weight"].T) for i in range(B)]),
        (None, "1"): np.mean([square(np.diag(1 - h[i] ** 2) @ params["0.weight"].T) for i in range(B)]),
        ("3", None): square(params["4.weight"]),
    }
    for (at, of), expected in slopes.items():
        assert value(at=at, of=of) == pytest.approx(expected, rel=EXACT)
    r = normals(1, 5)[0]
    drawn = gradreg.penalty(model, x, None, gradreg.SpectReg(1.0, at="1", of="3"))
    rows = [params["2.weight"] @ np.diag(1 - second[i] ** 2) @ r[i] for i in range(B)]
    assert drawn == pytest.approx(np.mean([square(row) for row in rows]), rel=EXACT)
    with pytest.raises(InputError, match="of='1' does not depend on at='3'"):
        value(at="3", of="1")
    with pytest.raises(InputError, match="of='9': the network has no top-level layer of that name"):
        value(of="9")


# --- differences along the gradient -----------------------------------------------------------------------------------
def outputs(n, x):
    return np.tanh(x @ n.U + n.a) @ n.V + n.b


def loss_of(n, x):
    z = outputs(n, x)
    return np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), n.y]


DIFFERENCES = [
    (gradreg.DataGrad(1.0, method="difference"), loss_of, lambda n: [gradient_of_the_loss(n, i) for i in n.samples]),
    (
        gradreg.R1(2.0, method="difference", projection=gradreg.ones(), h=0.5),
        lambda n, x: outputs(n, x).sum(axis=1),
        lambda n: [J.sum(axis=0) for J in n.J],
    ),
]


@pytest.mark.parametrize(("reg", "u", "slopes"), DIFFERENCES, ids=["DataGrad", "R1"])
def test_a_difference_along_the_gradient_and_its_derivative(hand, reg, u, slopes):
    d = np.array([g / length(g) for g in slopes(hand)])

    def value(x):
        return (((u(hand, x + reg.h * d) - u(hand, x)) / reg.h) ** 2).mean()

    assert gradreg.penalty(hand.model, hand.x, hand.y, reg) == pytest.approx(value(hand.x), rel=DIVIDED)
    _, slope = gradreg.gradient(hand.model, hand.x, hand.y, reg)
    for index in np.ndindex(hand.x.shape):
        moved = hand.x.astype(complex)
        moved[index] += 1j * STEP
        assert slope[index] == pytest.approx(np.imag(value(moved)) / STEP, rel=1e-9, abs=1e-11)  # d is a constant


def test_the_bias_of_the_difference_is_proportional_to_h(hand):
    def value(**chosen):
        return gradreg.penalty(hand.model, hand.x, hand.y, gradreg.DataGrad(1.0, squared=False, **chosen))

    errors = [abs(value(method="difference", h=h) - value()) for h in (1e-2, 1e-3)]
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.05)  # the next order is of relative size h
    assert errors[0] < 0.05 * value()


def test_a_critic_has_one_output_or_its_sum_is_asked_for(hand):
    one = Hand(classes=1)
    penalties = [
        gradreg.penalty(
            one.model, one.x, None, gradreg.GradientPenalty(1.0, method="difference", projection=projection)
        )
        for projection in (gradreg.exact(), gradreg.ones())
    ]
    assert penalties[0] == penalties[1] > 0
    with pytest.raises(InputError, match=r"needs one output per sample, got 3; pass projection=ones\(\)"):
        gradreg.penalty(hand.model, hand.x, None, gradreg.R1(1.0, method="difference"))


def test_a_difference_where_samples_are_coupled_or_the_gradient_is_zero():
    model, x, y = coupled_model()
    assert gradreg.penalty(model, x, y, gradreg.DataGrad(1.0, method="difference")) > 0
    flat = Hand()
    silent = flat.model.replaced("0.weight", 0 * flat.U)
    assert gradreg.penalty(silent, flat.x, flat.y, gradreg.DataGrad(1.0, method="difference")) == 0


def test_options_of_the_batch_go_with_a_difference(hand):
    values = [
        gradreg.penalty(hand.model, hand.x[i : i + 1], hand.y[i : i + 1], gradreg.DataGrad(1.0, method="difference"))
        for i in hand.samples
    ]
    w = np.array([1.0, 0.0, 2.0, 0.5])
    reg = gradreg.DataGrad(1.0, method="difference", every=2)
    weighted = gradreg.penalty(hand.model, hand.x, hand.y, reg, step=2, sample_weight=w)
    assert weighted == pytest.approx(2 * (w * values).sum() / w.sum(), rel=DIVIDED)
    half = JacobianPenalty(1.0, projection=gradreg.exact(), output="loss", method="difference", fraction=0.5)
    pairs = {(values[i] + values[j]) / 2 for i in hand.samples for j in hand.samples if i != j}
    drawn = gradreg.penalty(hand.model, hand.x, hand.y, half)
    assert min(abs(drawn - pair) for pair in pairs) < 1e-9
