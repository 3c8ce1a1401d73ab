"""The public names of gradreg in JAX."""

from gradreg_core.calls import Calls
from gradreg_jax.backend import JaxBackend

__all__ = ["check", "loss", "measure", "penalty"]

_calls = Calls(JaxBackend())
loss = _calls.loss
penalty = _calls.penalty
measure = _calls.measure
check = _calls.check
