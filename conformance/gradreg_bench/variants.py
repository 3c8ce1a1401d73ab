"""The timed steps: a plain one, one per regularizer, and baselines written without gradreg."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from gradreg_bench.networks import limit
from gradreg_core.errors import InputError
from gradreg_core.presets import (
    ConfidencePenalty,
    DataGrad,
    FrobReg,
    HoffmanReg,
    InputFisher,
    JacReg,
    OneHot,
    RandomOneHot,
    SpectralNormReg,
    SpectReg,
    WeightDecay,
)
from gradreg_core.schema import from_dict
from gradreg_core.spec import Regularizer

__all__ = ["BASELINES", "PLAIN", "Variant", "own_variants", "variants"]

_CYCLE = 16
PLAIN = "plain"
BASELINES = {
    "DataGrad recomputed": "DataGrad with the framework's checkpointing: in PyTorch the model in sqrt(layers) parts, "
    "in JAX as a whole; less memory, more time",
    "separate forward": "the loss, and a projection's penalty from a separate forward pass",
    "projection loop": "each row of the Jacobian of the loss's forward pass, its square added to a sum (the widely "
    "used public package), one backward",
    "backward per projection": "the same with one backward per row, which frees its graph",
    "vmap(jacrev)": "the whole Jacobian by the framework's own transformation, in a separate forward pass",
    "gradient difference": "the penalty's gradient from the difference of two gradients at x and x + h J^T w; wrong at "
    "the kinks of ReLU networks",
}
"""Baselines without gradreg: name -> description."""


@dataclass(frozen=True)
class Variant:
    """One way to make a training step."""

    name: str
    reg: Regularizer | None = None
    """None for the plain step and for a baseline."""
    rows: int | None = 1
    """The number of rows of the Jacobian to pull back; 0 for none, None for all m."""
    share: float = 1.0
    """The fraction of samples or steps that are penalised."""
    cycle: int = 1
    """The number of consecutive steps timed together."""
    due: bool = False
    """Whether each step gets the regularizer due at that step, with a separate program for each."""
    bounded: bool = True
    """Whether the limit of exact double backpropagation applies."""

    def limit(self, first_share: float | None, outputs: int) -> float | None:
        """The lowest ratio to a plain step; None if unknown. Without f, the limit for f = 0, which is lower."""
        if not self.bounded:
            return None
        rows = outputs if self.rows is None else self.rows
        return 1 + self.share * (limit(first_share or 0.0, rows) - 1)


def variants(projections: Sequence[int], patterns: Sequence[str] = ()) -> list[Variant]:
    """Every variant whose name matches one of `patterns` (all if there are no patterns), the plain step first.

    Args:
        projections: numbers of random rows to time SpectReg with; 1 is always timed.
        patterns: patterns as for file names, such as ``"*Reg"``.

    Raises:
        InputError: a pattern matches nothing.
    """
    several = sorted({count for count in projections if count > 1})
    known = [
        Variant("DataGrad", DataGrad(1.0)),
        Variant("SpectReg", SpectReg(0.01)),
        Variant("SpectReg spherical", SpectReg(0.01, spherical=True)),
        *(Variant(f"SpectReg k={k}", SpectReg(0.01, projections=k), k) for k in several),
        Variant("OneHot", OneHot(0.01)),
        Variant("RandomOneHot", RandomOneHot(0.01)),
        Variant("InputFisher", InputFisher(0.1)),
        Variant("HoffmanReg", HoffmanReg(0.01)),
        Variant("FrobReg", FrobReg(0.01), None),
        Variant("JacReg", JacReg(0.1), None),
        Variant("SpectralNormReg", SpectralNormReg(0.01, iterations=2), bounded=False),
        Variant("SpectReg side=input", SpectReg(0.01, side="input"), bounded=False),
        Variant("SpectReg side=input difference", SpectReg(0.01, side="input", method="difference"), bounded=False),
        Variant("DataGrad every=16", DataGrad(1.0, every=_CYCLE), share=1 / _CYCLE, cycle=_CYCLE),
        Variant("DataGrad every=16, due", DataGrad(1.0, every=_CYCLE), share=1 / _CYCLE, cycle=_CYCLE, due=True),
        Variant("DataGrad fraction=1/4", DataGrad(1.0, fraction=0.25), share=0.25),
        Variant("DataGrad recomputed", bounded=False),
        Variant("ConfidencePenalty", ConfidencePenalty(0.1), 0),
        Variant("WeightDecay", WeightDecay(5e-4), 0),
        Variant("separate forward"),
        Variant("projection loop", rows=None),
        Variant("backward per projection", rows=None),
        Variant("vmap(jacrev)", rows=None),
        Variant("gradient difference", bounded=False),
    ]
    for pattern in patterns:
        if not any(fnmatch(variant.name, pattern) for variant in known):
            names = ", ".join(variant.name for variant in known)
            raise InputError(f"bench: no variant matches {pattern!r}; there are {names}.")
    chosen = [
        variant for variant in known if not patterns or any(fnmatch(variant.name, pattern) for pattern in patterns)
    ]
    return [Variant(PLAIN, rows=0), *chosen]


def own_variants(regularizers: Sequence[tuple[str, str]]) -> list[Variant]:
    """Variants of the caller's regularizers, the plain step first.

    Args:
        regularizers: pairs (name, JSON of `to_dict`). A step of a term with `every=n` is the mean over n steps.

    Raises:
        SpecError: a text is not a regularizer.
        InputError: a name is given twice, or equals the plain step's.
    """
    names = [PLAIN, *(name for name, _ in regularizers)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"bench: expected regularizers of different names, got {twice[0]!r} twice; rename one file.")
    chosen = []
    for name, text in regularizers:
        reg = from_dict(json.loads(text))
        chosen.append(Variant(name, reg, cycle=math.lcm(*(term.every for term in reg.terms)), bounded=False))
    return [Variant(PLAIN, rows=0), *chosen]
