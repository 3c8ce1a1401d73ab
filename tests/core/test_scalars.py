"""Numbers and arrays of any type, as people pass them: right, refused by name, or NaN where nobody can look."""

import math
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch

import gradreg_jax
import gradreg_tensorflow
import gradreg_torch
from gradreg_core.errors import GradregError, InputError, InputTypeError, SpecError
from gradreg_core.norms import NORMS, hinge, target
from gradreg_core.numerals import real
from gradreg_core.presets import DataGrad, FrobReg, GradientPenalty, SpectReg, WeightDecay
from gradreg_core.projections import direction, exact, orthonormal, sphere, top_singular
from gradreg_core.spec import JacobianPenalty

RNG = np.random.default_rng(0)
X, MATRIX = RNG.normal(size=(4, 3)).astype(np.float32), RNG.normal(size=(3, 2)).astype(np.float32)
Y = np.array([0, 1, 1, 0], np.int32)
FRAMEWORKS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "torch": (gradreg_torch, torch.tensor),
    "jax": (gradreg_jax, jnp.asarray),
    "tensorflow": (gradreg_tensorflow, tf.constant),
}
TRACED: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "torch": lambda function: torch.compile(function, fullgraph=True, backend="eager"),
    "jax": jax.jit,
    "tensorflow": lambda function: tf.function(function, autograph=False),
}
Pair = namedtuple("Pair", "first second")
frameworks = pytest.mark.parametrize("framework", FRAMEWORKS)


@pytest.fixture(params=FRAMEWORKS)
def setting(request: pytest.FixtureRequest) -> tuple[str, Any, Any, Callable[[Any], Any], Callable[[Any], Any]]:
    """(name, calls, x, model, array)."""
    calls, array = FRAMEWORKS[request.param]
    matrix = array(MATRIX)
    return request.param, calls, array(X), lambda x: x @ matrix, array


def number(value: Any) -> float:
    return float(value.detach() if isinstance(value, torch.Tensor) else value)


# --- weights ---------------------------------------------------------------------------------------------------------
NUMBERS = [
    2, 2.0, np.float32(2), np.float64(2), np.int64(2), np.uint8(2), np.array(2.0), np.array(2), Fraction(2), Decimal(2),
]  # fmt: skip
NEGATIVE = [
    -1,
    -1.0,
    np.float32(-1),
    np.int64(-1),
    np.array(-1.0),
    Fraction(-1),
    math.nan,
    np.float32("nan"),
    math.inf,
    10**400,
]
NO_NUMBERS = [
    "2",
    None,
    [2.0],
    (2.0,),
    {},
    2j,
    np.complex64(2),
    True,
    np.bool_(True),
    np.timedelta64(2),
    np.array([2.0, 2.0]),
]


@pytest.mark.parametrize("value", NUMBERS, ids=repr)
def test_a_schedule_returns_a_number_of_any_type(value: Any, setting: Any) -> None:
    _, calls, x, model, _ = setting
    wanted = number(calls.penalty(model, x, None, FrobReg(2.0)))
    assert number(calls.penalty(model, x, None, FrobReg(lambda step: value), step=0)) == wanted
    assert real(value) == 2.0


@pytest.mark.parametrize("value", [*NEGATIVE, *NO_NUMBERS], ids=repr)
def test_a_schedule_that_returns_no_weight_is_refused(value: Any, setting: Any) -> None:
    _, calls, x, model, _ = setting
    with pytest.raises(SpecError, match=r"FrobReg: the weight schedule must return a finite number of at least 0, got"):
        calls.penalty(model, x, None, FrobReg(lambda step: value), step=0)


def test_a_schedule_that_returns_an_array_of_the_framework(setting: Any) -> None:
    name, calls, x, model, array = setting
    wanted = number(calls.penalty(model, x, None, FrobReg(2.0)))
    assert number(calls.penalty(model, x, None, FrobReg(lambda step: array(np.float32(2))), step=0)) == wanted
    for wrong in (np.float32(-1), np.float32("nan"), np.float32("inf")):
        with pytest.raises(GradregError, match=r"weight schedule .*must return a finite"):
            calls.penalty(model, x, None, FrobReg(lambda step, wrong=wrong: array(wrong)), step=0)
        traced = TRACED[name](lambda x, weight: calls.penalty(model, x, None, FrobReg(lambda step: weight), step=0))
        if name != "torch":  # a regularizer cannot be made inside of torch.compile
            assert math.isnan(number(traced(x, array(wrong))))


