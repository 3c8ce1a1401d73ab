"""L0: the backend and its harness are as they say."""

import inspect
import math
from typing import Any

import numpy as np

from gradreg_conformance.check import Disagreement, NotApplicable, check
from gradreg_conformance.checks.capabilities import CAPABILITIES
from gradreg_conformance.subject import Subject
from gradreg_core.backend import Backend
from gradreg_core.plugins.hookspecs import SPEC_VERSIONS
from gradreg_core.portable.networks import Layer

_CALLS = ("loss", "penalty", "measure", "check")
_DTYPES = ("float64", "float32", "float16", "bfloat16")


@check("loads")
def description_fits_the_backend(subject: Subject) -> None:
    """The plugin's description has the backend's own name, known capabilities, a known spec version and a harness."""
    described = subject.description
    if described is None:
        raise NotApplicable("no plugin describes this backend")
    if subject.backend is not None and described.name != subject.backend.name:
        raise Disagreement(
            f"the description names the backend {described.name!r}, it calls itself {subject.backend.name!r}"
        )
    unknown = set(described.capabilities) - set(CAPABILITIES)
    if unknown:
        raise Disagreement(
            f"the description declares {', '.join(sorted(unknown))}; known are {', '.join(CAPABILITIES)}"
        )
    if described.spec_version not in SPEC_VERSIONS:
        raise Disagreement(
            f"the backend is written for version {described.spec_version} of the protocol; known are {SPEC_VERSIONS}"
        )
    if not described.harness:
        raise Disagreement("the description names no harness")


@check("loads")
def backend_has_every_primitive(subject: Subject) -> None:
    """The backend inherits from Backend, and each of its methods takes the arguments of the base class's."""
    ops = subject.ops
    if not isinstance(ops, Backend):
        raise Disagreement(f"{type(ops).__name__} does not inherit from gradreg_core.backend.Backend")
    for name, wanted in inspect.getmembers(Backend, inspect.isfunction):
        if name.startswith("_"):
            continue
        method = getattr(ops, name)
        if not callable(method):
            raise Disagreement(f"the backend's {name} is not a method, but {method!r}")
        parameters = list(inspect.signature(wanted).parameters.values())[1:]
        required = [parameter for parameter in parameters if parameter.default is inspect.Parameter.empty]
        for given in (required, parameters):
            try:
                inspect.signature(method).bind(*given)
            except TypeError as error:
                shown = ", ".join(parameter.name for parameter in given)
                raise Disagreement(f"the backend's {name} does not take the arguments ({shown}): {error}") from error


@check("loads")
def harness_is_complete(subject: Subject) -> None:
    """The harness has the four calls, modes, types, devices, versions, and brings arrays in and out unchanged."""
    harness = subject.harness
    for name in _CALLS:
        if not callable(getattr(harness.calls, name, None)):
            raise Disagreement(f"harness.calls has no call {name!r}; expected {', '.join(_CALLS)}")
    for name in ("modes", "dtypes", "devices", "versions"):
        if not getattr(harness, name):
            raise Disagreement(f"harness.{name} is empty")
    unknown = set(harness.dtypes) - set(_DTYPES)
    if unknown:
        raise Disagreement(f"harness.dtypes has {sorted(unknown)}; known are {', '.join(_DTYPES)}")
    if not all(isinstance(kind, type) and issubclass(kind, Layer) for kind in harness.layers):
        raise Disagreement(f"harness.layers must be classes of gradreg_core.portable.networks, got {harness.layers!r}")
    if not (math.isfinite(harness.tolerance) and harness.tolerance >= 1):
        raise Disagreement(f"harness.tolerance must be a finite number of at least 1, got {harness.tolerance!r}")
    values = np.array([[-1.5, 0.0, 3.0], [2.0, -7.0, 0.25]])
    for dtype in (*harness.dtypes, "int32", "int64"):
        whole = dtype.startswith("int")
        for given in (values, values[:, 1::-1], np.array(3.0)):
            _came_back(subject, np.trunc(given) if whole else given, dtype)


def _came_back(subject: Subject, given: np.ndarray, dtype: str) -> None:
    returned: Any = subject.harness.numpy(subject.array(given, dtype))
    kind = "float32" if dtype == "bfloat16" else dtype
    # 64-bit integers may be narrowed by a framework that has none.
    kinds = ("int32", "int64") if dtype == "int64" else (kind,)
    if str(np.asarray(returned).dtype) not in kinds or not np.array_equal(returned, given):
        raise Disagreement(f"harness.numpy(harness.array(values, {dtype!r})): expected {given!r}, got {returned!r}")
