"""The NumPy oracle against the formulas of the papers, written out from the closed form of a small network."""

import math

import numpy as np
import pytest

import gradreg_numpy as gradreg
from closed_form import EXACT, B, Hand, M, coupled_model, data_grad, frobenius, general, length, normals, square
from gradreg_core.random import STREAM_DIRECTION, STREAM_START
from gradreg_core.spec import JacobianPenalty
from gradreg_numpy.draws import draws


@pytest.fixture
def hand():
    return Hand()


# --- the presets ------------------------------------------------------------------------------------------------------
def spect_reg(n):
    r = normals(1)[0]
    return n.mean(lambda i: square(n.J[i].T @ r[i]))


def spect_reg_of_three(n):
    r = normals(3, seed=7, step=2)
    return n.mean(lambda i: sum(square(n.J[i].T @ r[k, i]) for k in range(3)) / 3)


def spherical(n):
    r = normals(1)[0]
    return n.mean(lambda i: square(n.J[i].T @ (r[i] / length(r[i]))))


def jac_reg(n):
    return n.mean(lambda i: square((np.diag(n.f[i]) - np.outer(n.f[i], n.f[i])) @ n.J[i]))


def hoffman(n):
    v = normals(2)
    return 0.5 * n.mean(lambda i: M / 2 * sum(square(n.J[i].T @ v[k, i] / length(v[k, i])) for k in range(2)))


def random_onehot(n):
    c = draws(0, 0, np.arange(B)).integers(STREAM_DIRECTION, (0,), M)[0]
    return n.mean(lambda i: square(n.J[i][c[i]]))


def input_fisher(n):
    u = draws(0, 0, np.arange(B)).uniforms(STREAM_DIRECTION, (0,), 1)[0, :, 0]
    c = [min(int(np.searchsorted(np.cumsum(n.f[i]), u[i], side="right")), M - 1) for i in n.samples]
    return n.mean(lambda i: square(n.J[i].T @ (n.f[i] - np.eye(M)[c[i]])))


def spectral(n):
    return n.mean(lambda i: float(np.linalg.svd(n.J[i])[1][0]) ** 2)


def negative_entropy(n):
    return n.mean(lambda i: sum(p * math.log(p) for p in n.f[i]))


PRESETS = [
    (gradreg.DataGrad(1.0), 0, data_grad),
    (gradreg.SpectReg(1.0), 0, spect_reg),
    (gradreg.SpectReg(1.0, projections=3, seed=7), 2, spect_reg_of_three),
    (gradreg.SpectReg(1.0, spherical=True), 0, spherical),
    (gradreg.FrobReg(1.0), 0, frobenius),
    (gradreg.JacReg(1.0), 0, jac_reg),
    (gradreg.HoffmanReg(1.0, projections=2), 0, hoffman),
    (gradreg.HoffmanReg(1.0, projections=None), 0, lambda n: 0.5 * frobenius(n)),
    (gradreg.OneHot(1.0), 0, lambda n: n.mean(lambda i: square(n.J[i][n.y[i]]))),
    (gradreg.RandomOneHot(1.0), 0, random_onehot),
    (gradreg.InputFisher(1.0), 0, input_fisher),
    (gradreg.SpectralNormReg(1.0, iterations=200), 0, spectral),
    (gradreg.ConfidencePenalty(1.0), 0, negative_entropy),
    (gradreg.WeightDecay(1.0), 0, lambda n: 0.5 * (square(n.U) + square(n.V))),
    (gradreg.GradientPenalty(1.0), 0, lambda n: n.mean(lambda i: (length(n.J[i]) - 1) ** 2)),
    (gradreg.R1(1.0), 0, lambda n: 0.5 * frobenius(n)),
]


@pytest.mark.parametrize(("reg", "step", "formula"), PRESETS, ids=[repr(reg) for reg, _, _ in PRESETS])
def test_preset_is_its_papers_formula(hand, reg, step, formula):
    assert gradreg.penalty(hand.model, hand.x, hand.y, reg, step=step) == pytest.approx(formula(hand), rel=EXACT)


