"""Gradient regularization for PyTorch: ``import gradreg_torch as gradreg``.

Importing this package does not import PyTorch; the first use of `loss`, `penalty`, `measure` or `check` does.
"""

from typing import TYPE_CHECKING

from gradreg_core.plugins.lazy import attach

if TYPE_CHECKING:
    from gradreg_core import __version__ as __version__
    from gradreg_core.vocabulary import *  # noqa: F403
    from gradreg_torch.api import *  # noqa: F403
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        ["Criterion", "check", "loss", "measure", "penalty"],
        "gradreg_torch.api",
        install='pip install "gradreg[torch]"',
        submodules=["compat"],
    )
