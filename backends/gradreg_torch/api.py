"""gradreg's calls in PyTorch."""

from gradreg_core.frontend import Frontend
from gradreg_torch.backend import TorchBackend
from gradreg_torch.criterion import Criterion
from gradreg_torch.layers import fast_layers

__all__ = ["Criterion", "check", "fast_layers", "loss", "measure", "penalty"]

_frontend = Frontend(TorchBackend())
loss = _frontend.loss
penalty = _frontend.penalty
measure = _frontend.measure
check = _frontend.check
