"""The NumPy oracle against the papers' formulas, written out here from the closed form of a small network."""

import ast
import math
from pathlib import Path

import numpy as np
import pytest

import gradreg_numpy as gradreg
from gradreg_core.errors import GradregError, InputError, InputTypeError, SpecError, UnsupportedError
from gradreg_core.networks import Activation, BatchNorm, Dense, Dropout, Flatten, LayerNorm, Network, Residual
from gradreg_core.random import STREAM_DIRECTION, STREAM_START, STREAM_SUBSET, threefry2x32
from gradreg_core.spec import JacobianPenalty, Term
from gradreg_numpy import functions
from gradreg_numpy.ops import DrawOps, draws

TANH = Activation("tanh")
EXACT = 1e-13  # relative: the same numbers by sums in another order, some hundred roundings of 1e-16
B, D, M = 4, 3, 3


class Hand:
    """z = tanh(x U + a) V + b with its closed-form Jacobian J_i = V^T diag(1 - h_i^2) U^T, for a batch."""

    def __init__(self, classes: int = M, batch: int = B, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.U, self.a = rng.normal(size=(D, 5)), rng.normal(size=5)
        self.V, self.b = rng.normal(size=(5, classes)), rng.normal(size=classes)
        self.x, self.y = rng.normal(size=(batch, D)), rng.integers(0, max(classes, 2), batch)
        params = {"0.weight": self.U, "0.bias": self.a, "2.weight": self.V, "2.bias": self.b}
        self.model = gradreg.Model(Network((D,), (Dense(5), TANH, Dense(classes))), params)
        h = np.tanh(self.x @ self.U + self.a)
        self.z = h @ self.V + self.b
        self.J = [self.V.T @ np.diag(1 - row**2) @ self.U.T for row in h]
        self.f = [np.exp(row) / np.exp(row).sum() for row in self.z]
        self.e = np.eye(max(classes, 2))[self.y]
        self.samples = range(batch)

    def mean(self, value):
        return sum(value(i) for i in self.samples) / len(self.samples)


def square(v):
    return float((v**2).sum())


def normals(k, m=M, batch=B, *, seed=0, step=0, stream=STREAM_DIRECTION):
    return draws(seed, step, np.arange(batch)).gaussians(stream, range(k), m).astype(np.float64)


def length(v):
    return math.sqrt((v**2).sum())


@pytest.fixture
def hand():
    return Hand()


# --- the presets ------------------------------------------------------------------------------------------------------
def data_grad(n):
    return n.mean(lambda i: square(n.J[i].T @ (n.f[i] - n.e[i])))


def spect_reg(n):
    r = normals(1)[0]
    return n.mean(lambda i: square(n.J[i].T @ r[i]))


def spect_reg_of_three(n):
    r = normals(3, seed=7, step=2)
    return n.mean(lambda i: sum(square(n.J[i].T @ r[k, i]) for k in range(3)) / 3)


def spherical(n):
    r = normals(1)[0]
    return n.mean(lambda i: square(n.J[i].T @ (r[i] / length(r[i]))))


def frobenius(n):
    return n.mean(lambda i: square(n.J[i]))


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
    for reg, each in [
        (gradreg.GradientPenalty(10.0), lambda g: 10 * (g - 1) ** 2),
        (gradreg.GradientPenalty(10.0, target=0.5), lambda g: 10 * (g - 0.5) ** 2),
        (gradreg.GradientPenalty(10.0, one_sided=True), lambda g: 10 * max(0.0, g - 1) ** 2),
        (gradreg.R1(10.0), lambda g: 5 * g * g),
    ]:
        expected = sum(map(each, lengths)) / B
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
def general(projection, **chosen):
    return JacobianPenalty(1.0, projection=projection, **chosen)


def test_orthonormal_directions_are_exact_where_they_fill_the_space(hand):
    full = general(gradreg.orthonormal(M, unbiased=True), seed=3)
    assert gradreg.penalty(hand.model, hand.x, None, full) == pytest.approx(frobenius(hand), rel=EXACT)
    assert gradreg.penalty(hand.model, hand.x, None, general(gradreg.orthonormal(M))) == pytest.approx(
        frobenius(hand) / M, rel=EXACT
    )


def test_orthonormal_directions_are_gram_schmidt_of_the_normals(hand):
    r = normals(2)
    expected = 0.0
    for i in hand.samples:
        first = r[0, i] / length(r[0, i])
        second = r[1, i] - (r[1, i] @ first) * first
        rows = np.stack([first, second / length(second)]) / math.sqrt(2)
        expected += np.abs(rows @ hand.J[i]).sum() / B  # l1 sees each row's own direction, the Frobenius norm does not
    reg = general(gradreg.orthonormal(2), norm="l1", squared=False)
    assert gradreg.penalty(hand.model, hand.x, None, reg) == pytest.approx(expected, rel=EXACT)


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
    reg = JacobianPenalty(2.0, projection=gradreg.exact(), norm=norm, squared=squared, shape=shape, scale=0.25)
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


# --- the mean over samples --------------------------------------------------------------------------------------------
def test_weights_of_samples_and_normalizer(hand):
    each = np.array([square(J) for J in hand.J])
    w = np.array([0.5, 0.0, 2.0, 1.0])
    reg = gradreg.FrobReg(3.0)

    def value(**options):
        return gradreg.penalty(hand.model, hand.x, None, reg, **options)

    assert value(sample_weight=w) == pytest.approx(3 * (w * each).sum() / 3.5, rel=EXACT)
    assert value(sample_weight=w > 0) == pytest.approx(3 * each[[0, 2, 3]].mean(), rel=EXACT)
    assert value(sample_weight=w, normalizer=10) == pytest.approx(0.3 * (w * each).sum(), rel=EXACT)
    assert value(normalizer=10) == pytest.approx(0.3 * each.sum(), rel=EXACT)
    assert value(sample_weight=0 * w) == 0


def test_a_split_batch_gives_the_whole_with_ids_and_normalizer(hand):
    reg = gradreg.SpectReg(1.0, seed=5) + gradreg.InputFisher(0.5)
    whole = gradreg.penalty(hand.model, hand.x, None, reg, step=3)
    halves = [
        gradreg.penalty(hand.model, hand.x[part], None, reg, step=3, sample_ids=np.arange(B)[part], normalizer=B)
        for part in (slice(0, 1), slice(1, B))
    ]
    assert sum(halves) == pytest.approx(whole, rel=EXACT)


def test_draws_depend_on_seed_step_and_ids(hand):
    values = [
        gradreg.penalty(hand.model, hand.x, None, gradreg.SpectReg(1.0, seed=seed), step=step, sample_ids=ids)
        for seed, step, ids in [(0, 0, None), (1, 0, None), (0, 1, None), (0, 0, np.arange(1, B + 1))]
    ]
    assert len(set(values)) == 4


def test_draw_per_batch_shares_the_draw_of_sample_0(hand):
    r = normals(1)[0, 0]
    expected = hand.mean(lambda i: square(hand.J[i].T @ r))
    reg = gradreg.SpectReg(1.0, draw="per_batch")
    value = gradreg.penalty(hand.model, hand.x, None, reg, sample_ids=np.arange(10, 10 + B))
    assert value == pytest.approx(expected, rel=EXACT)


def test_every_charges_n_times_at_each_nth_step(hand):
    value = gradreg.penalty(hand.model, hand.x, hand.y, gradreg.DataGrad(2.0))
    for reg in (gradreg.DataGrad(2.0, every=3), gradreg.DataGrad(lambda step: 2.0, every=3)):
        charged = [gradreg.penalty(hand.model, hand.x, hand.y, reg, step=step) for step in range(4)]
        assert charged == pytest.approx([3 * value, 0, 0, 3 * value], rel=EXACT)


def test_a_schedule_gives_the_weight_of_the_step(hand):
    reg = gradreg.FrobReg(lambda step: 0.5 * step)
    charged = [gradreg.penalty(hand.model, hand.x, None, reg, step=step) for step in range(3)]
    assert charged == pytest.approx([0, 0.5 * frobenius(hand), frobenius(hand)], rel=EXACT)


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.75])
def test_fraction_is_an_estimate_from_the_smallest_draws(hand, fraction):
    words = draws(9, 4, np.arange(B)).words(STREAM_SUBSET, (0,), 1)[0, :, 0]
    part = sorted(range(B), key=lambda i: words[i])[: math.ceil(fraction * B)]
    r, w = normals(1, seed=9, step=4)[0], np.array([1.0, 2.0, 0.5, 0.25])
    expected = B / len(part) * sum(w[i] * square(hand.J[i].T @ r[i]) for i in part) / w.sum()
    reg = gradreg.SpectReg(1.0, fraction=fraction, seed=9)
    value = gradreg.penalty(hand.model, hand.x, None, reg, step=4, sample_weight=w)
    assert value == pytest.approx(expected, rel=EXACT)


