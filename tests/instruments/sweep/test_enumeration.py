"""Operations listed by modules: what suits a pattern is called, and the rest is named with the reason."""

import warnings
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from gradreg_sweep.enumeration import Patterns, enumerate_functions
from gradreg_sweep.operation import Operation
from gradreg_sweep.registry import framework
from gradreg_sweep.search import examine
from gradreg_sweep.torch_opinfo import listed_operations
from instruments.sweep.findings import disagreement, run


def test_functions_are_listed_once_with_arguments_that_suit_or_with_a_reason() -> None:
    module = ModuleType("m")
    vars(module).update(
        double=lambda h: 2 * h,
        twice=np.sin,
        sinus=np.sin,
        ratio=lambda h, other: h / other,
        split=lambda h: [h, h**2],
        random_draw=lambda h: h,
        text=lambda h: "text",
        known=np.cos,
        Kind=SimpleNamespace,
        _private=np.exp,
    )

    def evaluate(code, values):
        return eval(code, {"m": module, "np": np, **values})

    patterns = Patterns("np.sin(h) + 2", "h @ h.T + 2 * np.eye({n})", "np.abs({value})")
    known = [Operation("k", "m.known(h)")]
    listed = list(enumerate_functions({"m": module}, patterns, evaluate, known, {"random": "it is random"}))
    assert {operation.name: operation.code for operation in listed if not operation.untried} == {
        "m.double": "m.double(h)",
        "m.sinus": "m.sinus(h)",
        "m.ratio": "m.ratio(h, np.sin(h) + 2)",
        "m.split": "m.split(h)[0]",
    }
    assert {operation.name: operation.untried for operation in listed if operation.untried} == {
        "m.random_draw": "it is random",
        "m.text": "no pattern of arguments fits it",
    }


def test_pytorch_s_records_become_operations_with_samples_that_can_be_written_down() -> None:
    records = pytest.importorskip("torch.testing._internal.common_methods_invocations").op_db
    wanted = {"acosh", "logdet", "item", "T", "nn.functional.relu"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        listed = {operation.name: operation for operation in listed_operations(r for r in records if r.name in wanted)}
    swept = framework("torch")
    assert examine(swept, listed["torch.acosh"], "eager", 2).kind == "right"
    logdet = examine(swept, listed["torch.logdet"], "eager", 2, "reverse-forward")
    assert logdet.kind == "wrong"
    assert disagreement(run(logdet)) > 1e-2
    assert listed["torch.item"].untried
    assert listed["torch.T"].untried
    assert "torch.nn.functional.relu" not in listed  # there is an operation of that name


def test_borrowed_arguments_that_do_not_suit_say_nothing_about_the_framework() -> None:
    detached = Operation("mine", "h.detach() * 2", borrowed=True)
    assert examine(framework("torch"), detached, "eager", 2).kind == "undecided"
    assert examine(framework("torch"), replace(detached, code="h.sin()"), "eager", 2).kind == "right"
