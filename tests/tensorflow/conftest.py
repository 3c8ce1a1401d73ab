"""Settings of the tests of TensorFlow."""

from collections.abc import Iterator

import keras
import pytest

from double_backpropagation import functions


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    keras.utils.set_random_seed(0)
    before = functions()
    yield
    assert functions() == before