def test_fraction_is_unbiased_over_steps(hand):
    reg = gradreg.FrobReg(1.0, fraction=0.25)
    values = [gradreg.penalty(hand.model, hand.x, None, reg, step=step) for step in range(200)]
    # Five standard errors of the mean over the steps.
    assert np.mean(values) == pytest.approx(frobenius(hand), abs=5 * np.std(values) / math.sqrt(200))


def test_fraction_takes_the_parts_labels_and_masks():
    layers = (Dense(4), TANH, Dropout(), Dense(3))
    network = Network((3,), layers)
    rng = np.random.default_rng(3)
    x, y, masks = rng.normal(size=(B, 3)), np.array([0, 1, 2, 1]), {"2": 2.0 * rng.integers(0, 2, (B, 4))}
    params = gradreg.initialize(network, 0)
    part = np.argsort(draws(0, 0, np.arange(B)).words(STREAM_SUBSET, (0,), 1)[0, :, 0])[:2]
    alone = gradreg.Model(network, params, {"2": masks["2"][part]})
    expected = gradreg.penalty(alone, x[part], y[part], gradreg.DataGrad(1.0))
    value = gradreg.penalty(gradreg.Model(network, params, masks), x, y, gradreg.DataGrad(1.0, fraction=0.5))
    assert value == pytest.approx(expected, rel=EXACT)


