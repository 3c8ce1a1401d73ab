"""Gradient regularization of neural networks: one specification for all frameworks.

The names of a specification (`DataGrad`, `SpectReg`, ...), and calls that dispatch on their input. A backend's own
package has the same names: ``import gradreg_torch as gradreg``. Importing this package imports no framework.
"""

from gradreg_core.plugins.dispatch import backend_of, check, load_backend, loss, measure, penalty
from gradreg_core.schema import SCHEMA_VERSION, from_dict, to_dict
from gradreg_core.tuning.once_fitted import OnceFitted
from gradreg_core.tuning.search import search
from gradreg_core.vocabulary import *  # noqa: F403
from gradreg_core.vocabulary import WORDS

__version__ = "0.1.0"
__all__ = [
    "SCHEMA_VERSION",
    "OnceFitted",
    "backend_of",
    "check",
    "from_dict",
    "load_backend",
    "loss",
    "measure",
    "penalty",
    "search",
    "to_dict",
]
__all__ += WORDS
