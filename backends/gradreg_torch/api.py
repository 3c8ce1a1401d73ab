"""gradreg's calls in PyTorch."""

from gradreg_core.calls import Calls
from gradreg_torch.backend import TorchBackend
from gradreg_torch.criterion import Criterion

__all__ = ["Criterion", "check", "loss", "measure", "penalty"]

_calls = Calls(TorchBackend())
loss = _calls.loss
penalty = _calls.penalty
measure = _calls.measure
check = _calls.check
