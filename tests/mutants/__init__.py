"""Wrong backends, each a small change of the PyTorch one, that the conformance kit must catch."""

from mutants import autodiff, declarations, draws, dtypes, kinks, primitives
from mutants.mutant import MUTANTS, Mutant

__all__ = ["MUTANTS", "Mutant", "autodiff", "declarations", "draws", "dtypes", "kinks", "primitives"]