# --- normalizers and weights of samples ------------------------------------------------------------------------------
@pytest.mark.parametrize("value", NUMBERS, ids=repr)
def test_a_normalizer_of_any_type(value: Any, setting: Any) -> None:
    _, calls, x, model, array = setting
    wanted = number(calls.penalty(model, x, None, FrobReg(1.0), normalizer=2.0))
    assert number(calls.penalty(model, x, None, FrobReg(1.0), normalizer=value)) == wanted
    for dtype in (np.int32, np.float32):
        assert number(calls.penalty(model, x, None, FrobReg(1.0), normalizer=array(dtype(2)))) == wanted


@pytest.mark.parametrize("value", [0, *NEGATIVE, *NO_NUMBERS[:1], *NO_NUMBERS[2:]], ids=repr)
def test_what_is_no_normalizer_is_refused(value: Any, setting: Any) -> None:
    _, calls, x, model, array = setting
    with pytest.raises((InputError, InputTypeError), match=r"penalty: normalizer must be a"):
        calls.penalty(model, x, None, FrobReg(1.0), normalizer=value)
    with pytest.raises(InputError, match="normalizer must be a finite number above 0"):
        calls.penalty(model, x, None, FrobReg(1.0), normalizer=array(np.float32(-6)))


def slope(name: str, function: Callable[[Any], Any], at: float) -> float:
    """The derivative of an eager function of a scalar."""
    if name == "torch":
        point = torch.tensor(at, requires_grad=True)
        return float(torch.autograd.grad(function(point), point)[0])
    if name == "jax":
        return float(jax.grad(function)(at))
    variable = tf.Variable(at)
    with tf.GradientTape() as tape:
        value = function(variable)
    return float(tape.gradient(value, variable))


def test_gradients_flow_through_a_normalizer_and_through_what_a_schedule_returns(setting: Any) -> None:
    name, calls, x, model, _ = setting
    penalty = 4.0 * number(calls.penalty(model, x, None, FrobReg(1.0)))  # the sum over the batch
    value = slope(name, lambda size: calls.penalty(model, x, None, FrobReg(1.0), normalizer=size), 2.0)
    assert abs(value + penalty / 4.0) < 1e-5 * penalty  # single precision
    value = slope(name, lambda weight: calls.penalty(model, x, None, FrobReg(lambda step: weight), step=0), 2.0)
    assert abs(value - penalty / 4.0) < 1e-5 * penalty


@pytest.mark.parametrize(
    "weight", [torch.tensor(2.0, requires_grad=True), torch.nn.Parameter(torch.tensor(2.0)), tf.Variable(2.0)], ids=repr
)
def test_a_weight_with_a_gradient_is_refused(weight: Any) -> None:
    with pytest.raises(
        SpecError, match=r"(?s)FrobReg: weight must be .*without its gradient. Give `lambda step: weight`"
    ):
        FrobReg(weight)


@pytest.mark.parametrize("other", FRAMEWORKS)
@pytest.mark.parametrize("given", [2, 2.0, -2.0, True])
def test_a_schedule_that_returns_another_frameworks_array_is_refused(other: str, given: Any, setting: Any) -> None:
    name, calls, x, model, _ = setting
    if other == name:
        return
    weight = FRAMEWORKS[other][1](given)
    with pytest.raises(
        InputTypeError, match=rf"schedule of FrobReg must return .* the {name} backend.* float\(weight\)"
    ):
        calls.penalty(model, x, None, FrobReg(lambda step: weight), step=0)


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_wrong_weights_of_samples_are_refused_and_nan_where_nobody_can_look(weight: float, setting: Any) -> None:
    name, calls, x, model, array = setting
    weights = np.array([1.0, weight, 1.0, 1.0], np.float32)
    with pytest.raises(InputError, match="sample_weight must be finite and at least 0 everywhere"):
        calls.penalty(model, x, None, FrobReg(1.0), sample_weight=weights)
    reg = FrobReg(1.0)
    traced = TRACED[name](lambda x, weights: calls.penalty(model, x, None, reg, sample_weight=weights))
    assert math.isnan(number(traced(x, array(weights))))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("sample_weight", object()), ("sample_weight", {"a": 1}), ("sample_weight", "text"),
        ("sample_weight", np.ones(4, np.complex64)), ("sample_ids", object()), ("sample_ids", "ids"),
        ("position_weight", object()), ("class_axis", "1"), ("class_axis", 1.0), ("chunk_size", "2"),
        ("ignore_index", "x"), ("directions", object()),
    ],
)  # fmt: skip
def test_options_that_cannot_be_converted_are_refused_by_name(option: str, value: Any, setting: Any) -> None:
    _, calls, x, model, _ = setting
    reg = JacobianPenalty(1.0, projection=direction() if option == "directions" else sphere())
    with pytest.raises((InputError, InputTypeError), match=option):
        calls.penalty(model, x, None, reg, **{option: value})


