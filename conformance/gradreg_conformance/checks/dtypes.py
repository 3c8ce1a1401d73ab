"""L2: the results of calls for each floating-point type of the input."""

from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from gradreg_conformance import reference
from gradreg_conformance.cases import Case
from gradreg_conformance.check import Disagreement, NotApplicable, check
from gradreg_conformance.reference import UNIT_ROUNDOFF, error_ratio
from gradreg_conformance.strategies import SMALL, cases
from gradreg_conformance.subject import Subject
from gradreg_core.norms import hinge, target
from gradreg_core.portable.networks import Activation, Dense, Network
from gradreg_core.presets import ConfidencePenalty, DataGrad, FrobReg, OneHot, SpectReg, WeightDecay
from gradreg_core.projections import direction
from gradreg_core.spec import JacobianPenalty

_HALVES = ("float16", "bfloat16")
_CHOOSING = Network((3,), (Dense(3), Activation("relu"), Dense(4)))
"""With a choice, whose gradient has a type of its own in some frameworks."""
_REGS = {"total": DataGrad(1.0), "penalty": JacobianPenalty(1.0, norm="linf", phi=hinge(0.1))}
_SMOOTH = (DataGrad(1.0), SpectReg(1.0), JacobianPenalty(1.0, squared=False, phi=target(0.1)))


def _halves(subject: Subject) -> list[str]:
    halves = [dtype for dtype in _HALVES if dtype in subject.harness.dtypes]
    if not halves:
        raise NotApplicable("the harness declares no half precision")
    return halves


@check("values")
def results_are_scalars_in_float32_or_better(subject: Subject) -> None:
    """Penalty and total are of shape (), on the input's device, in float32 for half precision, else in its type."""
    _whatever_the_weight(subject)
    for dtype in subject.harness.dtypes:
        wanted = "float32" if dtype in _HALVES else dtype
        for of, reg in _REGS.items():
            case = Case(_CHOOSING, reg, dtype=dtype)
            arrays = subject.arrays(case)
            result = subject.harness.value(subject.function(case, of), arrays, subject.mode)
            came = _dtype(subject, result)
            if came != wanted:
                subject.disagree(case, f"the {of} of {dtype} arrays is in {came}, expected {wanted}")
            if (shape := np.shape(subject.harness.numpy(result))) != ():
                subject.disagree(case, f"the {of} has shape {shape}, expected ()")
            devices = [str(getattr(array, "device", "")) for array in (result, arrays["x"])]
            if devices[0] != devices[1]:
                subject.disagree(case, f"the {of} is on {devices[0]}, the input on {devices[1]}")


def _whatever_the_weight(subject: Subject) -> None:
    """Neither a schedule's weight of float64 nor a term that is not due changes the type of the penalty."""
    for dtype in subject.harness.dtypes:
        case = Case(_CHOOSING, SpectReg(1.0, every=2), step=1, dtype=dtype)
        came = _dtype(subject, subject.harness.value(subject.function(case), subject.arrays(case), subject.mode))
        if came != ("float32" if dtype in _HALVES else dtype):
            subject.disagree(case, f"the penalty of a term that is not due, of {dtype} arrays, is in {came}")
    if subject.backend is None or not {"float32", "float64"} <= set(subject.harness.dtypes):
        return
    weight = subject.array(0.5, "float64")
    case = Case(_CHOOSING, DataGrad(lambda step: weight), step=1, dtype="float32")
    came = _dtype(subject, subject.harness.value(subject.function(case), subject.arrays(case), subject.mode))
    if came != "float32":
        raise Disagreement(f"the penalty of float32 arrays with a weight of float64 is in {came}, expected float32")


def _dtype(subject: Subject, array: Any) -> str:
    # bfloat16 comes out of the harness as float32, so the backend is asked where there is one.
    return str(subject.harness.numpy(array).dtype) if subject.backend is None else subject.backend.dtype(array)


@check("gradients")
def half_precision(subject: Subject) -> None:
    """Values and gradients in half precision are within its rounding."""
    for dtype in _halves(subject):
        given = cases(subject.harness, st.sampled_from(_SMOOTH), st.just(SMALL), dtype=st.just(dtype))

        @subject.given(given, cost=2)
        def _(case):  # type: ignore[no-untyped-def]
            # What is smaller is lost in float16's subnormal numbers, which the tolerance knows nothing of.
            assume(reference.expected_value(case).norm > 1e-3)
            value, gradients = subject.gradients(case)
            subject.compare(case, "the penalty", {"value": value}, reference.expected_value(case))
            subject.compare(case, "the gradients of the penalty", gradients, reference.expected_gradient(case))