def test_critic_penalties_of_one_output():
    n = Hand(classes=1, seed=2)
    lengths = [length(n.J[i]) for i in n.samples]
    assert min(lengths) < 1 < max(lengths)
    for reg, formula in [
        (gradreg.GradientPenalty(10.0), lambda g: 10 * (g - 1) ** 2),
        (gradreg.GradientPenalty(10.0, target=0.5), lambda g: 10 * (g - 0.5) ** 2),
        (gradreg.GradientPenalty(10.0, one_sided=True), lambda g: 10 * max(0.0, g - 1) ** 2),
        (gradreg.R1(10.0), lambda g: 5 * g * g),
    ]:
        expected = sum(map(formula, lengths)) / B
        assert gradreg.penalty(n.model, n.x, None, reg) == pytest.approx(expected, rel=EXACT)


def test_one_logit_is_binary():
    n = Hand(classes=1)
    f = 1 / (1 + np.exp(-n.z[:, 0]))
    J2 = np.array([square(J) for J in n.J])
    y, values = n.y[:, None], {}
    for name, reg in [
        ("loss", gradreg.DataGrad(1.0)),
        ("onehot", gradreg.OneHot(1.0)),
        ("f", gradreg.JacReg(1.0)),
        ("log f", JacobianPenalty(1.0, projection=gradreg.exact(), output="log_probabilities")),
        ("fisher", gradreg.InputFisher(1.0)),
        ("entropy", gradreg.ConfidencePenalty(1.0)),
    ]:
        values[name] = gradreg.penalty(n.model, n.x, y, reg)
        assert gradreg.penalty(n.model, n.x, n.y.astype(float), gradreg.DataGrad(1.0)) == values["loss"]
    u = draws(0, 0, np.arange(B)).uniforms(STREAM_DIRECTION, (0,), 1)[0, :, 0]
    expected = {
        "loss": ((f - n.y) ** 2 * J2).mean(),
        "onehot": J2.mean(),
        "f": ((f * (1 - f)) ** 2 * J2).mean(),
        "log f": ((1 - f) ** 2 * J2).mean(),
        "fisher": ((f - (u < f)) ** 2 * J2).mean(),
        "entropy": (f * np.log(f) + (1 - f) * np.log(1 - f)).mean(),
    }
    assert values == pytest.approx(expected, rel=EXACT)
    bce = -(n.y * np.log(f) + (1 - n.y) * np.log(1 - f)).mean()
    assert gradreg.loss(n.model, n.x, y, None)[0] == pytest.approx(bce, rel=EXACT)


# --- projections, norms, shapes ---------------------------------------------------------------------------------------
def test_orthonormal_directions_are_exact_where_they_fill_the_space(hand):
    full = general(gradreg.orthonormal(M, unbiased=True), seed=3)
    assert gradreg.penalty(hand.model, hand.x, None, full) == pytest.approx(frobenius(hand), rel=EXACT)
    assert gradreg.penalty(hand.model, hand.x, None, general(gradreg.orthonormal(M))) == pytest.approx(
        frobenius(hand) / M, rel=EXACT
    )


def test_orthonormal_directions_are_gram_schmidt_of_the_normals(hand):
    r, rows = normals(2), np.zeros((2, B, M))
    for i in hand.samples:
        rows[0, i] = r[0, i] / length(r[0, i])
        second = r[1, i] - (r[1, i] @ rows[0, i]) * rows[0, i]
        rows[1, i] = second / length(second)
    for model in (hand.model, coupled_model()[0]):  # only where samples are coupled do the signs of the rows matter
        reg = general(gradreg.orthonormal(2), norm="l1", squared=False)
        given = general(gradreg.direction(), norm="l1", squared=False, scale=math.sqrt(0.5))
        value = gradreg.penalty(model, hand.x, None, reg)
        assert value == pytest.approx(gradreg.penalty(model, hand.x, None, given, directions=rows), rel=EXACT)


def test_rademacher_signs(hand):
    s = draws(0, 0, np.arange(B)).signs(STREAM_DIRECTION, range(2), M).astype(np.float64)
    expected = hand.mean(lambda i: sum(square(hand.J[i].T @ s[k, i]) for k in range(2)) / 2)
    assert gradreg.penalty(hand.model, hand.x, None, general(gradreg.rademacher(2))) == pytest.approx(
        expected, rel=EXACT
    )


def test_top_k_is_one_row_of_ones_at_the_largest_logits(hand):
    for k in (1, 2, M):
        best = [np.argsort(-hand.z[i])[:k] for i in hand.samples]
        expected = hand.mean(lambda i, best=best: square(hand.J[i][best[i]].sum(axis=0)))
        assert gradreg.penalty(hand.model, hand.x, None, general(gradreg.top_k(k))) == pytest.approx(
            expected, rel=EXACT
        )


