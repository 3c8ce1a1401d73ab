"""Wrong backends, each a small change of the PyTorch one, that the conformance kit must catch."""

from mutants import (
    autodiff,
    calls,
    declarations,
    draws,
    dtypes,
    forms,
    formulas,
    kinks,
    layers,
    measures,
    members,
    models,
    modes,
    pairs,
    primitives,
    projections,
    sizes,
)
from mutants.mutant import MUTANTS, Mutant

__all__ = [
    "MUTANTS",
    "Mutant",
    "autodiff",
    "calls",
    "declarations",
    "draws",
    "dtypes",
    "forms",
    "formulas",
    "kinks",
    "layers",
    "measures",
    "members",
    "models",
    "modes",
    "pairs",
    "primitives",
    "projections",
    "sizes",
]
