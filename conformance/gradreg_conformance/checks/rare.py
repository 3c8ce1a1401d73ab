"""Choices that the joint space of calls does not have: many rows, one sample, images, one logit at each position."""

from typing import Any

from gradreg_conformance.cases import Case
from gradreg_conformance.check import check
from gradreg_conformance.forms import Form
from gradreg_conformance.strategies import POSITIONS, SINGLE_LOGIT, TINY
from gradreg_conformance.subject import Subject
from gradreg_core.portable.networks import Activation, Dense, Network
from gradreg_core.presets import ConfidencePenalty, DataGrad, JacReg, SobolevReg, SpectralNormReg, SpectReg
from gradreg_core.projections import direction, exact, fisher, gaussian, orthonormal, rademacher, sphere, top_k
from gradreg_core.spec import JacobianPenalty, Regularizer

_IMAGE = Network((2, 3, 2), (Dense(2), Activation("tanh"), Dense(4)))
_LOGIT_EACH = Network((2, 2), (Dense(2), Activation("tanh"), Dense(1)))
_ROWS = ((1.0, 0.5, -1.0), (0.0, 2.0, 0.25), (-0.5, 0.0, 1.0), (3.0, 1.0, 1.0), (0.25, -2.0, 0.0))


def _term(projection: Any, **options: Any) -> JacobianPenalty:
    return JacobianPenalty(1.0, projection=projection, **options)


_MANY = (
    _term(sphere(12, unbiased=True))
    + _term(rademacher(9))
    + _term(direction(_ROWS))
    + SpectralNormReg(1.0, iterations=20)
)
_OF_CLASSES = DataGrad(1.0) + _term(fisher()) + _term(top_k(2)) + ConfidencePenalty(2.0)
_OF_LOGITS = (
    DataGrad(1.0)
    + JacReg(1.0)
    + _term(fisher(), seed=1)
    + _term(gaussian(), side="input", output="log_probabilities")
    + ConfidencePenalty(2.0)
)
_DRAWS = (
    _term(gaussian())
    + _term(gaussian(), draw="per_batch")
    + _term(fisher(), draw="per_batch")
    + SpectralNormReg(1.0, iterations=1, draw="per_batch")
    + _term(orthonormal(1), side="input")
    + SpectReg(1.0, fraction=0.4, seed=1)
    + SpectReg(1.0, fraction=0.6, seed=2)
    + SpectReg(1.0, fraction=0.6, seed=3)
)
"""Terms of one seed that draw in different ways, and three parts of the batch."""
_NEAR = {"batch": 5, "seed": 212}
"""Two singular values lie so near each other that twelve iterations differ from twenty by one percent."""
_TARGET = SobolevReg(1.0, projection=exact()) + SobolevReg(1.0, projection=gaussian(3))
_WEIGHTS = ((1.0, 0.0), (0.5, 2.0), (0.0, 0.0), (0.0, 1.0), (1.0, 1.0))
_CALLS: tuple[tuple[Network, Regularizer, dict[str, Any]], ...] = (
    (TINY, _MANY + SpectralNormReg(1.0, iterations=1), {**_NEAR, "sample_weight": (0.1, 0.7, 1 / 3, 0.0, 1.9)}),
    (TINY, SpectReg(1.0) + DataGrad(1.0), {"batch": 1, "sample_weight": (2.0,), "ids": (9,), "normalizer": 5.0}),
    (_IMAGE, _OF_CLASSES, {"class_axis": 1}),
    (_IMAGE, _OF_CLASSES, {"class_axis": 2}),
    (TINY, _DRAWS, {"batch": 5, "ids": (7, 3, 12, 5, 9), "sample_weight": (1.0, 0.5, 2.0, 0.25, 3.0)}),
    (
        POSITIONS,
        _TARGET,
        {"batch": 5, "class_axis": -1, "position_weight": _WEIGHTS, "target": "outputs", "chunk_size": 2},
    ),
    (_LOGIT_EACH, _OF_LOGITS, {"batch": 5, "class_axis": -1}),
    (
        SINGLE_LOGIT,
        _OF_LOGITS,
        {"batch": 5, "form": Form(returns="vector"), "position_weight": (0.5, 2.0, 0.0, 1.0, 3.0)},
    ),
)


@check("gradients", general=True)
def choices_that_are_rare(subject: Subject) -> None:
    """Many rows, one sample, images, one logit at each position or alone, draws of several kinds, rows in parts."""
    for network, reg, options in _CALLS:
        if "form" in options and not subject.harness.any_callable:
            continue
        subject.measured.examples += 1
        subject.agree_in_slopes(Case(network, reg, dtype=subject.dtype, **options), "parts", room=4.0)
