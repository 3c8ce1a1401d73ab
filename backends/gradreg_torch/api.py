"""The public names of gradreg in PyTorch."""

from gradreg_torch.calls import calls
from gradreg_torch.criterion import Criterion

__all__ = ["Criterion", "check", "loss", "measure", "penalty"]

loss = calls.loss
penalty = calls.penalty
measure = calls.measure
check = calls.check
