"""Settings of the tests of PyTorch."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def dropped_programs() -> Iterator[None]:
    """Compiled programs are dropped after each file: they hold memory that no other file needs."""
    yield
    torch._dynamo.reset()
