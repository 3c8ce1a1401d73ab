"""Settings of the tests of TensorFlow."""

import ctypes
import gc
from collections.abc import Iterator

import keras
import pytest
from tensorflow.python.eager import context

from double_backpropagation import functions


@pytest.fixture(autouse=True, scope="module")
def dropped_programs() -> Iterator[None]:
    """Compiled programs are dropped after each file: they hold memory that no other file needs."""
    yield
    keras.backend.clear_session()
    context.context().clear_kernel_cache()
    gc.collect()
    getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: None)(0)  # glibc keeps freed memory otherwise


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    keras.utils.set_random_seed(0)
    before = functions()
    yield
    assert functions() == before
