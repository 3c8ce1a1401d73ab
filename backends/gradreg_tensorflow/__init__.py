"""Gradient regularization for TensorFlow: ``import gradreg_tensorflow as gradreg``.

Importing this package does not import TensorFlow; the first use of `loss`, `penalty`, `measure` or `check` does.
"""

from typing import TYPE_CHECKING

from gradreg_core.plugins.lazy import attach

if TYPE_CHECKING:
    from gradreg_core import __version__ as __version__
    from gradreg_core.vocabulary import *  # noqa: F403
    from gradreg_tensorflow.api import *  # noqa: F403
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        ["check", "loss", "measure", "penalty"],
        "gradreg_tensorflow.api",
        install='pip install "gradreg[tensorflow]"',
    )