# --- outputs with positions -------------------------------------------------------------------------------------------
def sequence(seed=0):
    """z[i, p, q] = tanh(x[i, p] . U[:, q]), two axes of outputs after the batch; J[i][p, q] over x flattened."""
    rng = np.random.default_rng(seed)
    U, x = rng.normal(size=(2, 3)), rng.normal(size=(B, 4, 2))
    model = gradreg.Model(Network((4, 2), (Dense(3, bias=False), TANH)), {"0.weight": U})
    z = np.tanh(x @ U)
    J = np.zeros((B, 4, 3, 4, 2))
    for i, p, q in np.ndindex(B, 4, 3):
        J[i, p, q, p] = (1 - z[i, p, q] ** 2) * U[:, q]
    return model, x, z, J.reshape(B, 4, 3, 8)


@pytest.mark.parametrize("class_axis", [-1, 2, 1, -2])
def test_positions_and_classes(class_axis):
    model, x, z, J = sequence()
    if class_axis in (1, -2):
        z, J = np.swapaxes(z, 1, 2), np.swapaxes(J, 1, 2)
    _, P, C = z.shape
    y = np.random.default_rng(1).integers(0, C, (B, P))
    f = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    r = normals(1, P * C)[0].reshape(B, P, C)
    u = draws(0, 0, np.arange(B)).uniforms(STREAM_DIRECTION, (0,), P)[0]
    sums = dict.fromkeys(("loss", "data", "entropy", "f", "fisher", "onehot", "top_k", "gaussian"), 0.0)
    for i in range(B):
        data, fisher, onehot, top, gaussian = np.zeros((5, 8))
        for p in range(P):
            c = min(int(np.searchsorted(np.cumsum(f[i, p]), u[i, p], side="right")), C - 1)
            e = np.eye(C)[y[i, p]]
            data += (f[i, p] - e) @ J[i, p] / P
            fisher += (f[i, p] - np.eye(C)[c]) @ J[i, p] / P
            onehot += J[i, p, y[i, p]]
            top += J[i, p, np.argmax(z[i, p])]
            gaussian += r[i, p] @ J[i, p]
            sums["loss"] += -math.log(f[i, p, y[i, p]]) / P / B
            sums["entropy"] += sum(q * math.log(q) for q in f[i, p]) / P / B
            sums["f"] += square((np.diag(f[i, p]) - np.outer(f[i, p], f[i, p])) @ J[i, p]) / B
        for name, row in [
            ("data", data),
            ("fisher", fisher),
            ("onehot", onehot),
            ("top_k", top),
            ("gaussian", gaussian),
        ]:
            sums[name] += square(row) / B
    reg = (
        gradreg.DataGrad(1.0)
        + gradreg.ConfidencePenalty(1.0)
        + gradreg.JacReg(1.0)
        + gradreg.InputFisher(1.0)
        + gradreg.OneHot(1.0)
        + general(gradreg.top_k(1))
        + gradreg.SpectReg(1.0)
    )
    _, parts = gradreg.loss(model, x, y, reg, class_axis=class_axis)
    assert [parts.loss, *parts.penalty] == pytest.approx(list(sums.values()), rel=EXACT)
    soft = np.moveaxis(np.eye(C)[y], -1, class_axis)
    softly = gradreg.loss(model, x, soft, gradreg.DataGrad(1.0), class_axis=class_axis)[1]
    assert [softly.loss, *softly.penalty] == pytest.approx([sums["loss"], sums["data"]], rel=EXACT)


