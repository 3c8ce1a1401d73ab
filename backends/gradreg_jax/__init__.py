"""Gradient regularization for JAX: ``import gradreg_jax as gradreg``.

Importing this package does not import JAX; the first use of `loss`, `penalty`, `measure` or `check` does.
"""

from typing import TYPE_CHECKING

from gradreg_core.plugins.lazy import attach

if TYPE_CHECKING:
    from gradreg_core.vocabulary import *  # noqa: F403
    from gradreg_jax.api import *  # noqa: F403
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        ["check", "loss", "measure", "penalty"],
        "gradreg_jax.api",
        install='pip install "gradreg[jax]"',
    )
