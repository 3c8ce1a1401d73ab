"""gradreg's calls in TensorFlow."""

from gradreg_core.frontend import Frontend
from gradreg_tensorflow.backend import TensorFlowBackend

__all__ = ["check", "loss", "measure", "penalty"]

_frontend = Frontend(TensorFlowBackend())
loss = _frontend.loss
penalty = _frontend.penalty
measure = _frontend.measure
check = _frontend.check
