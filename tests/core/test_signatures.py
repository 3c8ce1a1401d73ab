"""Arguments that do not fit a signature."""

import json
from typing import Any

import numpy as np
import pytest
import torch

import gradreg_numpy
import gradreg_torch
from gradreg_core.errors import GradregError, InputTypeError, SpecError
from gradreg_core.presets import DataGrad, FrobReg, SpectReg
from gradreg_core.projections import direction, gaussian
from gradreg_core.schema import from_dict, to_dict
from gradreg_core.spec import JacobianPenalty

X = torch.ones(3, 2)
MODEL = torch.nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gradreg_torch.loss(MODEL, X, None, None, steps=1), "loss: .* 'steps'. Did you mean step="),
        (lambda: gradreg_torch.loss(MODEL, X), "loss: needs y=, reg="),
        (lambda: gradreg_torch.loss(MODEL, X, None, None, 3), "loss: takes 4 arguments by position .*, got 5"),
        (lambda: gradreg_torch.loss(MODEL, X, None, None, x=X), "loss: got x by position and by keyword"),
        (lambda: gradreg_torch.measure(MODEL, X, sample_weight=[1]), "measure: it takes no sample_weight="),
        (lambda: gradreg_torch.measure(MODEL, X, params=[]), "measure: it takes no params="),
        (lambda: gradreg_torch.Criterion(step=3), "Criterion: .* 'step'. It takes loss_fn, reg"),
        (lambda: gradreg_torch.Criterion()(MODEL, X, None, stpe=3), "Criterion: .* 'stpe'. Did you mean step="),
        (lambda: gradreg_numpy.loss(None, X, None, None, steps=1), "loss: .* 'steps'. Did you mean step="),  # type: ignore[arg-type,call-arg]
        (lambda: DataGrad(1.0, sed=3), "DataGrad: .* 'sed'. Did you mean seed="),  # type: ignore[call-arg]
        (lambda: DataGrad(), "DataGrad: needs weight="),  # type: ignore[call-arg]
        (lambda: gaussian(kk=1), "gaussian: .* 'kk'"),  # type: ignore[call-arg]
    ],
)
def test_arguments_that_do_not_fit(call: Any, message: str) -> None:
    with pytest.raises(InputTypeError, match=message) as raised:
        call()
    assert isinstance(raised.value, GradregError)
    assert isinstance(raised.value, TypeError)


def test_numbers_of_numpy_become_plain_ones() -> None:
    reg = SpectReg(np.float32(2), every=np.int64(3), seed=np.uint64(4), fraction=np.array(0.5))  # type: ignore[arg-type]
    reg_of_direction = JacobianPenalty(np.array(1.0), projection=direction(tuple(np.ones(2))))  # type: ignore[arg-type]
    for value in (reg, reg + reg_of_direction):
        assert from_dict(json.loads(json.dumps(to_dict(value)))) == value


@pytest.mark.parametrize("value", [10**400, 1j, np.complex64(1), np.bool_(True), torch.tensor(True), "1", [1.0]])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(SpecError, match="weight must be a finite number"):
        SpectReg(value)


def test_a_sum_with_a_term_of_ones_own_is_no_dict() -> None:
    class Mine(FrobReg):
        pass

    with pytest.raises(SpecError, match="to_dict: expected a regularizer of gradreg, got Mine"):
        to_dict(Mine(1.0) + FrobReg(1.0))


def test_a_loss_that_detaches_is_named() -> None:
    def loss(z: Any, y: Any) -> Any:
        return z.detach() ** 2

    with pytest.raises(GradregError, match="the outputs do not reach what loss_fn returns"):
        gradreg_torch.penalty(MODEL, X, None, DataGrad(1.0), loss_fn=loss)


def test_ids_beyond_32_bits() -> None:
    ids = torch.tensor([2**40, 1, 2])
    with pytest.raises(GradregError, match=r"sample_ids must lie in \[-2\*\*31, 2\*\*31\)"):
        gradreg_torch.penalty(MODEL, X, None, SpectReg(1.0), sample_ids=ids)
    reg = SpectReg(1.0)
    call = torch.compile(lambda ids: gradreg_torch.penalty(MODEL, X, None, reg, sample_ids=ids), backend="eager")
    assert call(ids).isnan()
    assert call(torch.arange(3)).isfinite()
