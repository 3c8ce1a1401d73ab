"""Settings that all tests share."""

import os
import sys
from collections.abc import Iterator

import hypothesis
import pytest

from gradreg_conformance.memory import Memory

# The arrays are tiny: threads inside an operation only get in the way of each other and of tests that run in parallel.
for _variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(_variable, "1")

hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("tests")

_MEMORY = Memory(1200.0)
"""A worker with PyTorch, JAX and TensorFlow has 900 megabytes before it compiles anything."""


_OF_THE_REFERENCE = ("test_a_mutant_is_killed", "test_the_honest_original", "test_a_built_in_backend_passes")
"""Tests of the kit that need the same results of the reference, which take longer than those of a backend."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "xdist_group(name): tests of one group run in one worker")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one group run in one worker: a file's, all of TensorFlow's (700 megabytes), one of the kit's.

    Those of the kit that share results of the reference are one group. It has the most tests, so it starts first.
    """
    for item in items:
        folder, (file, _, name) = item.path.parent.name, item.nodeid.partition("::")
        group = item.nodeid if folder == "kit" else folder if folder == "tensorflow" else file
        item.add_marker(pytest.mark.xdist_group("reference" if name.startswith(_OF_THE_REFERENCE) else group))


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Compiled programs are dropped once they take much memory."""
    yield
    _MEMORY.keep(_release)


def _release() -> None:
    if (jax := sys.modules.get("jax")) is not None:
        jax.clear_caches()
    if (dynamo := sys.modules.get("torch._dynamo")) is not None:
        dynamo.reset()
    if (keras := sys.modules.get("keras")) is not None:
        keras.backend.clear_session()
    if (eager := sys.modules.get("tensorflow.python.eager.context")) is not None:
        eager.context().clear_kernel_cache()
