"""Draws in NumPy, where the host knows seed, step and sample ids."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from gradreg_core.host_draws import HostPrimitives
from gradreg_core.random import STREAM_DIRECTION, make_draws
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
