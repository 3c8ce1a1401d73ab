"""Every installed backend against the NumPy reference: one network, one batch, the same draws."""

from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

import gradreg_numpy
from gradreg_conformance.harness import load_harness
from gradreg_conformance.total import total_and_gradients
from gradreg_core.portable import networks as nets
from gradreg_core.presets import DataGrad, JacReg, SpectReg
from gradreg_core.spec import Regularizer
from gradreg_experiments.demo.runner import Runner, spread

__all__ = ["Agreement", "agreements", "print_agreements"]

REGULARIZERS: tuple[Regularizer, ...] = (DataGrad(1.0), SpectReg(0.1), JacReg(1.0))
ALLOWED = {"float64": 1e-12, "float32": 1e-5}
"""Relative errors that rounding explains: some thousand unit roundoffs in float64, some hundred in float32."""
NETWORK = nets.Network(
    (6, 6, 1),
    (
        nets.Conv2D(2, 3, "same"),
        nets.Activation("relu"),
        nets.MaxPool(2),
        nets.Flatten(),
        nets.Dense(6),
        nets.Activation("tanh"),
        nets.LayerNorm(),
        nets.Dense(3),
    ),
)


class Agreement(NamedTuple):
    """How far one backend is from the reference with one regularizer."""

    backend: str
    dtype: str
    regularizer: Regularizer
    value: float
    """Relative error of the total loss."""
    gradient: float
    """Relative error, in norm, of all parameter gradients and the input gradient together."""

    @property
    def agrees(self) -> bool:
        """Whether rounding explains the errors."""
        return max(self.value, self.gradient) <= ALLOWED[self.dtype]


def agreements(names: tuple[str, ...]) -> list[Agreement]:
    """Measure the named backends, each in a process of its own."""
    model, x, y = _problem()
    wanted = []
    for reg in REGULARIZERS:
        weights, inputs = gradreg_numpy.gradient(model, x, y, reg, of="total")
        wanted.append((float(gradreg_numpy.loss(model, x, y, reg)[0]), weights | {"x": inputs}))
    found = spread(_measure, [(name, wanted) for name in names], len(names))
    return sorted((row for rows in found for row in rows), key=lambda row: (names.index(row.backend), row.dtype))


def print_agreements(console: Console, rows: list[Agreement]) -> None:
    """The larger error of loss and gradients, as a table."""
    table = Table(title="relative error of loss and gradients against the NumPy reference")
    table.add_column("backend")
    table.add_column("arithmetic")
    for reg in REGULARIZERS:
        table.add_column(repr(reg), justify="right")
    table.add_column("")
    for backend, dtype in dict.fromkeys((row.backend, row.dtype) for row in rows):
        cells = [row for row in rows if (row.backend, row.dtype) == (backend, dtype)]
        errors = [f"{max(cell.value, cell.gradient):.0e}" for cell in cells]
        table.add_row(backend, dtype, *errors, "agrees" if all(cell.agrees for cell in cells) else "DISAGREES")
    console.print(table)


def _problem() -> tuple[gradreg_numpy.Model, Any, Any]:
    rng = np.random.default_rng(0)
    params = gradreg_numpy.initialize(NETWORK, 0)
    return gradreg_numpy.Model(NETWORK, params), rng.normal(size=(3, 6, 6, 1)), rng.integers(0, 3, 3)


def _measure(name: str, wanted: list[tuple[float, dict[str, Any]]]) -> list[Agreement]:
    model, x, y = _problem()
    rows = []
    with Runner(name).loaded():
        harness = load_harness(name)
        for dtype in ALLOWED:
            for reg, (total, gradients) in zip(REGULARIZERS, wanted, strict=True):
                value, found = total_and_gradients(harness, NETWORK, model.params, x, y, reg, dtype=dtype)
                difference = sum(float(((found[path] - gradients[path]) ** 2).sum()) for path in gradients)
                size = sum(float((gradients[path] ** 2).sum()) for path in gradients)
                rows.append(Agreement(name, dtype, reg, abs(value / total - 1), (difference / size) ** 0.5))
    return rows
