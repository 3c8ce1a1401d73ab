"""Gradient regularization for JAX: ``import gradreg_jax as gradreg``.

Importing this package does not import JAX; the first use of `loss`, `penalty`, `measure` or `check` does.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from gradreg_core.inputs import when_made
from gradreg_core.plugins.lazy import attach

if TYPE_CHECKING:
    from gradreg_core import __version__ as __version__
    from gradreg_core.vocabulary import *  # noqa: F403
    from gradreg_jax.api import *  # noqa: F403
else:
    _attached, __dir__, __all__ = attach(
        __name__,
        ["check", "loss", "measure", "penalty"],
        "gradreg_jax.api",
        install='pip install "gradreg[jax]"',
    )

    def _known_to_jax() -> bool:
        """Register `Inputs` as a pytree for jax.jit if JAX is imported; return whether it is."""
        if not hasattr(sys.modules.get("jax"), "tree_util"):
            return False
        import_module("gradreg_jax.trees")
        return True

    if not _known_to_jax():
        when_made(_known_to_jax)

    def __getattr__(name: str) -> Any:
        return _attached(name)