@pytest.mark.parametrize("value", ["3", 1.5, True, 0, -1])
def test_the_number_of_directions_of_measure(value: Any, setting: Any) -> None:
    _, calls, x, model, _ = setting
    with pytest.raises((InputError, InputTypeError), match="measure: projections must be an integer of at least 1"):
        calls.measure(model, x, projections=value)


# --- labels ----------------------------------------------------------------------------------------------------------
def test_labels_beyond_32_bits_are_no_small_ones(setting: Any) -> None:
    name, calls, x, model, array = setting
    labels = Y.astype(np.int64) + 2**32
    with pytest.raises(InputError, match="labels must lie in"):
        calls.loss(model, x, labels, None)
    if name != "jax":  # which has no 64 bits unless they are turned on
        traced = TRACED[name](lambda x, y: calls.loss(model, x, y, None)[0])
        assert math.isnan(number(traced(x, array(labels))))


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64, np.int64])
def test_sample_ids_beyond_32_bits_are_nan_where_nobody_can_look(dtype: Any, setting: Any) -> None:
    name, calls, x, model, array = setting
    if name == "jax" and dtype is not np.uint32:
        pytest.skip("JAX has no 64 bits unless they are turned on")
    ids, reg = np.arange(4).astype(dtype), SpectReg(1.0)
    traced = TRACED[name](lambda x, ids: calls.penalty(model, x, None, reg, sample_ids=ids))
    assert abs(number(traced(x, array(ids))) / number(calls.penalty(model, x, None, reg, sample_ids=ids)) - 1) < 1e-5
    wide = ids + dtype(2**31)
    assert math.isnan(number(traced(x, array(wide))))
    for given in (wide, array(wide)):
        with pytest.raises(InputError, match=r"sample_ids must lie in"):
            calls.penalty(model, x, None, reg, sample_ids=given)


def test_small_integer_types_of_labels_do_not_wrap(setting: Any) -> None:
    """300 classes and labels of 8 bits: class 256 is not class 0."""
    _, calls, _, _, array = setting
    logits = RNG.normal(size=(4, 300)).astype(np.float32)
    wanted = number(calls.loss(lambda x: x, array(logits), Y, DataGrad(1.0))[0])
    assert number(calls.loss(lambda x: x, array(logits), Y.astype(np.uint8), DataGrad(1.0))[0]) == wanted


def test_soft_labels_that_are_no_distribution_are_nan_where_nobody_can_look(setting: Any) -> None:
    name, calls, x, model, array = setting
    wrong = np.array([[1.0, 1.0], [0.5, 0.5], [1.0, 0.0], [-0.5, 1.5]], np.float32)
    with pytest.raises(InputError, match="soft labels must be"):
        calls.loss(model, x, wrong, None)
    traced = TRACED[name](lambda x, y: calls.loss(model, x, y, None)[0])
    assert math.isnan(number(traced(x, array(wrong))))
    assert math.isfinite(number(traced(x, array(np.abs(wrong) / np.abs(wrong).sum(1, keepdims=True)))))


# --- losses ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "losses",
    [
        np.ones(4, np.int32), np.ones(4, bool), np.ones(4, np.complex64), np.zeros((4, 0), np.float32),
        np.zeros(0, np.float32), np.float32(1), 1.0, None,
    ],
    ids=repr,
)  # fmt: skip
def test_a_loss_without_a_number_and_a_gradient_for_each_sample_is_refused(losses: Any, setting: Any) -> None:
    _, calls, x, model, array = setting
    returned = array(losses) if hasattr(losses, "dtype") else losses
    for reg in (None, SpectReg(1.0)):
        with pytest.raises(InputError, match=r"loss: loss_fn must return (one loss|floating-point losses)"):
            calls.loss(model, x, Y, reg, loss_fn=lambda outputs, labels: returned)


