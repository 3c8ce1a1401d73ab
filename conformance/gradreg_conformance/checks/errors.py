"""L2: misuse is refused by the errors that the documentation names."""

from typing import Any

import numpy as np

from gradreg_conformance.cases import Case
from gradreg_conformance.check import Disagreement, check
from gradreg_conformance.strategies import SMALL
from gradreg_conformance.subject import Subject
from gradreg_core.errors import GradregError, InputError, InputTypeError
from gradreg_core.presets import DataGrad, SpectReg
from gradreg_core.projections import direction, orthonormal, top_k
from gradreg_core.spec import JacobianPenalty


def _penalty(subject: Subject, **changed: Any) -> Any:
    """The penalty of a small case whose arguments are partly `changed`; called outside any mode."""
    case = Case(SMALL, DataGrad(1.0), batch=2, dtype=subject.harness.dtypes[0])
    arrays = subject.arrays(case)
    x, y, reg = arrays["x"], subject.labels(case), case.reg
    x, y, reg = changed.pop("x", x), changed.pop("y", y), changed.pop("reg", reg)
    arrays |= changed.pop("arrays", {})
    model = subject.model(SMALL, arrays)
    weights = {path: arrays[path] for path in SMALL.weights()}
    return subject.harness.calls.penalty(changed.pop("model", model), x, y, reg, params=weights, **changed)


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
    dtype = subject.harness.dtypes[0]
    whole = subject.array(np.ones((2, *SMALL.input_shape)), "int32")
    if subject.harness.any_callable:  # where models are of the backend's own kind, any numbers will do
        _refused(subject, "an integer input", InputTypeError, x=whole, model=lambda x: x)
        _refused(subject, "a list as input", InputTypeError, x=[[1.0, 2.0]])
    _refused(subject, "a number as regularizer", InputTypeError, reg=1.0)
    for option in ("step", "seed"):
        _refused(subject, f"a fraction as {option}", GradregError, **{option: 0.5})
        _refused(subject, f"an array of a fraction as {option}", GradregError, **{option: subject.array(0.5, dtype)})
    _refused(subject, "DataGrad without labels", InputError, y=None)
    _refused(subject, "three labels for two samples", InputError, y=subject.array(np.array([0, 1, 0]), "int64"))
    _refused(subject, "a negative step", InputError, step=-1)
    _refused(subject, "a negative seed", InputError, seed=-1)
    _refused(subject, "an input without samples", InputError, x=subject.array(np.ones((0, *SMALL.input_shape)), dtype))
    _refused(subject, "one sample id for two samples", InputError, sample_ids=subject.array(np.array([4]), "int64"))
    for projection in (top_k(9), orthonormal(9), direction(), direction((1.0,) * 9)):
        reg = JacobianPenalty(1.0, projection=projection)
        _refused(subject, f"{projection!r} for {SMALL.output_shape[0]} logits", InputError, reg=reg)


@check("values")
def wrong_values_are_refused(subject: Subject) -> None:
    """Outputs that are not finite and labels out of range are refused where values can be read, and else give NaN."""
    dtype = subject.harness.dtypes[0]
    path = next(iter(SMALL.weights()))
    bad = np.full(SMALL.weights()[path], np.nan)
    changed: list[tuple[str, dict[str, Any]]] = [
        ("outputs that are NaN", {"arrays": {path: subject.array(bad, dtype)}, "reg": SpectReg(1.0)}),
        ("a label of 9", {"y": subject.array(np.array([0, 9]), "int64")}),
        ("a label of -1", {"y": subject.array(np.array([-1, 0]), "int64")}),
    ]
    for mistake, arguments in changed:
        try:
            result = _penalty(subject, **arguments)
        except InputError:
            continue
        except Exception as error:
            raise Disagreement(f"{mistake}: expected InputError, got {type(error).__name__}: {error}") from error
        number = float(subject.harness.numpy(result))
        if _reads(subject) or not np.isnan(number):
            raise Disagreement(f"{mistake}: expected InputError{'' if _reads(subject) else ' or NaN'}, got {number}")


def _reads(subject: Subject) -> bool:
    """Whether the backend reads values of eager arrays on this device."""
    zeros = subject.array(np.zeros(1), subject.dtype)
    return subject.backend is not None and subject.backend.values_if_free(zeros) is not None
