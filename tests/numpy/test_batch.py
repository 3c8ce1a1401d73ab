"""The NumPy oracle: means over samples, parts of a batch, positions, hidden activations, coupled samples."""

import math

import numpy as np
import pytest

import gradreg_numpy as gradreg
from closed_form import EXACT, TANH, B, Hand, coupled_model, frobenius, general, normals, sequence, square
from gradreg_core.portable.networks import Dense, Dropout, Network
from gradreg_core.random import STREAM_DIRECTION, STREAM_SUBSET
from gradreg_numpy.draws import draws


@pytest.fixture
def hand():
    return Hand()


# --- the mean over samples --------------------------------------------------------------------------------------------
def test_weights_of_samples_and_normalizer(hand):
    squares = np.array([square(J) for J in hand.J])
    w = np.array([0.5, 0.0, 2.0, 1.0])
    reg = gradreg.FrobReg(3.0)

    def value(**options):
        return gradreg.penalty(hand.model, hand.x, None, reg, **options)

    assert value(sample_weight=w) == pytest.approx(3 * (w * squares).sum() / 3.5, rel=EXACT)
    assert value(sample_weight=w > 0) == pytest.approx(3 * squares[[0, 2, 3]].mean(), rel=EXACT)
    assert value(sample_weight=w, normalizer=10) == pytest.approx(0.3 * (w * squares).sum(), rel=EXACT)
    assert value(normalizer=10) == pytest.approx(0.3 * squares.sum(), rel=EXACT)
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