def test_directions_of_the_call_in_the_outputs_own_axes():
    model, x, _, J = sequence()
    v = np.random.default_rng(2).normal(size=(B, 4, 3))
    expected = sum(square(np.einsum("pq,pqd->d", v[i], J[i])) for i in range(B)) / B
    for class_axis in (None, 1, 2):
        value = gradreg.penalty(model, x, None, general(gradreg.direction()), directions=v, class_axis=class_axis)
        assert value == pytest.approx(expected, rel=EXACT)


def test_outputs_of_unknown_classes_are_one_vector():
    model, x, _, J = sequence()
    r = normals(1, 12)[0].reshape(B, 4, 3)
    expected = sum(square(np.einsum("pq,pqd->d", r[i], J[i])) for i in range(B)) / B
    assert gradreg.penalty(model, x, None, gradreg.SpectReg(1.0)) == pytest.approx(expected, rel=EXACT)
    value = gradreg.penalty(model, x, None, gradreg.FrobReg(1.0))
    assert value == pytest.approx((J**2).sum() / B, rel=EXACT)


# --- hidden activations, coupled samples ------------------------------------------------------------------------------
def test_penalty_at_a_hidden_activation(hand):
    value = gradreg.penalty(hand.model, hand.x, None, gradreg.FrobReg(1.0, at="1"))
    assert value == pytest.approx(square(hand.V), rel=EXACT)


def coupled_model(seed=0):
    network = Network((3,), (Dense(4), TANH, BatchNorm(training=True), Dense(3)))
    rng = np.random.default_rng(seed)
    return gradreg.Model(network, gradreg.initialize(network, seed)), rng.normal(size=(B, 3)), rng.integers(0, 3, B)


def test_coupled_samples_are_differentiated_together():
    model, x, _ = coupled_model()
    r = normals(1, 3)[0]
    gradient = np.zeros_like(x)  # of sum_j <z_j, r_j>, by central differences
    for index in np.ndindex(x.shape):
        ahead, behind = x.copy(), x.copy()
        ahead[index] += 1e-6
        behind[index] -= 1e-6
        gradient[index] = ((model(ahead) - model(behind)) * r).sum() / 2e-6
    value = gradreg.penalty(model, x, None, gradreg.SpectReg(1.0))
    assert value == pytest.approx(square(gradient) / B, rel=1e-8)  # roundoff 1e-16 over the step 1e-6, times a few
    _, J = gradreg.full_jacobian(model.network, model.params, x)
    own = sum(square(J[i, :, i].T @ r[i]) for i in range(B)) / B
    assert abs(value - own) > 0.01 * value


def test_coupled_samples_and_fraction_call_the_model_on_the_part_and_on_the_rest():
    model, x, y = coupled_model()
    words = draws(0, 0, np.arange(B)).words(STREAM_SUBSET, (0,), 1)[0, :, 0]
    order = np.argsort(words)
    part, rest = order[:2], order[2:]
    z = np.zeros((B, 3))
    z[part], z[rest] = model(x[part]), model(x[rest])
    reg = gradreg.FrobReg(1.0, fraction=0.5)
    _, parts = gradreg.loss(model, x, y, reg)
    np.testing.assert_array_equal(parts.outputs, z)
    assert parts.penalty[0] == pytest.approx(gradreg.penalty(model, x[part], None, gradreg.FrobReg(1.0)), rel=EXACT)
    np.testing.assert_array_equal(gradreg.loss(model, x, y, reg + gradreg.FrobReg(1.0))[1].outputs, model(x))
    np.testing.assert_array_equal(gradreg.loss(model, x, y, gradreg.FrobReg(1.0))[1].outputs, model(x))


