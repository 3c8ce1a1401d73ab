"""Errors of the NumPy oracle, and their messages."""

import numpy as np
import pytest

import gradreg_numpy as gradreg
from closed_form import B, Hand, M, general, sequence
from gradreg_core.errors import GradregError, InputError, InputTypeError, SpecError, UnsupportedError
from gradreg_core.portable.networks import Dense, Flatten, Network
from gradreg_core.spec import Term


class Unheard(Term):
    """A term that is none of the vocabulary's."""


@pytest.fixture
def hand():
    return Hand()


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
        (general(gradreg.direction()), {}, InputError, "no directions were given; pass directions="),
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
        (gradreg.FrobReg(1.0), {"class_axis": 2}, InputError, "class_axis=2 is not an axis of outputs"),
        (gradreg.FrobReg(1.0), {"class_axis": 0}, InputError, "class_axis=0 is not an axis of outputs"),
        (gradreg.FrobReg(1.0), {"sample_weight": np.ones(3)}, InputError, r"sample_weight must be .* of shape \(4,\)"),
        (gradreg.FrobReg(1.0), {"sample_weight": -np.ones(B)}, InputError, "sample_weight must be numbers >= 0"),
        (gradreg.FrobReg(1.0), {"normalizer": 0.0}, InputError, "normalizer must be a finite number above 0, got 0.0"),
        (gradreg.FrobReg(1.0), {"sample_ids": np.ones(B)}, InputError, "sample_ids must be integers of shape"),
        (gradreg.FrobReg(1.0), {"step": -1}, InputError, "step must be an integer of at least 0, got -1"),
        (gradreg.FrobReg(1.0), {"step": 0.5}, InputError, "step must be an integer of at least 0, got 0.5"),
        (gradreg.FrobReg(lambda step: -1.0), {}, SpecError, "must return a finite number of at least 0"),
        ("FrobReg", {}, InputTypeError, "reg must be a regularizer such as SpectReg"),
        (Unheard(1.0), {}, UnsupportedError, "not a term that gradreg_numpy knows"),
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
