"""Hypothesis strategies that draw the terms of the specification, with weight 1."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from gradreg_core.norms import NORMS, Phi, hinge, identity, target
from gradreg_core.presets import (
    R1,
    ConfidencePenalty,
    DataGrad,
    FrobReg,
    GradientPenalty,
    HoffmanReg,
    InputFisher,
    JacReg,
    OneHot,
    RandomOneHot,
    SpectralNormReg,
    SpectReg,
    WeightDecay,
)
from gradreg_core.projections import (
    Projection,
    direction,
    exact,
    fisher,
    gaussian,
    onehot,
    orthonormal,
    rademacher,
    random_onehot,
    sphere,
    top_k,
    top_singular,
)
from gradreg_core.spec import OUTPUTS, JacobianPenalty, Term

__all__ = [
    "PRESETS",
    "Ramp",
    "general_terms",
    "input_terms",
    "phis",
    "preset_terms",
    "projections",
    "seeds",
]


@dataclass(frozen=True)
class Ramp:
    """A schedule of weights: start + slope * step, for traced steps too."""

    start: float
    slope: float

    def __call__(self, step: Any) -> Any:
        """The weight at `step`."""
        return self.start + self.slope * step


seeds = st.integers(0, 99)
"""Small seeds; that of 64 bits all count has a check of its own."""

phis: st.SearchStrategy[Phi] = st.one_of(
    st.just(identity()),
    st.sampled_from([0.0, 0.5, 1.0, 3.0]).map(target),
    st.sampled_from([0.0, 0.5, 3.0]).map(hinge),
)


def projections(classes: int, positions: int = 1) -> st.SearchStrategy[Projection]:
    """Every projection, for so many classes at so many positions."""
    size = classes * positions
    rows, unbiased = st.integers(1, 3), st.booleans()
    vectors = st.tuples(*[st.sampled_from([-1.0, -0.25, 0.5, 2.0])] * size)
    return st.one_of(
        st.just(exact()),
        st.builds(gaussian, rows),
        st.builds(rademacher, rows),
        st.builds(sphere, rows, unbiased),
        st.builds(orthonormal, st.integers(1, min(3, size)), unbiased),
        st.builds(random_onehot, rows, unbiased),
        st.just(onehot()),
        st.builds(top_k, st.integers(1, classes)),
        st.just(fisher()),
        st.builds(direction, vectors),
        st.builds(direction, st.tuples(vectors, vectors)),
        st.builds(top_singular, st.integers(1, 4)),
    )


@st.composite
def general_terms(draw: Any, classes: int, positions: int = 1) -> JacobianPenalty:
    """The general form: every valid choice of projection, output, norm, phi and scale."""
    output = draw(st.sampled_from(OUTPUTS))
    projection = exact() if output == "loss" else draw(projections(classes, positions))
    assume(not _vanishes(projection, output, classes))
    return JacobianPenalty(
        1.0,
        projection=projection,
        output=output,
        norm=draw(st.sampled_from(NORMS)),
        squared=draw(st.booleans()),
        phi=draw(phis),
        scale=draw(st.sampled_from([1.0, 0.5, 2.5])),
    )


@st.composite
def input_terms(draw: Any, inputs: int) -> JacobianPenalty:
    """The general form with directions in the space of the input, of so many components, by exact products."""
    every = projections(inputs).filter(lambda each: each.on_input_side and each != direction())
    return JacobianPenalty(
        1.0,
        side="input",
        projection=draw(every),
        output=draw(st.sampled_from(OUTPUTS)),
        norm=draw(st.sampled_from(NORMS)),
        squared=draw(st.booleans()),
        phi=draw(phis),
    )


_numbers = st.integers(1, 3)
PRESETS: dict[str, st.SearchStrategy[Term]] = {
    "DataGrad": st.just(DataGrad(1.0)),
    "SpectReg": st.builds(SpectReg, st.just(1.0), spherical=st.booleans(), projections=_numbers),
    "FrobReg": st.just(FrobReg(1.0)),
    "JacReg": st.just(JacReg(1.0)),
    "HoffmanReg": st.builds(HoffmanReg, st.just(1.0), projections=st.none() | _numbers),
    "GradientPenalty": st.builds(
        GradientPenalty, st.just(1.0), target=st.sampled_from([1.0, 0.0, 2.0]), one_sided=st.booleans()
    ),
    "R1": st.just(R1(1.0)),
    "OneHot": st.just(OneHot(1.0)),
    "RandomOneHot": st.just(RandomOneHot(1.0)),
    "InputFisher": st.just(InputFisher(1.0)),
    "SpectralNormReg": st.builds(SpectralNormReg, st.just(1.0), iterations=st.integers(1, 4)),
    "ConfidencePenalty": st.just(ConfidencePenalty(1.0)),
    "WeightDecay": st.just(WeightDecay(1.0)),
}
"""The named regularizers by name, with weight 1 and every choice that is theirs alone."""


def preset_terms() -> st.SearchStrategy[Term]:
    """Every named regularizer, with every choice of its own, weight 1."""
    return st.one_of(*PRESETS.values())


def _vanishes(projection: Projection, output: str, classes: int) -> bool:
    """Whether J^T W is zero but for rounding: probabilities sum to 1, and the sum over all classes has no gradient."""
    if output != "probabilities" or classes == 1:
        return False
    if isinstance(projection, direction):
        return not np.ptp(np.reshape(projection.v, (-1, classes)), axis=1).any()
    return projection == top_k(classes)