def test_directions_of_the_spec_and_of_the_call(hand):
    v = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
    one = hand.mean(lambda i: square(hand.J[i].T @ v[0]))
    two = hand.mean(lambda i: square(v @ hand.J[i]))
    own = np.random.default_rng(1).normal(size=(2, B, M))
    per_sample = hand.mean(lambda i: square(own[:, i] @ hand.J[i]))

    def value(projection, directions=None):
        return gradreg.penalty(hand.model, hand.x, None, general(projection), directions=directions)

    assert value(gradreg.direction((1.0, -2.0, 0.5))) == pytest.approx(one, rel=EXACT)
    assert value(gradreg.direction(tuple(map(tuple, v)))) == pytest.approx(two, rel=EXACT)
    assert value(gradreg.direction(), v[0]) == pytest.approx(one, rel=EXACT)
    assert value(gradreg.direction(), np.tile(v[0], (B, 1))) == pytest.approx(one, rel=EXACT)
    assert value(gradreg.direction(), own) == pytest.approx(per_sample, rel=EXACT)


@pytest.mark.parametrize("iterations", [1, 2])
def test_top_singular_is_the_power_method_from_its_own_stream(hand, iterations):
    start = normals(1, stream=STREAM_START)[0]
    expected = 0.0
    for i in hand.samples:
        u = start[i] / length(start[i])
        for _ in range(iterations):
            u = hand.J[i] @ (hand.J[i].T @ u)
            u = u / length(u)
        expected += square(hand.J[i].T @ u) / B
    reg = gradreg.SpectralNormReg(1.0, iterations=iterations)
    assert gradreg.penalty(hand.model, hand.x, None, reg) == pytest.approx(expected, rel=EXACT)


def test_outputs_log_probabilities(hand):
    expected = hand.mean(lambda i: square((np.eye(M) - np.ones((M, 1)) * hand.f[i]) @ hand.J[i]))
    reg = general(gradreg.exact(), output="log_probabilities")
    assert gradreg.penalty(hand.model, hand.x, None, reg) == pytest.approx(expected, rel=EXACT)


@pytest.mark.parametrize(
    ("norm", "of"),
    [("l2", lambda G: math.sqrt((G**2).sum())), ("l1", lambda G: np.abs(G).sum()), ("linf", lambda G: np.abs(G).max())],
)
@pytest.mark.parametrize(
    ("shape", "phi"),
    [
        (gradreg.identity(), lambda n: n),
        (gradreg.target(2.5), lambda n: (n - 2.5) ** 2),
        (gradreg.hinge(2.5), lambda n: max(0.0, n - 2.5) ** 2),
    ],
)
@pytest.mark.parametrize("squared", [True, False])
def test_norms_and_shapes(hand, norm, of, shape, phi, squared):
    reg = JacobianPenalty(2.0, projection=gradreg.exact(), norm=norm, squared=squared, phi=shape, scale=0.25)
    norms = [of(J) ** 2 if squared else of(J) for J in hand.J]
    expected = 0.5 * sum(map(phi, norms)) / B
    assert gradreg.penalty(hand.model, hand.x, None, reg) == pytest.approx(expected, rel=EXACT)


def test_random_projections_are_unbiased():
    n, count = Hand(batch=1), 4000
    x = np.repeat(n.x, count, axis=0)
    S = np.diag(n.f[0]) - np.outer(n.f[0], n.f[0])
    J2, trace = square(n.J[0]), float(np.trace(n.J[0].T @ S @ n.J[0]))
    for projection, expected in [
        (gradreg.gaussian(), J2),
        (gradreg.rademacher(), J2),
        (gradreg.sphere(), J2 / M),
        (gradreg.sphere(unbiased=True), J2),
        (gradreg.orthonormal(2), J2 / M),
        (gradreg.random_onehot(), J2 / M),
        (gradreg.random_onehot(2, unbiased=True), J2),
        (gradreg.fisher(), trace),
    ]:
        value = gradreg.penalty(n.model, x, None, general(projection))
        # Five standard errors; no draw here has a standard deviation above 1.5 times its mean (chi^2_1: sqrt 2).
        assert value == pytest.approx(expected, rel=5 * 1.5 / math.sqrt(count)), projection
