"""Makes hypothesis draw the same examples wherever the checks run."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from hypothesis.internal.conjecture import providers

__all__ = ["same_draws"]


@contextmanager
def same_draws() -> Iterator[None]:
    """Keep the source code of other modules out of the draws.

    Hypothesis collects the constants in the source of all loaded modules that are not in site-packages, and draws one
    draw in twenty from them. So which examples a check sees would depend on what else is imported, and on each number
    in its source; and hypothesis would leave a folder in the working directory. A version of hypothesis that does this
    under other names is left as it is.
    """
    if not all(hasattr(providers, name) for name in ("_get_local_constants", "CONSTANTS_CACHE", "Constants")):
        yield
        return
    cache = type(providers.CONSTANTS_CACHE)(1024)  # of what the constants give for each kind of draw
    none = getattr(providers, "Constants")  # noqa: B009 - hypothesis does not export it
    with patch.multiple(providers, _get_local_constants=none, CONSTANTS_CACHE=cache):
        yield