@check("values")
def small_gradients_do_not_underflow(subject: Subject) -> None:
    """Squares are formed and added in float32: in float16 the square of a gradient of 1e-4 is 0.

    The network is linear without bias, so that the penalty is the sum of the squares of its weights.
    """
    network = Network((3,), (Dense(2, bias=False),))
    for dtype in _halves(subject):
        case = Case(network, FrobReg(1.0), dtype=dtype)
        weight = subject.array(np.full((3, 2), 1e-4), dtype)
        kept = subject.numbers(weight)
        arrays = {**subject.arrays(case), "0.weight": weight}
        wanted = float((kept**2).sum())
        number = float(subject.numbers(subject.harness.value(subject.function(case), arrays, subject.mode)))
        ratio = error_ratio(abs(number - wanted), 8 * subject.harness.tolerance * UNIT_ROUNDOFF[dtype] * wanted)
        subject.measured.ratio(ratio)
        if not ratio <= 1:
            raise Disagreement(
                f"FrobReg(1.0) of a linear layer of six {dtype} weights of 1e-4: expected {wanted:.3e}, the sum of "
                f"their squares, got {number:.3e}; square and add in float32"
            )


@check("gradients")
def ranges_of_half_precision(subject: Subject) -> None:
    """Numbers too large for half precision are computed in float32: squares, sums, exponentials, class numbers.

    The network is one linear layer, so that the Jacobian is its weights: the penalties are known.
    """
    for dtype in _halves(subject):
        _large_squares(subject, dtype)
        _large_logits(subject, dtype)
        _many_classes(subject, dtype)
        _many_samples(subject, dtype)


def _linear(
    subject: Subject, dtype: str, weight: np.ndarray, bias: np.ndarray, y: Any, reg: Any, x: np.ndarray, **options: Any
) -> float:
    """The penalty, whose gradients must be finite."""
    network = Network((len(weight),), (Dense(weight.shape[1]),))
    given = {"0.weight": weight, "0.bias": bias, "x": x}
    arrays = {name: subject.array(array, dtype) for name, array in given.items()}
    labels = None if y is None else subject.array(y, "int64")
    if labels is not None and subject.backend is not None and y.dtype == np.uint16:
        labels = subject.backend.asarray(y, arrays["x"])

    def function(free: Any) -> Any:
        model = subject.model(network, free)
        params = {path: free[path] for path in network.weights()}
        return subject.harness.calls.penalty(model, free["x"], labels, reg, params=params, **options)

    subject.measured.examples += 1
    value, slopes = subject.harness.value_and_gradients(function, arrays, subject.mode)
    lost = [name for name, slope in slopes.items() if not np.isfinite(subject.numbers(slope)).all()]
    if lost:
        raise Disagreement(f"{reg!r} in {dtype}: the gradients with respect to {', '.join(lost)} are not finite")
    return float(subject.numbers(value))


def _is(subject: Subject, label: str, result: float, wanted: float, dtype: str) -> None:
    ratio = error_ratio(abs(result - wanted), 8 * subject.harness.tolerance * UNIT_ROUNDOFF[dtype] * abs(wanted))
    subject.measured.ratio(ratio)
    if not ratio <= 1:
        raise Disagreement(f"{label} in {dtype}: expected {wanted:.4g}, got {result:.4g}; compute it in float32")


def _large_squares(subject: Subject, dtype: str) -> None:
    weight = np.full((3, 2), 300.0)
    result = _linear(subject, dtype, weight, np.zeros(2), None, FrobReg(1.0), np.zeros((2, 3)))
    _is(subject, "the sum of six squares of 300", result, 540_000.0, dtype)
    result = _linear(subject, dtype, weight, np.zeros(2), None, WeightDecay(1.0), np.zeros((2, 3)))
    _is(subject, "half the sum of six squares of 300 as WeightDecay", result, 270_000.0, dtype)