# --- loss, measure, gradient ------------------------------------------------------------------------------------------
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
    each = [square(hand.J[i].T @ (f[i] - soft[i])) for i in hand.samples]
    assert parts.penalty[0] == pytest.approx((w * each).sum() / 6, rel=EXACT)


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
    JacobianPenalty(1.0, projection=gradreg.exact(), norm="linf", shape=gradreg.hinge(0.1)),
    JacobianPenalty(1.0, projection=gradreg.orthonormal(2), shape=gradreg.target(3.0)),
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

    largest = max(np.abs(each).max() for each in (*weights.values(), inputs))
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


# --- draws and independence -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((-1, -1), (-1, -1), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_over_numpy_gives_the_known_answers_of_random123(key, counter, expected):
    def words(values):
        return tuple(np.array([value], dtype=np.int64).astype(np.int32) for value in values)

    got = threefry2x32(DrawOps(), words(key), words(counter))
    assert tuple(int(word[0]) % 2**32 for word in got) == expected


def test_the_oracle_shares_nothing_with_the_engine():
    values = {"identity", "hinge", "target", "Shape"}
    for name in ("__init__", "directions", "frontend", "functions", "layers", "networks", "ops", "oracle", "outputs"):
        source = (Path(functions.__file__).parent / f"{name}.py").read_text()
        for node in ast.walk(ast.parse(source)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                assert module not in ("gradreg_core.engine", "gradreg_core.frontend", "gradreg_core.labels"), name
                assert module.split(".")[0] not in ("torch", "jax", "tensorflow", "scipy"), name
                if module == "gradreg_core.norms":
                    assert {alias.name for alias in node.names} <= values, name
            called = node.func if isinstance(node, ast.Call) else None
            assert not (isinstance(called, ast.Attribute) and called.attr == "directions"), name


# --- errors -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (None, InputError, "needs labels, but y is None"),
        (np.array([0, 1, 2, 3]), InputError, r"labels must lie in 0\.\.2, got values from 0 to 3"),
        (np.array([0, 1, -1, 2]), InputError, r"labels must lie in 0\.\.2, got values from -1 to 2"),
        (np.array([0, 1, 2]), InputError, r"expected labels for 4 samples, got y of shape \(3,\)"),
        (np.zeros((4, 1), dtype=int), InputError, r"expected integer class labels of shape \(4,\)"),
        (np.zeros(4), InputError, r"expected soft labels of shape \(4, 3\) for outputs of shape \(4, 3\), got \(4,\)"),
        (np.full((4, 3), 0.5), InputError, r"soft labels must sum to 1 over the classes, got sums such as 1\.5"),
        (np.array([[2.0, -1.0, 0.0]] * 4), InputError, r"soft labels must be probabilities, got -1\.0 to 2\.0"),
        (np.full((4, 3), np.nan), InputError, "soft labels must be probabilities"),
        (np.array(["a"] * 4), InputTypeError, "labels must be integers or probabilities, got dtype <U1"),
        ([[1], [2, 3], [1], [1]], InputTypeError, "y must be an array of labels, got list"),
    ],
)
def test_labels_that_do_not_fit_are_refused(hand, y, error, message):
    with pytest.raises(error, match=message):
        gradreg.penalty(hand.model, hand.x, y, gradreg.DataGrad(1.0))


def test_labels_of_one_logit_are_zero_or_one_or_between():
    n = Hand(classes=1)
    with pytest.raises(InputError, match=r"labels must lie in 0\.\.1, got values from 2 to 2"):
        gradreg.penalty(n.model, n.x, np.full(B, 2), gradreg.DataGrad(1.0))
    with pytest.raises(InputError, match=r"soft labels must be probabilities, got 1\.5 to 1\.5"):
        gradreg.penalty(n.model, n.x, np.full(B, 1.5), gradreg.DataGrad(1.0))


