"""The public names of gradreg in TensorFlow."""

from gradreg_core.calls import Calls
from gradreg_tensorflow.backend import TensorFlowBackend

__all__ = ["check", "loss", "measure", "penalty"]

_calls = Calls(TensorFlowBackend())
loss = _calls.loss
penalty = _calls.penalty
measure = _calls.measure
check = _calls.check
