"""gradreg's calls in JAX."""

from gradreg_core.frontend import Frontend
from gradreg_jax.backend import JaxBackend

__all__ = ["check", "loss", "measure", "penalty"]

_frontend = Frontend(JaxBackend())
loss = _frontend.loss
penalty = _frontend.penalty
measure = _frontend.measure
check = _frontend.check
