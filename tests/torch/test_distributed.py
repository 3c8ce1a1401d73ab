"""Processes that share a batch and a model have the gradient of the whole batch in one process."""

from pathlib import Path
from typing import Any

import pytest
import torch

import ranks

REFUSED = {
    "static": "DistributedDataParallel(static_graph=True) does not average",
    "flattened": "FullyShardedDataParallel treats an inner backward pass as the whole",
    "flattened, whole": "FullyShardedDataParallel treats an inner backward pass as the whole",
    "split layers": "parallelize_module",
    "checked, sharded": "Check the model before fully_shard",
    "checked, static": "DistributedDataParallel(static_graph=True) does not average",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All cases of distributed_step.py in four processes on gloo, each with a part of the batch."""
    script = Path(__file__).with_name("distributed_step.py")
    return ranks.results(script, 4, tmp_path_factory.mktemp("distributed"))


@pytest.mark.slow
def test_the_gradient_is_that_of_one_process(results: dict[str, Any]) -> None:
    right = {name: result for name, result in results.items() if not isinstance(result, str)}
    assert len(right) > 46
    for name, (came, wanted) in right.items():
        # The mean of means, in float64; a difference is divided by h = 1e-3; float32 keeps 24 bits of each product.
        close = {"rtol": 1e-12, "atol": 1e-15} if "difference" not in name else {"rtol": 1e-9, "atol": 1e-12}
        close = {"rtol": 1e-5, "atol": 1e-6} if "float32" in name else close
        close = {"rtol": 0.0, "atol": 0.0} if name.startswith("draws") else close
        torch.testing.assert_close(came, wanted, **close, msg=lambda text, name=name: f"{name}: {text}")


def test_wrappers_that_would_be_wrong_are_refused_with_remedies_that_work(results: dict[str, Any]) -> None:
    refused = {name: result for name, result in results.items() if isinstance(result, str)}
    assert {name.split(":")[0] for name in refused} == set(REFUSED)
    for name, message in refused.items():
        assert REFUSED[name.split(":")[0]] in message
        if name.startswith("checked"):
            continue  # its remedy is the check of the other tests: a model in one process
        assert "method='difference'" in message
        right = [f"{name.split(':')[0]}: penalty by difference", "replicated: loss", "sharded: loss"]
        assert not any(isinstance(results[remedy], str) for remedy in right)
