"""Worker processes of this machine hand their results over whatever happens to their memory."""

import functools
import warnings

import pytest

from gradreg_experiments.workers import in_processes


def _unit(number: int) -> list[dict[str, int]]:
    from joblib.externals.loky import process_executor

    process_executor._MEMORY_LEAK_CHECK_DELAY = process_executor._MAX_MEMORY_LEAK_SIZE = -(2**40)
    return [{"number": number}]


@pytest.mark.slow
def test_a_worker_that_grows_is_replaced_where_warnings_are_errors() -> None:
    """With these limits any worker is replaced after its second unit, as one is that has loaded a framework."""
    pytest.importorskip("psutil")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = list(in_processes([functools.partial(_unit, number) for number in range(6)], workers=2))
    assert sorted(rows[0]["number"] for rows in results) == list(range(6))
