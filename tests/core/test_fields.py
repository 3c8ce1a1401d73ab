"""The checks of fields: which values pass, to what they are converted, and what the refusal says."""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pytest
import torch

from gradreg_core.errors import SpecError
from gradreg_core.fields import Boolean, Checked, Choice, Instance, Integer, Number, OptionalInteger, Schedule


def constant(step: int) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("check", "value", "kept"),
    [
        (Number(minimum=0), 0, 0.0),
        (Number(minimum=0), np.float32(0.5), 0.5),
        (Number(minimum=0, maximum=1), torch.tensor(1), 1.0),
        (Number(minimum=-2), -1.5, -1.5),
        (Schedule(minimum=0), 2, 2.0),
        (Schedule(minimum=0), constant, constant),
        (Integer(minimum=1), np.int64(3), 3),
        (Integer(minimum=0, maximum=2**64 - 1), 2**64 - 1, 2**64 - 1),
        (OptionalInteger(minimum=1), None, None),
        (OptionalInteger(minimum=1), 2, 2),
        (Boolean(), False, False),
        (Choice(("a", "b")), "b", "b"),
        (Instance(lambda value: value is None, "None"), None, None),
    ],
)
def test_these_pass(check: Any, value: Any, kept: Any) -> None:
    result = check("Owner", "name", value)
    assert result == kept
    assert type(result) is type(kept)


@pytest.mark.parametrize(
    ("check", "expected", "wrong"),
    [
        (Number(minimum=0), "a finite number at least 0", [-1, math.nan, math.inf, "1", b"1", True, 1j, None, [1.0]]),
        (Number(minimum=0, maximum=1, open_minimum=True), "a finite number greater than 0 and at most 1", [0, 1.5]),
        (Schedule(minimum=0), "a finite number at least 0", [-1, "constant"]),
        (Integer(minimum=1), "an integer of at least 1", [0, 1.0, True, "1", None, torch.tensor(1.5)]),
        (Integer(minimum=1, maximum=9), "an integer of at least 1 and at most 9", [10]),
        (OptionalInteger(minimum=1), "an integer of at least 1", [0, False]),
        (Boolean(), "True or False", [0, 1, None, "True"]),
        (Choice(("a", "b")), "one of 'a', 'b'", ["c", 1, None, ("a",)]),
        (Instance(lambda value: value is None, "None"), "None", [0]),
    ],
)
def test_these_are_refused_with_owner_name_and_value(check: Any, expected: str, wrong: list[Any]) -> None:
    assert repr(check) == expected
    for value in wrong:
        with pytest.raises(SpecError) as caught:
            check("Owner", "name", value)
        assert str(caught.value) == f"Owner: name must be {expected}, got {value!r}."


@dataclass(frozen=True)
class Made(Checked):
    k: Annotated[int, Integer(minimum=1)] = 1
    free: Any = None
    share: Annotated[float, Number(minimum=0), Number(minimum=-1, maximum=1)] = 1.0


def test_fields_carry_their_checks_and_keep_what_these_convert_to() -> None:
    made = Made(np.int32(3), object, 1)  # type: ignore[arg-type]
    assert (made.k, made.free, made.share) == (3, object, 1.0)
    assert [type(made.k), type(made.share)] == [int, float]
    with pytest.raises(SpecError, match=r"^Made: k must be an integer of at least 1, got 0\.$"):
        Made(0)
    with pytest.raises(SpecError, match="Made: share must be a finite number at least -1 and at most 1, got 2"):
        Made(share=2)
