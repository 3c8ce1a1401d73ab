"""L2: misuse is refused by the errors that the documentation names."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from gradreg_conformance.cases import Case
from gradreg_conformance.check import Disagreement, check
from gradreg_conformance.strategies import SMALL
from gradreg_conformance.subject import Subject
from gradreg_core.errors import BatchNormError, GradregError, InputError, InputTypeError
from gradreg_core.inputs import Inputs
from gradreg_core.presets import DataGrad, OneHot, SobolevReg, SpectReg, WeightDecay
from gradreg_core.projections import direction, orthonormal, top_k
from gradreg_core.spec import JacobianPenalty

Misuses = Iterator[tuple[str, type[GradregError], dict[str, Any]]]
"""The mistake, the expected error, and the changed arguments."""


def _penalty(subject: Subject, **changed: Any) -> Any:
    """The penalty of a small case whose arguments are partly `changed`; called outside any mode."""
    case = Case(SMALL, DataGrad(1.0), batch=2, dtype=subject.harness.dtypes[0])
    arrays = subject.arrays(case)
    x, y, reg = arrays["x"], subject.labels(case), case.reg
    x, y, reg = changed.pop("x", x), changed.pop("y", y), changed.pop("reg", reg)
    arrays |= changed.pop("arrays", {})
    model = subject.model(SMALL, arrays)
    if (around := changed.pop("around", None)) is not None:  # a function of the outputs
        bare = model
        model = lambda x: around(bare(x))  # noqa: E731
    if changed.pop("call", "penalty") == "measure":
        return subject.harness.calls.measure(model, x, y, **changed)[0]
    weights = {path: arrays[path] for path in SMALL.weights()}
    options = {"params": weights, **changed}
    return subject.harness.calls.penalty(options.pop("model", model), x, y, reg, **options)


def _refused(subject: Subject, misuse: str, kind: type[GradregError], **changed: Any) -> None:
    try:
        result = _penalty(subject, **changed)
    except kind:
        return
    except Exception as error:
        raise Disagreement(f"{misuse}: expected {kind.__name__}, got {type(error).__name__}: {error}") from error
    raise Disagreement(f"{misuse}: expected {kind.__name__}, got the value {subject.harness.numpy(result)!r}")


@check("values")
def misuse_is_refused(subject: Subject) -> None:
    """Arguments that make no sense raise InputTypeError or InputError, even where the framework would accept them."""
    for misuses in (_of_draws, _of_the_batch, _of_terms, _of_models, _of_losses):
        if misuses in (_of_models, _of_losses) and not subject.harness.any_callable:
            continue  # where models are of the backend's own kind
        for misuse, kind, changed in misuses(subject):
            _refused(subject, misuse, kind, **changed)


def _of_draws(subject: Subject) -> Misuses:
    dtype = subject.dtype
    for option in ("step", "seed"):
        yield f"a fraction as {option}", GradregError, {option: 0.5}
        yield f"an array of a fraction as {option}", GradregError, {option: subject.array(0.5, dtype)}
        if subject.backend is not None:
            yield f"an array of shape (1,) as {option}", GradregError, {option: subject.array([3], "int32")}
        yield f"a negative {option}", InputError, {option: -1}
    yield "one sample id for two samples", InputError, {"sample_ids": subject.array(np.array([4]), "int64")}
    yield "fractions as sample ids", InputError, {"sample_ids": subject.array([1.0, 2.0], dtype)}
    if subject.backend is not None:
        yield "a sample id of 33 bits", InputError, {"sample_ids": np.array([1, 2**32 + 1])}
        every, schedule = DataGrad(1.0, every=2), DataGrad(lambda step: 1.0)
        yield "every= without a step", InputError, {"reg": every}
        yield "a schedule without a step", InputError, {"reg": schedule}


def _of_the_batch(subject: Subject) -> Misuses:
    dtype = subject.dtype
    yield "a number as regularizer", InputTypeError, {"reg": 1.0}
    yield "DataGrad without labels", InputError, {"y": None}
    yield "three labels for two samples", InputError, {"y": subject.array(np.array([0, 1, 0]), "int64")}
    yield "an input without samples", InputError, {"x": subject.array(np.ones((0, *SMALL.input_shape)), dtype)}
    for shape in ((), (3,), (2, 1)):
        weights = subject.array(np.ones(shape), dtype)
        yield f"weights of shape {shape} for two samples", InputError, {"sample_weight": weights}
    yield "weights of the outputs", InputError, {"position_weight": subject.array(np.ones((2, 4)), dtype)}
    for normalizer in (0.0, -1.0, np.nan):
        yield f"a normalizer of {normalizer}", InputError, {"normalizer": normalizer}
    for axis in (0, 2, -3):
        yield f"class_axis={axis} of outputs of two axes", InputError, {"class_axis": axis}
    if subject.backend is not None:
        yield "chunks of 0 rows", InputError, {"chunk_size": 0}
        yield "an unknown policy for batch normalisation", InputError, {"batch_norm": "never"}
        weights = subject.array(np.ones(2), dtype)
        yield "a misspelt keyword", InputTypeError, {"sample_weights": weights}
        yield "weights of samples for measure", InputTypeError, {"call": "measure", "sample_weight": weights}
        yield "measure by no projection", InputError, {"call": "measure", "projections": 0}


def _of_terms(subject: Subject) -> Misuses:
    dtype, inputs, outputs = subject.dtype, SMALL.input_shape[0], SMALL.output_shape[0]
    for projection in (top_k(9), orthonormal(9), direction(), direction((1.0,) * 9)):
        yield f"{projection!r} for {outputs} logits", InputError, {"reg": JacobianPenalty(1.0, projection=projection)}
    given = {"directions": subject.array(np.ones((2, outputs)), dtype)}
    part = JacobianPenalty(1.0, projection=direction(), fraction=0.5)
    yield "directions of the call for a part of the batch", InputError, {"reg": part, **given}
    three = {"directions": subject.array(np.ones((3, outputs)), dtype)}
    yield "directions for three samples", InputError, {"reg": JacobianPenalty(1.0, projection=direction()), **three}
    soft = subject.array(np.full((2, outputs), 1 / outputs), dtype)
    yield "soft labels for the true class", InputError, {"reg": OneHot(1.0), "y": soft}
    yield "soft labels with ignore_index", InputError, {"ignore_index": 1, "y": soft}
    yield "a target without its term", InputError, {"target": subject.array(np.ones((2, outputs, inputs)), dtype)}
    yield "SobolevReg without a target", InputError, {"reg": SobolevReg(1.0)}
    transposed = {"target": subject.array(np.ones((2, inputs, outputs)), dtype)}
    yield "a target with its axes swapped", InputError, {"reg": SobolevReg(1.0), **transposed}


def _of_models(subject: Subject) -> Misuses:
    ops, dtype = subject.ops, subject.dtype
    spect = {"reg": SpectReg(1.0), "y": None}
    whole = subject.array(np.ones((2, *SMALL.input_shape)), "int32")
    yield "an integer input", InputTypeError, {"x": whole, "model": lambda x: x}
    yield "a list as input", InputTypeError, {"x": [[1.0, 2.0]]}
    yield "a model that averages over the batch", InputError, {"around": lambda z: ops.sum(z, 0, True), **spect}
    if _reads(subject):
        coupled = {"around": lambda z: z - 0.5 * ops.sum(z, 0, True), "batch_norm": "error", **spect}
        yield "coupled samples with batch_norm='error'", BatchNormError, coupled
    yield "integers as outputs", InputTypeError, {"around": lambda z: ops.astype(z, "int32"), **spect}
    yield "two arrays as outputs", InputTypeError, {"around": lambda z: (z, z), **spect}
    yield "outputs= that leads nowhere", InputError, {"outputs": "logits", "around": lambda z: {"scores": z}, **spect}
    dense = {"around": lambda z: ops.reshape(z, (2, 2, 2)), "y": subject.array(np.zeros((2, 2)), "int64")}
    yield "dense outputs without class_axis", InputError, dense
    of_samples = {"position_weight": subject.array(np.ones(2), dtype), "class_axis": -1}
    yield "weights of samples for positions", InputError, dense | of_samples
    yield "WeightDecay of a function without params=", InputError, {"reg": WeightDecay(1.0), "params": None}
    flat = [subject.array(np.ones(3), dtype)]
    yield "WeightDecay of flattened parameters", InputError, {"reg": WeightDecay(1.0), "params": flat}
    x, more = subject.array(np.ones((2, 3)), dtype), subject.array(np.ones((3, 3)), dtype)
    nested: dict[str, Any] = {"model": lambda first, second: first, **spect}
    yield "arrays of two and of three samples", InputError, {"x": Inputs(x, more), **nested}
    yield "wrt= that names nothing", InputError, {"x": Inputs(x, x, wrt="third"), **nested}
    narrow: dict[str, Any] = {"reg": SobolevReg(1.0), "target": lambda x: x}
    yield "a teacher with other outputs", InputError, narrow
    if "float16" in subject.harness.dtypes:
        half = {"x": subject.array(np.ones((2, 3)), "float16"), "model": lambda x: x}
        reg = SpectReg(1.0, side="input", method="difference")
        yield "a difference in half precision", InputError, {**half, "reg": reg, "y": None}


def _of_losses(subject: Subject) -> Misuses:
    ops = subject.ops

    def broadcast(z: Any, y: Any) -> Any:
        return ops.reshape(z, (2, 1, -1)) * ops.reshape(z, (1, 2, -1))

    yield "a loss over the batch", InputError, {"loss_fn": lambda z, y: ops.sum(z, (0, 1))}
    yield "a loss of all pairs of outputs", InputError, {"loss_fn": broadcast}
    yield "a loss of integers", InputError, {"loss_fn": lambda z, y: ops.argmax(z)}
    yield "a number as a loss", InputTypeError, {"loss_fn": 1.0}
    left_out = {"y": subject.array(np.array([1, -100]), "int64"), "loss_fn": lambda z, y: ops.sum(z * z, 1)}
    if _reads(subject):
        yield "a label that loss_fn would leave out", InputError, left_out


@check("values")
def wrong_values_are_refused(subject: Subject) -> None:
    """Outputs that are not finite and labels out of range are refused where values can be read, and else give NaN."""
    for mistake, arguments in _wrong_values(subject):
        try:
            result = _penalty(subject, **arguments)
        except InputError:
            continue
        except Exception as error:
            raise Disagreement(f"{mistake}: expected InputError, got {type(error).__name__}: {error}") from error
        number = float(subject.harness.numpy(result))
        if _reads(subject) or not np.isnan(number):
            raise Disagreement(f"{mistake}: expected InputError{'' if _reads(subject) else ' or NaN'}, got {number}")


def _wrong_values(subject: Subject) -> Iterator[tuple[str, dict[str, Any]]]:
    """Mistakes, and the changed arguments."""
    dtype = subject.dtype

    def array(values: Any) -> Any:
        return subject.array(np.asarray(values), dtype)

    names = list(SMALL.weights())
    for path, value in ((names[0], np.nan), (names[-1], np.inf)):
        if np.isnan(value) or subject.backend is not None:  # the Jacobian does not depend on a bias
            bad = np.full(SMALL.weights()[path], value)
            yield f"outputs that are {value}", {"arrays": {path: array(bad)}, "reg": SpectReg(1.0)}
    yield "a label of 9", {"y": subject.array(np.array([0, 9]), "int64")}
    yield "a label of -1", {"y": subject.array(np.array([-1, 0]), "int64")}
    yield "soft labels that sum to 2", {"y": array(np.full((2, 4), 0.5))}
    yield "a negative soft label", {"y": array([[1.5, -0.5, 0.0, 0.0]] * 2)}
    for weights in ([1.0, -1.0], [np.nan, 1.0], [np.inf, 1.0]):
        yield f"sample weights {weights}", {"sample_weight": array(weights)}
        if subject.harness.any_callable:
            yield f"position weights {weights}", {"position_weight": array(weights)}
    if subject.harness.any_callable:
        one: dict[str, Any] = {"around": lambda z: z[:, :1]}
        yield "a label of 2 for a single logit", {"y": subject.array(np.array([0, 2]), "int64"), **one}
        yield "a probability of 1.5", {"y": array([0.5, 1.5]), **one}
        yield "a normalizer of 0 in an array", {"normalizer": array(0.0)}


def _reads(subject: Subject) -> bool:
    """Whether the backend reads values of eager arrays on this device."""
    zeros = subject.array(np.zeros(1), subject.dtype)
    return subject.backend is not None and subject.backend.values_if_free(zeros) is not None
