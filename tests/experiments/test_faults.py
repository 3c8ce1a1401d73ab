"""Faults that are injected into real commands, each once; ``make faults`` injects them many times."""

import numpy as np
import pytest

from gradreg_experiments.faults.__main__ import make_page
from gradreg_experiments.faults.files import HOSTILE, READERS, read_damaged, read_hostile
from gradreg_experiments.faults.runner import FAULTS

SLOW = {"a gzip that claims and holds 2**30 bytes", "an npz of more than 2**30 bytes in 5 MB"}
"""Files that take seconds to write; a header alone says the same below."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "kill -9 of the runner, two workers",
        "SIGTERM, one process",
        "a second runner on the folder",
        "no room after some runs",
        "a worker of the cluster without gradreg",
    ],
)
def test_a_fault_of_the_runner_costs_nothing(name, tmp_path):
    if "cluster" in name:
        pytest.importorskip("distributed")
    fault, _ = FAULTS[name]
    assert fault(tmp_path / "runs", 0) == ""


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_refused_or_read(name, tmp_path):
    generator = np.random.default_rng(1)
    file, content, read = READERS[name]
    (tmp_path / file).write_bytes(content)
    read(tmp_path / file)
    assert {read_damaged(name, tmp_path, generator) for _ in range(60)} <= {"refused", "read"}


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in SLOW])
def test_a_hostile_file_is_refused(name, tmp_path):
    assert read_hostile(name, tmp_path) == ""


def test_the_page_has_all_counts():
    counts = {
        "runner": {"kill": {"injected": 3, "right": 2, "failed": ["status 1"]}},
        "damaged": {"IDX": {"files": 5, "refused": 3, "read": 1, "failed": {"KeyError: 'x'": 1}}},
        "hostile": {"bomb": "", "other": "read"},
        "arguments": {"torch": {"calls": 9, "value": 3, "refused": 4, "model": 1, "failed": ["loss x=1: KeyError"]}},
        "versions": {"python": "3.11"},
    }
    page = make_page(counts)
    assert "| kill | 3 | 2 |" in page
    assert "- kill: `status 1`" in page
    assert "| IDX | 5 | 3 | 1 | 1 |" in page
    assert "| bomb | refused |\n| other | read |" in page
    assert "| torch | 9 | 3 | 4 | 1 | 1 |" in page
    assert "- torch: `loss x=1: KeyError`" in page
    assert "{{" not in page
