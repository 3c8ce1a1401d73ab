"""The NumPy oracle: weights of positions, ignored labels, Jacobians with respect to some components."""

import numpy as np
import pytest

import gradreg_numpy as gradreg
from closed_form import EXACT, B, general, normals, sequence, square
from gradreg_core.errors import InputError

WEIGHT = np.array([[0.5, 0.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0], [1.0, 3.0, 0.0, 0.25], [1.0, 1.0, 1.0, 1.0]])[:B]
SAMPLE = np.array([1.0, 2.0, 0.5, 0.0])[:B]
LABELS = np.random.default_rng(5).integers(0, 3, (B, 4))


@pytest.fixture
def scene():
    return sequence()


def mean(values, weight=WEIGHT, sample=None):
    """sum_i s_i sum_p w_ip v_i / sum_i s_i sum_p w_ip."""
    of_sample = weight.sum(axis=1) * (1.0 if sample is None else sample)
    return (of_sample * values).sum() / of_sample.sum()


def softmax(z):
    powers = np.exp(z)
    return powers / powers.sum(axis=-1, keepdims=True)


def share(i):
    return WEIGHT[i] / (WEIGHT[i].sum() or 1.0)


@pytest.mark.parametrize("sample", [None, SAMPLE])
def test_the_loss_is_the_weighted_mean_over_positions_and_samples(scene, sample):
    model, x, z, _ = scene
    f = softmax(z)
    of_position = -np.log(np.take_along_axis(f, LABELS[..., None], -1)[..., 0])
    expected = mean(np.array([share(i) @ of_position[i] for i in range(B)]), sample=sample)
    options = {"position_weight": WEIGHT, "sample_weight": sample, "class_axis": -1}
    _, parts = gradreg.loss(model, x, LABELS, None, **options)
    assert parts.loss == pytest.approx(expected, rel=EXACT)


def test_a_penalty_on_the_loss_has_the_weights_in_its_gradient(scene):
    model, x, z, J = scene
    residual = softmax(z) - np.eye(3)[LABELS]
    slopes = [square(np.einsum("pqd,pq->d", J[i], share(i)[:, None] * residual[i])) for i in range(B)]
    result = gradreg.penalty(model, x, LABELS, gradreg.DataGrad(1.0), position_weight=WEIGHT, class_axis=-1)
    assert result == pytest.approx(mean(np.array(slopes)), rel=EXACT)


def test_positions_of_weight_zero_are_left_out_of_the_jacobian(scene):
    model, x, _, J = scene
    expected = mean(np.array([(J[i][WEIGHT[i] > 0] ** 2).sum() for i in range(B)]))
    options = {"position_weight": WEIGHT, "class_axis": -1}
    assert gradreg.penalty(model, x, None, gradreg.FrobReg(1.0), **options) == pytest.approx(expected, rel=EXACT)
    measured = gradreg.measure(model, x, **options).frobenius
    assert measured == pytest.approx([np.sqrt((J[i][WEIGHT[i] > 0] ** 2).sum()) for i in range(B)], rel=EXACT)


def test_an_unbiased_class_is_drawn_from_those_that_count(scene):
    model, x, _, J = scene
    counted = [J[i][WEIGHT[i] > 0].reshape(-1, 8) for i in range(B)]
    reg = general(gradreg.random_onehot(unbiased=True))
    one = np.zeros(B)
    one[0] = 1.0
    values = {
        round(
            float(
                gradreg.penalty(
                    model, x, None, reg, step=step, sample_weight=one, position_weight=WEIGHT, class_axis=-1
                )
            ),
            9,
        )
        for step in range(200)
    }
    assert values == {round(float(len(counted[0]) * square(row)), 9) for row in counted[0]}


def test_the_entropy_is_weighted(scene):
    model, x, z, _ = scene
    f = softmax(z)
    of_position = (f * np.log(f)).sum(axis=-1)
    expected = mean(np.array([share(i) @ of_position[i] for i in range(B)]))
    result = gradreg.penalty(model, x, None, gradreg.ConfidencePenalty(1.0), position_weight=WEIGHT, class_axis=-1)
    assert result == pytest.approx(expected, rel=EXACT)


@pytest.mark.parametrize("index", [-100, 1, 7])
def test_an_ignored_label_is_a_position_of_weight_zero(scene, index):
    model, x, _, _ = scene
    labels = np.where(WEIGHT > 0.5, LABELS, index)
    weight = np.where(labels == index, 0.0, 1.0)
    reg = gradreg.DataGrad(1.0) + gradreg.FrobReg(1.0) + gradreg.ConfidencePenalty(1.0)
    ignored, _ = gradreg.loss(model, x, labels, reg, ignore_index=index, class_axis=-1)
    kept = np.where(labels == index, 0, labels)
    weighted, _ = gradreg.loss(model, x, kept, reg, position_weight=weight, class_axis=-1)
    assert ignored == pytest.approx(weighted, rel=EXACT)


@pytest.mark.parametrize(
    "reg",
    [
        general(gradreg.gaussian(), side="input"),
        general(gradreg.gaussian(), side="input", method="difference", h=0.5),
        gradreg.FrobReg(1.0),
    ],
    ids=["jvp", "difference", "whole"],
)
def test_the_jacobian_with_respect_to_some_components_is_that_of_a_smaller_input(scene, reg):
    model, x, _, J = scene
    columns = [5, 0, 2]
    if reg.lower().side == "output":
        expected = np.mean([(J[i][..., columns] ** 2).sum() for i in range(B)])
        assert gradreg.penalty(model, x, None, reg, wrt=columns) == pytest.approx(expected, rel=EXACT)
        return
    values = []
    for i in range(B):
        v = normals(1, len(columns))[0, i]
        if reg.method == "difference":
            moved = x[i : i + 1].reshape(1, -1).copy()
            moved[0, columns] += reg.h * v
            values.append(square((model(moved.reshape(1, 4, 2)) - model(x[i : i + 1])).ravel() / reg.h))
        else:
            values.append(square(J[i][..., columns] @ v))
    assert gradreg.penalty(model, x, None, reg, wrt=columns) == pytest.approx(np.mean(values), rel=1e-11)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"position_weight": np.ones((B, 3))}, r"position_weight must be finite numbers >= 0 of shape \(\d, 4\)"),
        ({"position_weight": -WEIGHT}, "position_weight must be finite"),
        ({"ignore_index": 0, "y": None}, "ignore_index needs integer labels"),
        ({"ignore_index": 0, "y": np.ones((B, 4))}, "ignore_index needs integer labels"),
    ],
)
def test_weights_that_do_not_fit_are_refused(scene, options, message):
    model, x, _, _ = scene
    with pytest.raises(InputError, match=message):
        gradreg.penalty(model, x, reg=gradreg.FrobReg(1.0), class_axis=-1, **({"y": LABELS} | options))