@check("values")
def half_precision_beside_float32(subject: Subject) -> None:
    """Where the input, the outputs or a loss alone is in half precision, squares and losses are formed in float32 too.

    The models are linear, so that the penalties and the losses are known.
    """
    subject.need_any_callable()
    ops, calls = subject.ops, subject.harness.calls
    for dtype in _halves(subject)[:1]:  # compilers take their time
        subject.measured.examples += 1
        x = subject.array(np.ones((2, 3)), dtype)
        _losses_of_half(subject, dtype, x)
        if dtype != "float16":
            continue  # which alone has a small range
        small = subject.array(np.full((3, 2), 1e-4), dtype)
        kept = subject.numbers(small)

        def widened(x: Any, weight: Any = small) -> Any:
            return ops.matmul(ops.astype(x, "float32"), ops.astype(weight, "float32"))

        penalty = calls.penalty(widened, x, None, FrobReg(1.0))
        _is(subject, "FrobReg of float32 outputs", float(subject.numbers(penalty)), float((kept**2).sum()), dtype)
        along = JacobianPenalty(1.0, side="input", projection=direction((1.0, 1.0, 1.0)))
        penalty = calls.penalty(lambda x, weight=small: ops.matmul(x, weight), x, None, along)
        wanted = float((kept.sum(0) ** 2).sum())
        _is(subject, "a penalty with directions in the input", float(subject.numbers(penalty)), wanted, dtype)
        leaves = (x[:, :1], subject.array(np.full((2, 1), 70_001.0), "float32"))
        penalty = calls.penalty(
            lambda x: ops.astype(x[0], "float32") * 2.0 + (x[1] - 70_000.0) * 3.0, leaves, None, FrobReg(1.0)
        )
        _is(subject, "FrobReg of float16 and float32 inputs", float(subject.numbers(penalty)), 13.0, dtype)


def _losses_of_half(subject: Subject, dtype: str, x: Any) -> None:
    """The loss alone, of outputs that half precision holds without rounding, as exact as float32 is."""
    calls = subject.harness.calls
    logits = subject.array(np.array([[1.0, 0.0, -1.0]] * 2), dtype)
    total, _ = calls.loss(lambda x: logits + 0.0 * x, x, subject.array(np.array([0, 1]), "int64"), None)
    f = np.exp([1.0, 0.0, -1.0]) / np.exp([1.0, 0.0, -1.0]).sum()
    wanted = float(-np.log(f[0]) - np.log(f[1])) / 2
    _is(subject, f"the cross-entropy of logits 1, 0, -1 in {dtype}", float(subject.numbers(total)), wanted, "float32")
    soft, confidence = subject.array(np.array([[0.5, 0.25, 0.25]] * 2), dtype), ConfidencePenalty(1.0)
    _, parts = calls.loss(lambda x: logits + 0.0 * x, x, soft, confidence)
    wanted, entropy = wanted + 0.25, float(f @ np.log(f))
    _is(subject, f"the same with soft labels in {dtype}", float(subject.numbers(parts.loss)), wanted, "float32")
    _is(subject, f"the negative entropy in {dtype}", float(subject.numbers(parts.penalty[0])), entropy, "float32")
    wide = subject.array(np.full((2, 300), 256.0), dtype)
    total, _ = calls.loss(lambda x: wide + 0.0 * x[:, :1], x, None, None, loss_fn=lambda z, y: z + 0.0)
    _is(subject, f"the mean of 300 losses of 256 in {dtype}", float(subject.numbers(total)), 256.0, "float32")


def _large_logits(subject: Subject, dtype: str) -> None:
    """F is (1, 0, 0) but for e^-20, so that f - y is (1, -1, 0) for the label 1."""
    bias, weight = np.array([20.0, 0.0, -20.0]), np.array([[1.0, 3.0, -1.0], [0.5, -1.0, 2.0]])
    result = _linear(subject, dtype, weight, bias, np.array([1, 1]), DataGrad(1.0), np.zeros((2, 2)))
    _is(subject, "DataGrad with logits of 20, 0 and -20", result, 2.0**2 + 1.5**2, dtype)


def _many_classes(subject: Subject, dtype: str) -> None:
    """Of 300 classes, whose weights are their numbers over 16, the logits of the labels 257 and 299."""
    numbers = np.arange(300) / 16
    labels = np.array([257, 299], np.uint16)
    result = _linear(subject, dtype, numbers[None], np.zeros(300), labels, OneHot(1.0), np.zeros((2, 1)))
    held = subject.numbers(subject.array(numbers, dtype))[labels]
    _is(subject, "OneHot for the labels 257 and 299", result, float((held**2).mean()), dtype)


def _many_samples(subject: Subject, dtype: str) -> None:
    """Means of 600 equal numbers, with weights whose sum no half holds."""
    weights = subject.array(np.full(600, 500.0), dtype)
    weight, x = np.array([[1.0, 2.0]]), np.zeros((600, 1))
    result = _linear(subject, dtype, weight, np.zeros(2), None, FrobReg(1.0), x, sample_weight=weights)
    _is(subject, "the mean over 600 samples of weight 500", result, 5.0, dtype)
