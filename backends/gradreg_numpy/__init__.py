"""gradreg in NumPy: the float64 reference that all backends are tested against.

Penalties come from explicit Jacobians of portable networks (:mod:`gradreg_core.networks`), gradients from complex steps;
no autodiff and no part of the engine that the other backends share is involved. Slow, and meant for small networks.
"""

from gradreg_core.norms import Shape, hinge, identity, target
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
from gradreg_core.results import Measures, Parts
from gradreg_core.spec import JacobianPenalty, JacobianTerm, Regularizer, Sum, Term
from gradreg_numpy.frontend import loss, measure, penalty
from gradreg_numpy.networks import Model, apply, full_jacobian, initialize, jacobian
from gradreg_numpy.oracle import gradient, penalty_terms

__all__ = [
    "R1",
    "ConfidencePenalty",
    "DataGrad",
    "FrobReg",
    "GradientPenalty",
    "HoffmanReg",
    "InputFisher",
    "JacReg",
    "JacobianPenalty",
    "JacobianTerm",
    "Measures",
    "Model",
    "OneHot",
    "Parts",
    "Projection",
    "RandomOneHot",
    "Regularizer",
    "Shape",
    "SpectReg",
    "SpectralNormReg",
    "Sum",
    "Term",
    "WeightDecay",
    "apply",
    "direction",
    "exact",
    "fisher",
    "full_jacobian",
    "gaussian",
    "gradient",
    "hinge",
    "identity",
    "initialize",
    "jacobian",
    "loss",
    "measure",
    "onehot",
    "orthonormal",
    "penalty",
    "penalty_terms",
    "rademacher",
    "random_onehot",
    "sphere",
    "target",
    "top_k",
    "top_singular",
]
