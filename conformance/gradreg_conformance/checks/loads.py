"""L0: the backend and its harness are what they say."""

import inspect
import math
from typing import Any

import numpy as np

from gradreg_conformance.check import Disagreement, NotApplicable, check
from gradreg_conformance.subject import Subject
from gradreg_core.backend import Backend
from gradreg_core.plugins.hookspecs import SPEC_VERSIONS
from gradreg_core.portable.networks import Layer

_CALLS = ("loss", "penalty", "measure", "check")
_DTYPES = ("float64", "float32", "float16", "bfloat16")


@check("loads")
def description_fits_the_backend(subject: Subject) -> None:
    """The plugin's description has the backend's own name and capabilities, a known spec version and a harness."""
    backend, described = getattr(subject.harness.calls, "backend", None), subject.description
    if described is None:
        raise NotApplicable("no plugin describes this backend")
    if backend is not None and described.name != backend.name:
        raise Disagreement(f"the description names the backend {described.name!r}, it calls itself {backend.name!r}")
    if backend is not None and set(described.capabilities) != set(backend.capabilities):
        raise Disagreement(
            f"the description declares the capabilities {sorted(described.capabilities)}, the backend "
            f"{sorted(backend.capabilities)}; make them equal"
        )
    if described.spec_version not in SPEC_VERSIONS:
        raise Disagreement(
            f"the backend is written for version {described.spec_version} of the protocol; known are {SPEC_VERSIONS}"
        )
    if not described.harness:
        raise Disagreement("the description names no harness")


@check("loads")
def backend_has_every_primitive(subject: Subject) -> None:
    """Every attribute and method of the protocol is there, and each method takes the protocol's arguments."""
    ops = subject.ops
    for name in Backend.__annotations__:
        if not hasattr(ops, name):
            raise Disagreement(f"the backend lacks the attribute {name!r} of gradreg_core.backend.Backend")
    for name, wanted in inspect.getmembers(Backend, inspect.isfunction):
        if name.startswith("_"):
            continue
        method = getattr(ops, name, None)
        if not callable(method):
            raise Disagreement(f"the backend lacks the method {name!r} of gradreg_core.backend.Backend")
        parameters = list(inspect.signature(wanted).parameters.values())[1:]
        required = [each for each in parameters if each.default is inspect.Parameter.empty]
        for given in (required, parameters):
            try:
                inspect.signature(method).bind(*given)
            except TypeError as error:
                shown = ", ".join(each.name for each in given)
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
    if not all(isinstance(each, type) and issubclass(each, Layer) for each in harness.layers):
        raise Disagreement(f"harness.layers must be classes of gradreg_core.portable.networks, got {harness.layers!r}")
    if not (math.isfinite(harness.tolerance) and harness.tolerance >= 1):
        raise Disagreement(f"harness.tolerance must be a finite number of at least 1, got {harness.tolerance!r}")
    values = np.array([[-1.5, 0.0, 3.0], [2.0, -7.0, 0.25]])
    for dtype in (*harness.dtypes, "int32", "int64"):
        whole = dtype.startswith("int")
        for given in (values, values[:, 1::-1], np.array(3.0)):
            _came_back(subject, np.trunc(given) if whole else given, dtype)


def _came_back(subject: Subject, given: np.ndarray, dtype: str) -> None:
    found: Any = subject.harness.numpy(subject.array(given, dtype))
    kind = "float32" if dtype == "bfloat16" else dtype
    # 64-bit integers may be narrowed by a framework that has none.
    kinds = ("int32", "int64") if dtype == "int64" else (kind,)
    if str(np.asarray(found).dtype) not in kinds or not np.array_equal(found, given):
        raise Disagreement(f"harness.numpy(harness.array(values, {dtype!r})): expected {given!r}, got {found!r}")
