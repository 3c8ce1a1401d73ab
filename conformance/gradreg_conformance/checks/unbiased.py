"""The statements on expectations, as statistical tests on many samples of one point in one call."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from gradreg_conformance.cases import Case
from gradreg_conformance.check import check
from gradreg_conformance.reference import UNIT_ROUNDOFF
from gradreg_conformance.subject import Subject
from gradreg_core.portable.networks import Dense, Network
from gradreg_core.projections import Projection, fisher, gaussian, orthonormal, rademacher, random_onehot, sphere
from gradreg_core.spec import JacobianPenalty

_STANDARD_ERRORS = 6.0
"""A mean of 1000 is normal enough for an honest backend to be further away about once in 1e7 tests; the quick and the
default profile draw the same seeds in every run anyway."""

_SAMPLES = 1000
_OUTPUTS = 130  # more than fit into two blocks of 64 signs
_NETWORK = Network((2,), (Dense(_OUTPUTS),))


@check("laws")
def random_projections_are_unbiased(subject: Subject) -> None:
    """The mean over draws is ||J||_F^2, and for fisher tr J^T (diag(f) - f f^T) J, with many outputs too."""

    @subject.given(st.integers(0, 2**32 - 1), cost=5)
    def _(seed):  # type: ignore[no-untyped-def]
        rng = np.random.default_rng(seed)
        # The rows of J are nearly equal, so that directions with components that depend on each other show.
        params = {"0.weight": 1 + 0.3 * rng.normal(size=(2, _OUTPUTS)), "0.bias": rng.normal(size=_OUTPUTS)}
        arrays = {path: subject.array(value, subject.dtype) for path, value in params.items()}
        arrays["x"] = subject.array(np.zeros((_SAMPLES, 2)), subject.dtype)
        for projection, (mean, variance) in _moments(params["0.weight"].T, params["0.bias"]).items():
            reg = JacobianPenalty(1.0, projection=projection, seed=seed)

            def function(given: Any, reg: JacobianPenalty = reg) -> Any:
                return subject.harness.calls.penalty(subject.model(_NETWORK, given), given["x"], None, reg)

            value = subject.harness.value(function, arrays, subject.mode)
            average = float(subject.numbers(value))
            allowed = _STANDARD_ERRORS * (variance / _SAMPLES) ** 0.5 + 16 * UNIT_ROUNDOFF[subject.dtype] * mean
            case = Case(_NETWORK, reg, _SAMPLES, dtype=subject.dtype, labels="none")
            subject.close(case, f"the mean of {_SAMPLES} draws, whose expectation is known,", average, mean, allowed)


def _moments(J: np.ndarray, z: np.ndarray) -> dict[Projection, tuple[float, float]]:
    """Mean and variance of ||J^T W||^2 for each projection, J of shape (m, d); docs/mathematics.md has the formulas."""
    A, m = J @ J.T, len(J)
    trace, square, diagonal = np.trace(A), (A * A).sum(), (np.diagonal(A) ** 2).sum()
    on_sphere = 2 * m / (m + 2) * square - 2 / (m + 2) * trace**2
    f = np.exp(z) / np.exp(z).sum()
    charged = ((f @ J - J) ** 2).sum(axis=1)  # ||J^T (f - e_c)||^2 for each class c
    expected = float(f @ charged)
    return {
        gaussian(): (trace, 2 * square),
        rademacher(): (trace, 2 * (square - diagonal)),
        sphere(unbiased=True): (trace, on_sphere),
        orthonormal(2, unbiased=True): (trace, on_sphere * (m - 2) / (2 * (m - 1))),
        random_onehot(unbiased=True): (trace, m * diagonal - trace**2),
        fisher(): (expected, float(f @ charged**2) - expected**2),
    }