# --- norms -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("reg", [
    GradientPenalty(1.0),
    *(JacobianPenalty(1.0, projection=exact(), norm=norm) for norm in NORMS),
    *(JacobianPenalty(1.0, projection=exact(), norm=norm, squared=False) for norm in NORMS),
    JacobianPenalty(1.0, projection=exact(), phi=hinge(1.0)),
    JacobianPenalty(1.0, projection=exact(), phi=target(1.0)),
    JacobianPenalty(1.0, projection=orthonormal(2)),
    JacobianPenalty(1.0, projection=top_singular(3)),
], ids=repr)  # fmt: skip
def test_a_jacobian_that_is_nan_stays_nan(reg: Any, setting: Any) -> None:
    name, calls, _, _, array = setting
    sqrt = {"torch": torch.sqrt, "jax": jnp.sqrt, "tensorflow": tf.sqrt}[name]
    x = array(np.array([[1.0, 2.0], [0.0, 1.0]], np.float32))
    value = number(calls.penalty(lambda x: sqrt(x * x), x, None, reg))
    assert math.isnan(value)


@pytest.mark.slow
def test_measures_of_a_jacobian_that_is_not_finite(setting: Any) -> None:
    name, calls, x, _, array = setting
    sqrt = {"torch": torch.sqrt, "jax": jnp.sqrt, "tensorflow": tf.sqrt}[name]
    point = array(np.array([[1.0, 2.0], [0.0, 1.0]], np.float32))
    for projections in (None, 2):
        measures = calls.measure(lambda x: sqrt(x * x), point, projections=projections)
        for norm in (measures.frobenius, measures.spectral):
            values = np.asarray(norm)
            assert math.isnan(values[1])
            assert abs(values[0] - (math.sqrt(2) if norm is measures.frobenius else 1.0)) < 1e-3
        large = calls.measure(lambda x: 1e20 * x, x, projections=projections)
        for norm in (large.frobenius, large.spectral):
            assert not np.isfinite(np.asarray(norm)).any()


# --- parameters ------------------------------------------------------------------------------------------------------
def test_an_iterator_of_parameters_serves_every_term_and_every_call() -> None:
    model, x = torch.nn.Linear(3, 2), torch.tensor(X)
    reg = WeightDecay(0.1) + WeightDecay(0.2)
    wanted = gradreg_torch.loss(model, x, torch.tensor(Y), reg)[1].penalty
    parts = gradreg_torch.loss(lambda x: model(x), x, torch.tensor(Y), reg, params=model.parameters())[1]
    assert [number(value) for value in parts.penalty] == [number(value) for value in wanted]
    criterion = gradreg_torch.Criterion(reg=WeightDecay(0.1), params=model.parameters())
    values = [number(criterion(lambda x: model(x), x, torch.tensor(Y))[1].penalty[0]) for _ in range(3)]
    assert values == [number(wanted[0])] * 3


ITERATORS: list[Callable[[Any], Any]] = [
    lambda leaves: iter(leaves),
    lambda leaves: {"a": iter(leaves)},
    lambda leaves: [iter(leaves)],
    lambda leaves: OrderedDict(a={"b": (leaf for leaf in leaves)}),
    lambda leaves: Pair((leaf for leaf in leaves), []),
]


@pytest.mark.parametrize("given", range(len(ITERATORS)))
def test_iterators_of_parameters_are_read_once_at_any_depth(given: int, setting: Any) -> None:
    _, calls, x, model, array = setting
    leaves = [array(MATRIX), array(X)]
    wanted = 0.5 * (0.1 + 0.2) * float((MATRIX**2).sum() + (X**2).sum())
    params = ITERATORS[given](leaves)
    value = number(calls.penalty(model, x, None, WeightDecay(0.1) + WeightDecay(0.2), params=params))
    assert abs(value - wanted) < 1e-5 * wanted  # single precision


@pytest.mark.parametrize("params", ["a", b"a", object(), [object()], {"w": "text"}])
def test_parameters_that_are_no_arrays_are_refused(params: Any, setting: Any) -> None:
    _, calls, x, model, _ = setting
    with pytest.raises(InputTypeError, match="params"):
        calls.penalty(model, x, None, WeightDecay(1.0), params=params)


@pytest.mark.parametrize("other", FRAMEWORKS)
def test_parameters_of_another_framework_are_refused(other: str, setting: Any) -> None:
    name, calls, x, model, _ = setting
    if other != name:
        with pytest.raises(InputTypeError, match="params must be"):
            calls.penalty(model, x, None, WeightDecay(1.0), params={"weight": FRAMEWORKS[other][1](MATRIX)})


def test_a_model_that_is_not_callable_is_refused(setting: Any) -> None:
    _, calls, x, model, _ = setting
    for call in (calls.loss, calls.penalty, calls.check):
        with pytest.raises(InputTypeError, match=r"model must be callable, got .* Pass the module or function itself"):
            call(model(x), x, None, SpectReg(1.0))
