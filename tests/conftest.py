"""Settings that all tests share."""

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# The arrays are tiny: threads inside an operation only get in the way of each other and of tests that run in parallel.
for _variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(_variable, "1")

hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("tests")

_MEMORY = {"limit": 1100.0}
"""Megabytes that a worker may use before compiled programs are dropped; frameworks alone take up to 900."""
_GROWTH = 150.0
"""Megabytes that may come on top of what stays after that."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "xdist_group(name): tests of one group run in one worker")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker runs all of TensorFlow's folder (it takes 700 megabytes), and each other file but those of the kit."""
    for item in items:
        folder, file = item.path.parent.name, item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group({"tensorflow": folder, "kit": item.nodeid}.get(folder, file)))


def _megabytes() -> float:
    """The memory of this process, where /proc tells it."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * _PAGE / 2**20 if statm.exists() else 0.0


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Compiled programs are dropped once they take much memory."""
    yield
    if _megabytes() < _MEMORY["limit"]:
        return
    if (jax := sys.modules.get("jax")) is not None:
        jax.clear_caches()
    if (dynamo := sys.modules.get("torch._dynamo")) is not None:
        dynamo.reset()
    if (keras := sys.modules.get("keras")) is not None:
        keras.backend.clear_session()
    gc.collect()
    getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: None)(0)  # glibc keeps freed memory otherwise
    _MEMORY["limit"] = max(_MEMORY["limit"], _megabytes() + _GROWTH)
