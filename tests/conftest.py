"""Settings that all tests share."""

import itertools
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.util import find_spec

import hypothesis
import pytest

from gradreg_conformance.memory import Memory

# The arrays are tiny: threads inside an operation only get in the way of each other and of tests that run in parallel.
for _variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(_variable, "1")

# These folders have the names of frameworks. Where one is not installed, its folder would be taken for it.
for _framework in ("jax", "keras", "tensorflow", "torch"):
    _spec = find_spec(_framework)
    if _spec is not None and _spec.origin is None:
        sys.modules[_framework] = None  # type: ignore[assignment]

hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("tests")

_MEMORY = Memory(1200.0)
"""A worker with PyTorch, JAX and TensorFlow has 900 megabytes before it compiles anything."""


_OF_THE_REFERENCE = (
    "test_a_mutant_is_killed",
    "test_without_any_one_check",
    "test_the_honest_original",
    "test_a_built_in",
)
"""Tests of the kit that need the same results of the reference, which take longer than those of a backend."""
_SHARES = 2
"""Groups that these tests are dealt to. Each computes the reference's results anew; one group would end last by far."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-cases", action="store_true", help="run all cases of tests that are marked sample(n)")


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("all_cases"):  # a fifth of the time of JAX's tests; see `optimised`
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    config.addinivalue_line("markers", "xdist_group(name): tests of one group run in one worker")
    config.addinivalue_line("markers", "slow: takes seconds; `make test` leaves it out, `make test SLOW=1` runs it")
    config.addinivalue_line("markers", "sample(n): without --all-cases only n of its cases run, evenly spread")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("all_cases"):
        _sample(config, items)
    _group(items)


def _sample(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out cases of tests that are marked `sample(n)`: `make test` runs n of them, `make test-all` all."""
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        cases[item.nodeid.partition("[")[0] if item.get_closest_marker("sample") else item.nodeid].append(item)
    kept: set[pytest.Item] = set()
    for group in cases.values():
        marker = group[0].get_closest_marker("sample")
        count = min(len(group), marker.args[0]) if marker else len(group)
        kept.update(group[index * len(group) // count] for index in range(count))
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def _group(items: list[pytest.Item]) -> None:
    """Tests of one group run in one worker: a file's, all of TensorFlow's (700 megabytes), one of the kit's.

    Those of the kit that share results of the reference are two groups. They have the most tests, so they start first.
    """
    share = itertools.cycle(range(_SHARES))
    for item in items:
        folder, (file, _, name) = item.path.parent.name, item.nodeid.partition("::")
        group = item.nodeid if folder == "kit" else folder if folder == "tensorflow" else file
        if name.startswith(_OF_THE_REFERENCE):
            group = f"reference {next(share)}"
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_collection_finish(session: pytest.Session) -> None:
    """pytest-xdist 3.8 groups nothing, and says nothing, under pytest 9.2."""
    if getattr(session.config.option, "loadgroup", False) and session.items and "@" not in session.items[0].nodeid:
        raise pytest.UsageError("these versions of pytest and pytest-xdist do not group tests; see constraints.txt")


@pytest.fixture
def optimised() -> Iterator[None]:
    """All of XLA's passes, which `make test` leaves out elsewhere."""
    jax = pytest.importorskip("jax")
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


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
