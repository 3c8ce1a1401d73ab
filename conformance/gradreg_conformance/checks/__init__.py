"""The checks, one family a module; importing this registers them all."""

from gradreg_conformance.checks import (
    gradients,
    laws,
    layers,
    measuring,
    modes,
    norms,
    options,
    outputs,
    projections,
    terms,
    unbiased,
)

__all__ = [
    "gradients",
    "laws",
    "layers",
    "measuring",
    "modes",
    "norms",
    "options",
    "outputs",
    "projections",
    "terms",
    "unbiased",
]
