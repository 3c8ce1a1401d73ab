"""Gradient regularization for Keras' fit: ``from gradreg_keras import RegularizedModel``.

Keras runs on TensorFlow, JAX or PyTorch. Importing this package imports none of them; the first use of
`RegularizedModel` imports Keras and the framework that it runs on.
"""

from typing import TYPE_CHECKING

from gradreg_core.plugins.lazy import attach

if TYPE_CHECKING:
    from gradreg_core import __version__ as __version__
    from gradreg_core.vocabulary import *  # noqa: F403
    from gradreg_keras.model import RegularizedModel as RegularizedModel
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        ["RegularizedModel"],
        "gradreg_keras.model",
        install='pip install "gradreg[keras]", and the framework that Keras runs on, for example "gradreg[jax]"',
    )
