"""Hypothesis strategies that draw the terms of the specification, with weight 1."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from gradreg_core import presets
from gradreg_core.norms import NORMS, Phi, hinge, identity, target
from gradreg_core.outputs import OUTPUTS
from gradreg_core.projections import (
    Projection,
    direction,
    exact,
    fisher,
    gaussian,
    onehot,
    ones,
    orthonormal,
    rademacher,
    random_onehot,
    sphere,
    top_k,
    top_singular,
)
from gradreg_core.spec import JacobianPenalty, NormedTerm, Term

__all__ = [
    "CHECKED_ALONE",
    "PHIS",
    "PRESETS",
    "PROJECTIONS",
    "Drawn",
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
"""Small seeds; that all 64 bits count has a check of its own."""

PHIS: dict[str, st.SearchStrategy[Phi]] = {
    "identity": st.just(identity()),
    "target": st.sampled_from([0.0, 0.5, 1.0, 3.0]).map(target),
    "hinge": st.sampled_from([0.0, 0.5, 3.0]).map(hinge),
}
"""How every phi of the vocabulary is drawn, by name."""
phis: st.SearchStrategy[Phi] = st.one_of(*PHIS.values())


Projections = st.SearchStrategy[Projection]


class Drawn(NamedTuple):
    """How the kit draws one projection."""

    of: Projections | Callable[[int, int], Projections]
    """Every choice of it; a function of the numbers of classes and positions where the choices depend on them."""
    claim: str = ""
    """The claim of its own check of values; empty where a check of gradients is about it."""
    own: tuple[Projections, ...] = ()
    """The choices that its own check draws for four classes; `of` if empty."""

    def strategy(self, classes: int, positions: int) -> Projections:
        """`of` for that many classes at that many positions."""
        return self.of(classes, positions) if callable(self.of) else self.of


_few, _rows, _flags = st.integers(1, 3), st.integers(2, 3), st.booleans()
_of_four = st.tuples(*[st.sampled_from([-1.0, 0.25, 2.0])] * 4)


def _biased_or_not(kind: Callable[..., Projection]) -> tuple[Projections, ...]:
    return tuple(st.builds(kind, _rows, st.just(unbiased)) for unbiased in (False, True))


def _orthonormal(classes: int, positions: int) -> Projections:
    return st.builds(orthonormal, st.integers(1, min(3, classes * positions)), _flags)


def _direction(classes: int, positions: int) -> Projections:
    vectors = st.tuples(*[st.sampled_from([-1.0, -0.25, 0.5, 2.0])] * (classes * positions))
    return st.one_of(st.builds(direction, vectors), st.builds(direction, st.tuples(vectors, vectors)))


_exact = "exact() gives the squared Frobenius norm of the whole Jacobian."
_gaussian = "gaussian(k): normal directions, divided by sqrt(k)."
_rademacher = "rademacher(k): random signs, divided by sqrt(k)."
_sphere = "sphere(k): unit vectors, divided by sqrt(k), times sqrt(m) if unbiased."
_frame = "orthonormal(k): rows of a frame, divided by sqrt(k), times sqrt(m) if unbiased."
_classes = "random_onehot(k): uniform over all classes, divided by sqrt(k), times sqrt(m) if unbiased."
_given = "direction(v): one vector, or the rows of a matrix, as they are in the specification."
PROJECTIONS: dict[str, Drawn] = {
    "exact": Drawn(st.just(exact()), _exact),
    "gaussian": Drawn(st.builds(gaussian, _few), _gaussian, (st.builds(gaussian, _rows),)),
    "rademacher": Drawn(st.builds(rademacher, _few), _rademacher, (st.builds(rademacher, _rows),)),
    "sphere": Drawn(st.builds(sphere, _few, _flags), _sphere, _biased_or_not(sphere)),
    "orthonormal": Drawn(_orthonormal, _frame, _biased_or_not(orthonormal)),
    "random_onehot": Drawn(st.builds(random_onehot, _few, _flags), _classes, _biased_or_not(random_onehot)),
    "onehot": Drawn(st.just(onehot()), "onehot(): the logit of the true class."),
    "ones": Drawn(st.just(ones()), "ones(): the sum of all outputs."),
    "top_k": Drawn(
        lambda classes, positions: st.builds(top_k, st.integers(1, classes)),
        "top_k(k): the sum of the k largest logits.",
        (st.builds(top_k, _rows),),
    ),
    "fisher": Drawn(st.just(fisher())),
    "direction": Drawn(
        _direction, _given, (st.builds(direction, _of_four), st.builds(direction, st.tuples(_of_four, _of_four)))
    ),
    "top_singular": Drawn(st.builds(top_singular, st.integers(1, 4))),
}
"""How every projection of the vocabulary is drawn, by name. A projection with a claim has a check of its values."""


def projections(classes: int, positions: int = 1) -> Projections:
    """Every projection, for that many classes at that many positions."""
    return st.one_of(*(drawn.strategy(classes, positions) for drawn in PROJECTIONS.values()))


@st.composite
def general_terms(draw: Any, classes: int, positions: int = 1) -> JacobianPenalty:
    """The general form: every valid choice of projection, output, norm, phi and scale."""
    output = draw(st.sampled_from(list(OUTPUTS)))
    projection = exact() if output == "loss" else draw(projections(classes, positions))
    assume(not _vanishes(projection, output, classes))
    return JacobianPenalty(
        1.0,
        projection=projection,
        output=output,
        norm=draw(st.sampled_from(list(NORMS))),
        squared=draw(st.booleans()),
        phi=draw(phis),
        scale=draw(st.sampled_from([1.0, 0.5, 2.5])),
    )


@st.composite
def input_terms(draw: Any, inputs: int) -> JacobianPenalty:
    """The general form with directions in the space of the input, which has `inputs` components, by exact products."""
    sided = projections(inputs).filter(lambda one: one.on_input_side and one != direction())
    return JacobianPenalty(
        1.0,
        side="input",
        projection=draw(sided),
        output=draw(st.sampled_from(list(OUTPUTS))),
        norm=draw(st.sampled_from(list(NORMS))),
        squared=draw(st.booleans()),
        phi=draw(phis),
    )


_numbers = st.integers(1, 3)
_CHOICES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "SpectReg": {"spherical": st.booleans(), "projections": _numbers},
    "HoffmanReg": {"projections": st.none() | _numbers},
    "GradientPenalty": {
        "target": st.sampled_from([1.0, 0.0, 2.0]),
        "one_sided": st.booleans(),
        "projection": st.sampled_from([exact(), ones()]),
    },
    "R1": {"projection": st.sampled_from([exact(), ones()])},
    "SpectralNormReg": {"iterations": st.integers(1, 4), "squared": st.booleans()},
}
"""The fields that only one preset has."""
_NORMED: dict[str, st.SearchStrategy[Any]] = {"norm": st.sampled_from(list(NORMS)), "squared": st.booleans()}
CHECKED_ALONE = {"LayerwiseReg": "between_layers", "SobolevReg": "target_jacobians"}
"""Presets that need more of the call than others, with the check that draws them."""
PRESETS: dict[str, st.SearchStrategy[Term]] = {
    name: st.builds(kind, st.just(1.0), **_CHOICES.get(name, {}), **(_NORMED if issubclass(kind, NormedTerm) else {}))
    for name, kind in vars(presets).items()
    if name in presets.__all__ and issubclass(kind, Term) and name not in CHECKED_ALONE
}
"""Every named regularizer by name, with weight 1 and every choice of its own."""


def preset_terms() -> st.SearchStrategy[Term]:
    """Every named regularizer, with every choice of its own, weight 1."""
    return st.one_of(*PRESETS.values())


def _vanishes(projection: Projection, output: str, classes: int) -> bool:
    """Whether J^T W is zero but for rounding: probabilities sum to 1, and the sum over all classes has no gradient."""
    if output != "probabilities" or classes == 1:
        return False
    if isinstance(projection, direction) and projection.v is not None:
        return not np.ptp(np.reshape(projection.v, (-1, classes)), axis=1).any()
    return projection in (top_k(classes), ones())
