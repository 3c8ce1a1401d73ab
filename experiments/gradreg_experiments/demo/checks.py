"""Every installed backend against the NumPy reference: one network, one batch, the same draws."""

import os

import joblib
from rich.console import Console
from threadpoolctl import threadpool_limits

from gradreg_conformance import Case, agreement
from gradreg_core.cli.terminal import make_table
from gradreg_core.portable import networks as nets
from gradreg_core.presets import DataGrad, JacReg, SpectReg
from gradreg_experiments.curves import DTYPES
from gradreg_experiments.trainers import usable

__all__ = ["compare_with_reference", "print_agreement"]

_REGULARIZERS = (DataGrad(1.0), SpectReg(0.1), JacReg(1.0))
_RELU, _TANH = nets.Activation("relu"), nets.Activation("tanh")
_NETWORK = nets.Network(
    (4, 4, 1),
    (
        *(nets.Conv2D(2, 3, "same"), _RELU, nets.MaxPool(), nets.Flatten()),
        *(nets.Dense(4), _TANH, nets.LayerNorm(), nets.Dense(3)),
    ),
)


def compare_with_reference(name: str) -> list[tuple[str, list[float], bool]]:
    """(arithmetic, relative errors of the total or its gradients per regularizer, whether rounding explains them)."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # without it TensorFlow describes its build on stderr
    rows = []
    with threadpool_limits(1):
        for dtype in DTYPES:
            cases = [Case(_NETWORK, reg, batch=2, dtype=dtype) for reg in _REGULARIZERS]
            comparisons = [tuple(agreement(name, case, of="total").values()) for case in cases]
            errors = [max(comparison.relative for comparison in pair) for pair in comparisons]
            rows.append((dtype, errors, all(comparison.ratio <= 1 for pair in comparisons for comparison in pair)))
    return rows


def print_agreement(console: Console) -> None:
    """The larger error of total and gradients as a table, for every backend that can train here."""
    names, _ = usable()
    parallel = joblib.Parallel(n_jobs=max(1, len(names)))  # frameworks may conflict in one process
    rows = parallel(joblib.delayed(compare_with_reference)(name) for name in names)
    headings = [repr(reg) for reg in _REGULARIZERS]
    table = make_table(
        ("backend", "arithmetic", *headings, ""),
        right=headings,
        title="relative error of loss and gradients against the NumPy reference",
    )
    for name, own in zip(names, rows, strict=True):
        for dtype, errors, agrees in own:
            cells = (f"{error:.0e}" for error in errors)
            table.add_row(name, dtype, *cells, "agrees" if agrees else "DISAGREES")
    console.print(table)
