"""gradreg in NumPy: the float64 reference that all backends are tested against.

Penalties come from explicit Jacobians of portable networks (:mod:`gradreg_core.portable.networks`), gradients from
complex steps. Neither autodiff nor the engine of the other backends is involved. It is meant for small networks.
"""

from typing import TYPE_CHECKING

from gradreg_core import __version__ as __version__
from gradreg_core import vocabulary
from gradreg_core.vocabulary import *  # noqa: F403
from gradreg_numpy.api import check, loss, measure, penalty
from gradreg_numpy.networks import Model, apply, full_jacobian, initialize, jacobian
from gradreg_numpy.oracle import gradient, penalty_terms

if not TYPE_CHECKING:  # as in the vocabulary
    __all__ = [
        *vocabulary.__all__,
        "Model",
        "apply",
        "check",
        "full_jacobian",
        "gradient",
        "initialize",
        "jacobian",
        "loss",
        "measure",
        "penalty",
        "penalty_terms",
    ]
