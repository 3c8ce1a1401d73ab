"""Settings of the tests of JAX."""

from collections.abc import Iterator

import pytest

from gradreg_jax.versions import enable_x64


@pytest.fixture
def x64() -> Iterator[None]:
    """64-bit types for one test; the setting is local to it."""
    with enable_x64(True):
        yield
