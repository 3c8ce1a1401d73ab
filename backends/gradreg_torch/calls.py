"""gradreg's calls, bound to PyTorch."""

from gradreg_core.calls import Calls
from gradreg_torch.backend import TorchBackend

__all__ = ["calls"]

calls = Calls(TorchBackend())
