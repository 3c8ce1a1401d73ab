"""A third party's backend, which declares a harness and nothing else, is compared by its description alone."""

import numpy as np
import pytest

from gradreg_core import DataGrad, SpectReg
from gradreg_core.errors import GradregError
from gradreg_validation import validate
from instruments.validation.ports import IMAGES, X, Y, arrays, nn, quantities, torch


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def autograd_port(detached=False):
    import autograd.numpy as anp
    from autograd.tracer import getval

    params = {name: array.T for name, array in arrays(network()).items()}

    def hidden(params, x):
        weight = getval(params["0.weight"]) if detached else params["0.weight"]
        return anp.tanh(anp.matmul(x, weight) + params["0.bias"])

    def out(params, h):
        return anp.matmul(h, params["2.weight"]) + params["2.bias"]

    return (lambda params, x: out(params, hidden(params, x)), params), [("1", hidden), ("2", out)]


def test_a_port_agrees(autograd_plugin):
    model, stages = autograd_port()
    names = list(arrays(network()))
    reg = SpectReg(1.0) + DataGrad(1.0)
    options = {"parameters": names, "layers": ["1", "2"], "activations": (None, stages), "repeats": 2}
    report = validate(network(), model, X, Y, reg, backends=(None, autograd_plugin), **options)
    assert report.ok, report
    assert report.backends == ("torch", "autograd")
    assert "parameter gradient of the penalty" in quantities(report)
    assert [row.quantity for row in report.layers] == ["1", "2"]
    assert "autograd" in report.versions


def test_a_weight_that_is_detached_is_caught(autograd_plugin):
    model, _ = autograd_port(detached=True)
    options = {"parameters": list(arrays(network())), "repeats": 1}
    report = validate(network(), model, X, Y, backends=(None, autograd_plugin), **options)
    assert quantities(report, agree=False) == ["parameter gradient of the loss", "parameter gradient of the penalty"]


def test_the_axes_of_x_are_permuted_before_the_model(autograd_plugin):
    import autograd.numpy as anp

    def last(x):
        return anp.tanh(anp.sum(x, axis=(1, 2)))

    def first(x):
        return torch.tanh(x.sum((2, 3)))

    options = {"backends": ("torch", autograd_plugin), "inputs": ((0, 3, 1, 2), None), "repeats": 1}
    assert validate(first, last, IMAGES, **options).ok
    options["inputs"] = ((0, 3, 1, 2), (0, 2, 1, 3))
    assert validate(first, last, IMAGES, **options).ok


def test_a_model_of_another_kind_is_refused(autograd_plugin):
    with pytest.raises(GradregError, match="a pair \\(fn, dict of arrays\\)"):
        validate((np.tanh, [X]), network(), X, backends=(autograd_plugin, None))
