"""Settings of the tests of JAX."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture
def x64() -> Iterator[None]:
    """64-bit types for one test; the setting is local to it."""
    with jax.enable_x64(True):
        yield
