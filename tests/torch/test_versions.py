"""Behaviour on older versions of PyTorch, simulated by removing the names that they do not have."""

import pytest
import torch
from torch.autograd.graph import disable_saved_tensors_hooks, save_on_cpu

from gradreg_core.errors import UnsupportedError
from gradreg_torch import versions
from gradreg_torch.kinks import Smoothed
from gradreg_torch.versions import HIDDEN_HOOKS, innermost_hooks, outside_of_compiled


def test_hooks_that_are_on_are_noticed_where_they_are_not_shown(monkeypatch):
    monkeypatch.delattr(torch._C._autograd, "_top_saved_tensors_default_hooks")
    assert innermost_hooks() is None
    with save_on_cpu():
        assert innermost_hooks() == HIDDEN_HOOKS
        with pytest.raises(UnsupportedError, match=r"Switch checkpoints and save_on_cpu off .* PyTorch 2\.8 or newer"):
            Smoothed().hold_in_recomputation()
        assert innermost_hooks() == HIDDEN_HOOKS  # asking leaves them as they are
    with disable_saved_tensors_hooks("not here"):
        assert innermost_hooks() is None
        with pytest.raises(RuntimeError, match="not here"), save_on_cpu():
            pass
    assert innermost_hooks() is None


def test_calls_are_left_out_of_compiled_programs_where_they_cannot_be_traced(monkeypatch):
    class Calls:
        def loss(self, x):
            return x.sum() if not torch.compiler.is_compiling() else x.sum() + 1

    assert outside_of_compiled(Calls, "loss") is Calls
    monkeypatch.setattr(versions, "COMPILES", False)
    calls = outside_of_compiled(Calls, "loss")()
    assert torch.compile(lambda x: calls.loss(x) * 2, backend="eager")(torch.ones(3)) == 6
    torch._dynamo.reset()
