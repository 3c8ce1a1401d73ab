"""`check` moves copies of the weights: other threads see the live ones at rest."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import gradreg_torch
from gradreg_core.copies import copied
from gradreg_core.presets import SpectReg

X = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)


def elsewhere(function: Callable[[], Any]) -> Any:
    """function() in another thread."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


class Reading:
    """Reads live weights: unlike a function, an object with a call of its own is not made anew over copies."""

    def __init__(self, weights: Callable[[], Any]) -> None:
        self.weights = weights

    def __call__(self) -> Any:
        return self.weights()


def torch_case() -> tuple[Any, Any, Any, Callable[[], Any]]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh())
    return gradreg_torch, torch.tensor(X), net, Reading(lambda: net[0].weight.detach().numpy().copy())


def test_other_threads_see_weights_at_rest() -> None:
    calls, x, net, read = torch_case()
    before, seen = read(), []

    def model(x: Any) -> Any:
        seen.append(elsewhere(read))
        return net(x)

    report = calls.check(model, x, None, SpectReg(1.0))
    assert report.ok
    assert report.disagreement < 1e-3
    assert len(seen) > 20  # the differences' passes too
    assert all((values == before).all() for values in seen)
    assert (read() == before).all()


def test_functions_are_made_anew_over_copies() -> None:
    net = torch.nn.Linear(2, 2)
    pair = [net, 3]
    model = copied(lambda x: pair[0](x) + pair[1], lambda value: isinstance(value, torch.nn.Module))
    x = torch.tensor(X)
    assert torch.equal(model(x), net(x) + 3)
    with torch.no_grad():
        net.weight.zero_()
    assert not torch.equal(model(x), net(x) + 3)
    plain = len
    assert copied(plain, lambda value: False) is plain
