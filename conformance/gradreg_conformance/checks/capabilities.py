"""L1 and L2: a backend has what it declares, and declares what it has."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

import gradreg_numpy
from gradreg_conformance.cases import Case
from gradreg_conformance.check import Disagreement, NotApplicable, check
from gradreg_conformance.reference import expected_gradient, expected_value, measured
from gradreg_conformance.strategies import cases
from gradreg_conformance.subject import Subject
from gradreg_core.errors import InputError, UnsupportedError
from gradreg_core.portable import networks as nets
from gradreg_core.portable.networks import Activation, Dense, Layer, Network
from gradreg_core.presets import SpectReg

NETWORKS: dict[type[Layer], Network] = {
    nets.Dense: Network((2,), (Dense(2),)),
    nets.Conv2D: Network((3, 3, 1), (nets.Conv2D(2, 3, "same"),)),
    nets.MaxPool: Network((2, 2, 1), (nets.MaxPool(2),)),
    nets.AvgPool: Network((2, 2, 1), (nets.AvgPool(2),)),
    nets.Flatten: Network((2, 2, 1), (nets.Flatten(),)),
    nets.Activation: Network((2,), (Activation("relu"),)),
    nets.LayerNorm: Network((3,), (nets.LayerNorm(),)),
    nets.BatchNorm: Network((2,), (nets.BatchNorm(),)),
    nets.GroupNorm: Network((2, 4), (nets.GroupNorm(2),)),
    nets.Dropout: Network((2,), (nets.Dropout(0.5),)),
    nets.Attention: Network((2, 2), (nets.Attention(1),)),
    nets.Residual: Network((2,), (nets.Residual((Dense(2),)),)),
}
"""One network of each layer."""
CAPABILITIES = ("batched_pullback", "host_checks", "named_activations", "traced_branch")
"""The names that a description may declare; :class:`gradreg_core.plugins.hookspecs.BackendDescription` says what each
promises."""
_ROWS = 32
"""More than a backend on a CPU pulls one after the other although it could pull them at once."""
_NAMED = Network((3,), (Dense(3), Activation("tanh"), Dense(3), Activation("sigmoid"), Dense(2)))


@check("primitives")
def layers_are_those_declared(subject: Subject) -> None:
    """The harness applies every layer that it declares, with every activation, and refuses the others."""
    for kind, network in NETWORKS.items():
        names = nets.ACTIVATIONS if kind is Activation else ("",)
        for name in names:
            chosen = Network(network.input_shape, (Activation(name),)) if name else network
            case = Case(chosen, SpectReg(1.0), labels="none", dtype=subject.harness.dtypes[0])
            if kind in subject.harness.layers:
                _applied(subject, case)
            elif not _refused(subject, case):
                raise Disagreement(
                    f"harness.layers has no {kind.__name__}, but harness.apply applies {chosen!r}; declare it"
                )


def _applied(subject: Subject, case: Case) -> None:
    def outputs(model: gradreg_numpy.Model, x: np.ndarray) -> dict[str, np.ndarray]:
        return {"outputs": np.asarray(gradreg_numpy.apply(model.network, dict(model.params), x))}

    arrays = subject.arrays(case)

    def apply(arrays: Any) -> Any:
        return subject.harness.apply(case.network, arrays, arrays["x"])

    result = subject.numbers(subject.harness.value(apply, arrays, subject.mode))
    subject.compare(case, "the network", {"outputs": result}, measured(case, outputs))


def _refused(subject: Subject, case: Case) -> bool:
    arrays = subject.arrays(case)
    try:
        subject.harness.apply(case.network, arrays, arrays["x"])
    except Exception:
        return True
    return False


@check("primitives")
def capabilities_are_those_declared(subject: Subject) -> None:
    """Values are read, rows are pulled at once and branches are skipped where, and only where, that is declared."""
    ops = subject.ops
    if subject.description is None:
        raise NotApplicable("no plugin describes this backend, so it declares nothing")
    has = {"batched_pullback": _pulls_rows_at_once(subject), "traced_branch": _skips_branches(subject)}
    if subject.device == "cpu":
        has["host_checks"] = ops.values_if_free(subject.array(np.ones(2), subject.dtype)) is not None
    for name, shown in has.items():
        if shown is not None and shown != (name in subject.capabilities):
            raise Disagreement(
                f"the backend has {name}, but its description does not declare it; declare it"
                if shown
                else f"the description declares {name}, but {_LACKS[name]}"
            )


_LACKS = {
    "batched_pullback": f"pull_rows calls the pullback once for each of {_ROWS} rows",
    "host_checks": "values_if_free reads no array on the CPU",
    "traced_branch": "cond differentiates the branch that is not taken",
}


def _pulls_rows_at_once(subject: Subject) -> bool:
    """Whether `pull_rows` calls the pullback less often than once per row."""
    ops, calls = subject.ops, []
    _, pullback = ops.vjp(lambda x: x * x, subject.array(np.ones((2, 3)), subject.dtype))

    def counted(w: Any) -> Any:
        calls.append(w)
        return pullback(w)

    ops.pull_rows(counted, subject.array(np.ones((_ROWS, 2, 3)), subject.dtype))
    return len(calls) < _ROWS


def _skips_branches(subject: Subject) -> bool | None:
    """Whether a traced `cond` leaves out the branch that is not taken; None where nothing is traced.

    The branch is sqrt(x) at x = 0: where it is computed all the same, its infinite slope times 0 gives NaN.
    """
    ops = subject.ops
    arrays = {"x": subject.array(np.zeros(()), subject.dtype), "n": subject.array(np.array(0), "int32")}

    def function(arrays: Any) -> Any:
        return ops.cond(arrays["n"] > 0, lambda: ops.sqrt(arrays["x"]))

    mode = next((mode for mode in subject.harness.modes if subject.harness.compiled(function, mode) is not None), None)
    if mode is None:
        return None
    slope = subject.harness.value_and_gradients(function, arrays, mode)[1]["x"]
    return bool(np.isfinite(subject.numbers(slope)))


@check("values")
def named_activations(subject: Subject) -> None:
    """at= names a layer where the backend declares names; elsewhere the name is refused, as that of no place."""
    harness = subject.harness
    if "named_activations" not in subject.capabilities:
        _is_refused(subject)
        return
    # The reference names a layer by its index.
    at = st.integers(0, len(_NAMED.layers) - 2).map(str)
    regs = st.builds(SpectReg, st.just(1.0), seed=st.integers(0, 9), at=at)

    @subject.given(cases(harness, regs, st.just(_NAMED), batch=(3, 3)), cost=2)
    def _(case):  # type: ignore[no-untyped-def]
        def function(arrays: Any) -> Any:
            model, names = _named_model(subject, arrays)
            reg = replace(case.reg, at=names[int(case.reg.at)])
            return harness.calls.penalty(model, arrays["x"], None, reg)

        value, slopes = harness.value_and_gradients(function, subject.arrays(case), subject.mode)
        label = f"the penalty at={case.reg.at!r}"
        subject.compare(case, label, {"value": subject.numbers(value)}, expected_value(case))
        gradients = {name: subject.numbers(slopes[name]) for name in (*_NAMED.weights(), "x")}
        subject.compare(case, f"the gradients of {label}", gradients, expected_gradient(case))


def _named_model(subject: Subject, arrays: Any) -> tuple[Any, Sequence[str]]:
    try:
        return subject.harness.named_model(_NAMED, arrays)
    except NotImplementedError as error:
        if "named_activations" in subject.capabilities:
            message = "the description declares named_activations; to test them the harness needs a named_model"
            raise Disagreement(message) from error
        return subject.model(_NAMED, arrays), ["0"]


def _is_refused(subject: Subject) -> None:
    arrays = subject.arrays(Case(_NAMED, SpectReg(1.0), dtype=subject.dtype))
    model, names = _named_model(subject, arrays)
    try:
        subject.harness.calls.penalty(model, arrays["x"], None, SpectReg(1.0, at=names[0]))
    except (InputError, UnsupportedError) as error:
        if repr(names[0]) not in str(error):
            raise Disagreement(f"at={names[0]!r} is refused, but the error does not name it: {error}") from error
    else:
        raise Disagreement(
            f"the description declares no named_activations, but the backend takes at={names[0]!r}, a layer; declare "
            f"them, or refuse it"
        )
