"""L1 and L2: what a backend declares works, and what it does not declare is refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

import gradreg_numpy
from gradreg_conformance.cases import Case
from gradreg_conformance.check import Disagreement, check
from gradreg_conformance.reference import expected_gradient, expected_value, measured
from gradreg_conformance.strategies import cases
from gradreg_conformance.subject import Subject
from gradreg_core.errors import UnsupportedError
from gradreg_core.portable import networks as nets
from gradreg_core.portable.networks import Activation, Dense, Layer, Network
from gradreg_core.presets import SpectReg

_EACH: dict[type[Layer], Network] = {
    nets.Dense: Network((2,), (Dense(2),)),
    nets.Conv2D: Network((3, 3, 1), (nets.Conv2D(2, 3, "same"),)),
    nets.MaxPool: Network((2, 2, 1), (nets.MaxPool(2),)),
    nets.AvgPool: Network((2, 2, 1), (nets.AvgPool(2),)),
    nets.Flatten: Network((2, 2, 1), (nets.Flatten(),)),
    nets.Activation: Network((2,), (Activation("relu"),)),
    nets.LayerNorm: Network((3,), (nets.LayerNorm(),)),
    nets.BatchNorm: Network((2,), (nets.BatchNorm(),)),
    nets.Dropout: Network((2,), (nets.Dropout(0.5),)),
    nets.Attention: Network((2, 2), (nets.Attention(1),)),
    nets.Residual: Network((2,), (nets.Residual((Dense(2),)),)),
}
"""One network of each layer."""
_NAMED = Network((3,), (Dense(3), Activation("tanh"), Dense(3), Activation("sigmoid"), Dense(2)))


@check("primitives")
def layers_are_those_declared(subject: Subject) -> None:
    """The harness applies every layer that it declares, with every activation, and refuses the others."""
    for kind, network in _EACH.items():
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

    found = subject.harness.numpy(subject.harness.value(apply, arrays, subject.mode))
    subject.compare(case, "the network", {"outputs": np.asarray(found, np.float64)}, measured(case, outputs))


def _refused(subject: Subject, case: Case) -> bool:
    arrays = subject.arrays(case)
    try:
        subject.harness.apply(case.network, arrays, arrays["x"])
    except Exception:
        return True
    return False


@check("values")
def named_activations(subject: Subject) -> None:
    """at= penalises with respect to a named activation where the backend declares names, and is refused elsewhere."""
    harness = subject.harness
    named: Callable[..., Any] | None = getattr(harness, "named_model", None)
    if "named_activations" not in subject.capabilities:
        _is_refused(subject)
        return
    if named is None:
        raise Disagreement(
            "the backend declares named_activations, but its harness has no named_model(network, arrays) by which that "
            "can be tested"
        )
    # The reference names a layer by its index.
    at = st.integers(0, len(_NAMED.layers) - 2).map(str)
    regs = st.builds(SpectReg, st.just(1.0), seed=st.integers(0, 9), at=at)

    @subject.given(cases(harness, regs, st.just(_NAMED), batch=(3, 3)), cost=2)
    def _(case):  # type: ignore[no-untyped-def]
        def function(arrays: Any) -> Any:
            model, names = named(_NAMED, arrays)
            reg = replace(case.reg, at=names[int(case.reg.at)])
            return harness.calls.penalty(model, arrays["x"], None, reg)

        value, slopes = harness.value_and_gradients(function, subject.arrays(case), subject.mode)
        numbers = {"value": np.asarray(harness.numpy(value), np.float64)}
        subject.compare(case, f"the penalty at={case.reg.at!r}", numbers, expected_value(case))
        gradients = {name: np.asarray(harness.numpy(slopes[name]), np.float64) for name in (*_NAMED.weights(), "x")}
        subject.compare(case, f"the gradients of the penalty at={case.reg.at!r}", gradients, expected_gradient(case))


def _is_refused(subject: Subject) -> None:
    case = Case(_NAMED, SpectReg(1.0, at="0"), dtype=subject.harness.dtypes[0])
    try:
        subject.value(case)
    except UnsupportedError as error:
        if "at=" not in str(error):
            raise Disagreement(f"at= is refused without a word of it: {error}") from error
    else:
        raise Disagreement(
            "the backend declares no named_activations, but takes at='0'; it must refuse what it ignores"
        )
