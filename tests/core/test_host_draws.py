"""Draws in NumPy, where the host knows seed, step and sample ids."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from gradreg_core import random, threefry
from gradreg_core.host_draws import HostPrimitives
from gradreg_core.random import STREAM_DIRECTION, Draws, make_draws
from gradreg_torch.backend import TorchBackend
from minimal_backend import MINIMAL

OPS = HostPrimitives()
IDS = torch.arange(4, dtype=torch.int32)


class Watched(TorchBackend):
    """A backend that notes which draws it makes itself."""

    def __init__(self) -> None:
        self.made = 0

    def threefry2x32(self, key: Any, counter: Any) -> Any:
        self.made += 1
        return super().threefry2x32(key, counter)


@pytest.mark.parametrize(
    ("seed", "step", "ids", "on_host"),
    [
        (0, 0, IDS, True),
        (2**64 - 1, 2**40, IDS, True),
        (torch.tensor(0), 0, IDS, False),
        (0, torch.tensor(0), IDS, False),
        (0, 0, IDS.to("meta"), False),
    ],
)
def test_the_framework_draws_only_what_the_host_cannot(seed: Any, step: Any, ids: torch.Tensor, on_host: bool) -> None:
    ops = Watched()
    draws = make_draws(ops, seed, step, ids)
    if ids.device.type == "meta":
        assert type(draws).__name__ == "Draws"
        return
    drawn = draws.gaussians(STREAM_DIRECTION, (0,), 3)
    assert isinstance(drawn, torch.Tensor)
    assert drawn.shape == (1, 4, 3)
    assert (ops.made == 0) == on_host


def test_a_backend_whose_values_are_never_free_draws_itself() -> None:
    own, host = (make_draws(ops, 3, 5, IDS).gaussians(STREAM_DIRECTION, (0, 1), 3) for ops in (MINIMAL, TorchBackend()))
    assert torch.equal(own, host)


def test_int32_wraps_around_without_a_warning() -> None:
    top = OPS.int32(2**31 - 1, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (OPS.reshape(top, (1,)) + 1).tolist() == [-(2**31)]
        OPS.threefry2x32((OPS.constant([-1], "int32", None),) * 2, (OPS.constant([2**31 - 1], "int32", None),) * 2)


def test_every_primitive_gives_an_array() -> None:
    row = np.arange(6, dtype=np.int32)
    results = [
        OPS.constant(1.5, "float32", row),
        OPS.int32(7, row),
        OPS.int32(np.int64(2**32 + 7), row),
        OPS.arange(6, row),
        OPS.astype(row, "float32"),
        OPS.reshape(row, (2, -1)),
        OPS.concat([row, row], 0),
        OPS.take(row, np.asarray(2)),
        OPS.where(row[0] > 1, 1.0, 2.0),
        OPS.bitwise_left_shift(row[0], 3),
        OPS.bitwise_right_shift(row[0], 3),
    ]
    assert all(isinstance(result, np.ndarray) for result in results)
    assert int(results[2]) == 7
    assert OPS.shape(results[5]) == (2, 3)
    assert OPS.dtype(results[4]) == "float32"


def fresh(kind: str, seed: int, step: int, ids: np.ndarray, rows: range, size: int) -> np.ndarray:
    """The same draws without any that are kept."""
    return np.asarray(getattr(Draws(OPS, seed, step, ids), kind)(STREAM_DIRECTION, rows, size))


@pytest.mark.parametrize("kind", ["words", "signs", "gaussians", "integers", "uniforms"])
def test_draws_made_ahead_are_those_of_each_step(kind: str) -> None:
    """Steps in a row, repeated, skipped and back, with other seeds, rows, sizes and samples between them."""
    ops = TorchBackend()
    steps = [*range(20), 19, 5, 6, 7, 100, 116, 117, 2**32 - 2, 2**32 - 1, 2**32, *range(30, 70, 16)]
    for step in steps:
        for seed, size, rows, ids in ((1, 3, range(2), IDS), (2, 3, range(1, 3), IDS), (1, 5, range(2), IDS + step)):
            drawn = getattr(make_draws(ops, seed, step, ids), kind)(STREAM_DIRECTION, rows, size)
            assert (drawn.numpy() == fresh(kind, seed, step, ids.numpy(), rows, size)).all()
            drawn.zero_()  # a caller's own, not what is kept


def test_what_is_kept_is_bounded() -> None:
    for seed in range(100):
        for step in range(3):
            make_draws(TorchBackend(), seed, step, IDS).gaussians(STREAM_DIRECTION, range(1), 2**13)
    sizes = [kept.size for _, kept in random._AHEAD.values()]
    assert len(sizes) <= random._KEYS_AHEAD
    assert max(sizes) <= random._STEPS_AHEAD * random._MOST_OF_STEP


def test_draws_that_are_large_are_made_one_step_at_a_time() -> None:
    made = []
    rounds = threefry.uint32_rounds
    ids = torch.arange(2**10, dtype=torch.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threefry, "uint32_rounds", lambda *words: made.append(1) or rounds(*words))  # type: ignore[func-returns-value]
        for step in range(3):
            make_draws(TorchBackend(), 0, step, ids).gaussians(STREAM_DIRECTION, range(1), 64)
    assert len(made) == 3
