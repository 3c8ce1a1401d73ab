"""gradreg's calls in JAX."""

from gradreg_core.frontend import Frontend
from gradreg_jax.backend import JaxBackend
from gradreg_jax.models import Stateful

__all__ = ["Stateful", "check", "loss", "measure", "penalty"]

_frontend = Frontend(JaxBackend())
loss = _frontend.loss
penalty = _frontend.penalty
measure = _frontend.measure
check = _frontend.check
