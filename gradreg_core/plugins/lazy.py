"""Packages whose public names load a framework only when one that needs it is used (PEP 562)."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from gradreg_core import vocabulary
from gradreg_core.errors import BackendImportError

__all__ = ["attach", "import_heavy"]


def attach(
    package: str, names: Sequence[str], source: str, *, install: str, submodules: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` for the ``__init__`` of a backend's package.

    The names of :mod:`gradreg_core.vocabulary` and ``__version__`` need no framework; `names` come from `source`,
    which is imported when the first of them is used. Type checkers do not run this, so the package shows
    them the same names:

        if TYPE_CHECKING:
            from gradreg_core.vocabulary import *
            from gradreg_torch.api import *
        else:
            __getattr__, __dir__, __all__ = attach(__name__, [...], "gradreg_torch.api", install="pip install ...")

    No submodule may have the name of one of `names`: importing it would replace the name.

    Args:
        package: the package's `__name__`.
        names: the public names that `source` defines and the package exports.
        source: the heavy module.
        install: the command that installs what `source` needs, for the error.
        submodules: modules of the package that load as attributes too; not in `__all__`.
    """
    public = sorted({*vocabulary.WORDS, *names})

    def __getattr__(name: str) -> Any:  # noqa: N807 - it becomes the package's
        if name in vocabulary.WORDS:
            value = getattr(vocabulary, name)
        elif name in names:
            value = getattr(import_heavy(f"{package}.{name}", source, install), name)
        elif name in submodules:
            value = import_heavy(f"{package}.{name}", f"{package}.{name}", install)
        elif name == "__version__":
            value = sys.modules["gradreg_core"].__version__
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=sys.modules[package])
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:  # noqa: N807
        return sorted({*vars(sys.modules[package]), *public, *submodules})

    return __getattr__, __dir__, public


def import_heavy(call: str, module: str, install: str) -> ModuleType:
    """Import `module`, on behalf of `call`.

    Raises:
        BackendImportError: something that it imports is missing; the message says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        message = f"{call}: importing {module!r} failed: {error}. Install what it needs with: {install}"
        raise BackendImportError(message, name=error.name, path=error.path) from error
