"""gradreg's calls, bound to PyTorch."""

from gradreg_core.calls import Calls
from gradreg_torch.backend import TorchBackend
from gradreg_torch.eager import EagerBackend
from gradreg_torch.versions import outside_of_compiled

__all__ = ["calls", "shared"]

calls = outside_of_compiled(Calls, "loss", "penalty", "measure", "check")(TorchBackend(EagerBackend))


def shared() -> Calls:
    """The calls of this backend; the plugin returns the same object."""
    return calls