@pytest.mark.parametrize(
    ("reg", "options", "error", "message"),
    [
        (general(gradreg.onehot()), {"y": np.full((B, M), 1 / 3)}, InputError, "onehot.. needs integer class labels"),
        (general(gradreg.top_k(4)), {}, InputError, "the output has only 3 classes"),
        (general(gradreg.orthonormal(4)), {}, InputError, "only 3 orthonormal directions"),
        (general(gradreg.direction()), {}, InputError, "no directions came; pass directions="),
        (general(gradreg.direction((1.0, 2.0))), {}, InputError, "v has 2 components, but the model has 3 outputs"),
        (
            general(gradreg.direction()),
            {"directions": np.ones((3, 2))},
            InputError,
            r"directions= must have shape \(3,\)",
        ),
        (
            general(gradreg.direction(), fraction=0.5),
            {"directions": np.ones(3)},
            InputError,
            "directions= in the call and fraction < 1 do not go together",
        ),
        (gradreg.FrobReg(1.0, at="7"), {}, InputError, "at='7': the network has no top-level layer of that name"),
        (gradreg.FrobReg(1.0), {"class_axis": 2}, InputError, "class_axis=2 is no axis of outputs"),
        (gradreg.FrobReg(1.0), {"class_axis": 0}, InputError, "class_axis=0 is no axis of outputs"),
        (gradreg.FrobReg(1.0), {"sample_weight": np.ones(3)}, InputError, r"sample_weight must be .* of shape \(4,\)"),
        (gradreg.FrobReg(1.0), {"sample_weight": -np.ones(B)}, InputError, "sample_weight must be numbers >= 0"),
        (gradreg.FrobReg(1.0), {"normalizer": 0.0}, InputError, "normalizer must be a finite number above 0, got 0.0"),
        (gradreg.FrobReg(1.0), {"sample_ids": np.ones(B)}, InputError, "sample_ids must be integers of shape"),
        (gradreg.FrobReg(1.0), {"step": -1}, InputError, "step must be an integer of at least 0, got -1"),
        (gradreg.FrobReg(1.0), {"step": 0.5}, InputError, "step must be an integer of at least 0, got 0.5"),
        (gradreg.FrobReg(lambda step: -1.0), {}, SpecError, "must return a finite number of at least 0"),
        ("FrobReg", {}, InputTypeError, "reg must be a regularizer such as SpectReg"),
        (Term(1.0), {}, UnsupportedError, "no term that gradreg_numpy knows"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(hand, reg, options, error, message):
    y = options.pop("y", None)
    with pytest.raises(error, match=message) as caught:
        gradreg.penalty(hand.model, hand.x, y, reg, **options)
    assert isinstance(caught.value, GradregError)


@pytest.mark.parametrize(
    "reg",
    [
        gradreg.DataGrad(1.0),
        gradreg.JacReg(1.0),
        gradreg.OneHot(1.0),
        gradreg.InputFisher(1.0),
        general(gradreg.top_k(1)),
        gradreg.ConfidencePenalty(1.0),
    ],
    ids=repr,
)
def test_what_needs_classes_refuses_outputs_of_many_axes_without_a_class_axis(reg):
    model, x, _, _ = sequence()
    with pytest.raises(InputError, match=r"needs to know which axis of the outputs .* pass class_axis="):
        gradreg.penalty(model, x, np.zeros((B, 4), dtype=int), reg)


def test_what_is_no_portable_network_is_refused(hand):
    for call in (gradreg.loss, gradreg.penalty, gradreg.gradient):
        with pytest.raises(InputTypeError, match="portable networks only; pass a Model"):
            call(lambda x: x, hand.x, hand.y, gradreg.FrobReg(1.0))


def test_gradient_refuses_other_values_and_complex_arguments(hand):
    with pytest.raises(InputError, match="of must be 'penalty' or 'total', got 'loss'"):
        gradreg.gradient(hand.model, hand.x, hand.y, gradreg.FrobReg(1.0), of="loss")
    with pytest.raises(InputError, match="must be real"):
        gradreg.gradient(hand.model, hand.x + 0j, hand.y, gradreg.FrobReg(1.0))
    with pytest.raises(InputTypeError, match="must be real"):
        gradreg.measure(hand.model, hand.x + 0j)


def test_a_flattening_network_and_a_float32_input_are_taken_in_float64():
    network = Network((2, 2), (Flatten(), Dense(2)))
    model = gradreg.Model(network, gradreg.initialize(network, 0))
    x = np.ones((1, 2, 2), dtype=np.float32)
    assert gradreg.penalty(model, x, None, gradreg.FrobReg(1.0)).dtype == np.float64
