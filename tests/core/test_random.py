"""The draws: the same bits everywhere, independence of the batch, and the right distributions."""

import hashlib
import math
import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradreg_core.host_draws import HostPrimitives
from gradreg_core.random import STREAM_DIRECTION, STREAM_SUBSET, Draws, gaussian_table, make_draws
from gradreg_torch.backend import TorchBackend
from minimal_backend import MINIMAL


def numpy_array(values: Any) -> np.ndarray:
    return np.asarray(values).astype(np.int64).astype(np.uint32).view(np.int32)


LIBRARIES = {
    "numpy": (HostPrimitives(), numpy_array),
    "torch": (TorchBackend(), lambda values: torch.from_numpy(numpy_array(values))),
    "torch operations": (MINIMAL, lambda values: torch.from_numpy(numpy_array(values))),
}
KINDS = ("words", "signs", "gaussians", "integers", "uniforms")


def draw(library: str, kind: str, size: int, *, seed: int = 5, step: Any = 9, ids: Any = range(7)) -> np.ndarray:
    ops, array = LIBRARIES[library]
    native_ids = array(list(ids))
    draws = Draws(ops, seed, step, native_ids) if library == "numpy" else make_draws(ops, seed, step, native_ids)
    return np.asarray(getattr(draws, kind)(STREAM_DIRECTION, range(3), size))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 3, 10, 64, 65, 130])
@pytest.mark.parametrize("library", ["torch", "torch operations"])
def test_all_libraries_give_the_same_bits(library: str, kind: str, size: int) -> None:
    ours, theirs = draw("numpy", kind, size), draw(library, kind, size)
    assert ours.dtype == theirs.dtype
    assert ours.tobytes() == theirs.tobytes()


@pytest.mark.slow
def test_compiled_draws_have_the_same_bits() -> None:
    ops = TorchBackend()

    def compiled(step: torch.Tensor, ids: torch.Tensor) -> list[torch.Tensor]:
        draws = make_draws(ops, 5, step, ids)
        return [getattr(draws, kind)(STREAM_DIRECTION, range(3), 10) for kind in KINDS]

    torch._dynamo.reset()
    arrays = torch.compile(compiled, fullgraph=True)(torch.tensor(9), torch.arange(7, dtype=torch.int32))
    for kind, array in zip(KINDS, arrays, strict=True):
        assert array.numpy().tobytes() == draw("numpy", kind, 10).tobytes(), kind


@pytest.mark.parametrize("step", [torch.tensor(2**40 + 9), 2**32 + 9, torch.tensor(9, dtype=torch.int32)])
def test_the_low_32_bits_of_the_step_count(step: Any) -> None:
    assert (draw("torch", "words", 4, step=step) == draw("numpy", "words", 4, step=9)).all()


@given(
    st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5)
)
def test_a_draw_depends_on_its_own_sample_alone(seed: int, step: int, ids: list[int]) -> None:
    together = draw("numpy", "gaussians", 5, seed=seed, step=step, ids=ids)
    apart = [draw("numpy", "gaussians", 5, seed=seed, step=step, ids=[sample]) for sample in ids]
    assert (together == np.concatenate(apart, 1)).all()


@pytest.mark.parametrize("kind", ["signs", "gaussians", "uniforms"])
def test_a_logit_keeps_its_draw_when_more_follow(kind: str) -> None:
    assert (draw("numpy", kind, 130)[:, :, :7] == draw("numpy", kind, 7)).all()


def test_projections_seeds_steps_samples_and_streams_differ() -> None:
    ops, array = LIBRARIES["numpy"]
    draws = [
        Draws(ops, seed, step, array([sample])).words(stream, (projection,), 1)
        for seed in (0, 1, 2**32, 2**63)
        for step in (0, 1)
        for sample in (0, 1)
        for stream in (STREAM_DIRECTION, STREAM_SUBSET)
        for projection in (0, 1)
    ]
    assert len({word.tobytes() for word in draws}) == len(draws)


def test_the_gaussian_table_is_the_one_that_all_platforms_have() -> None:
    offsets, slopes = gaussian_table()
    packed = struct.pack("<1024f", *offsets) + struct.pack("<1024f", *slopes)
    assert hashlib.sha256(packed).hexdigest() == TABLE
    fraction = np.arange(4096, dtype=np.float32)
    for slope in slopes:  # each product must be exact, or a fused multiply-add would round differently
        product = np.float64(np.float32(slope)) * fraction
        assert (np.float32(product) == product).all()


TABLE = "9dc92b2dc791ddd97241cf5a893be93e91ed9ecc456c6ed617bcc55ea8e4ab9d"


def test_distributions() -> None:
    many = range(40_000)
    z = draw("numpy", "gaussians", 4, ids=many)[0].astype(np.float64).ravel()
    n = len(z)
    # Five standard errors of each moment: a right generator fails one such test in two million seeds.
    assert abs(z.mean()) < 5 / math.sqrt(n)
    assert abs((z**2).mean() - 1) < 5 * math.sqrt(2 / n)
    assert abs((z**4).mean() - 2.996) < 5 * math.sqrt(96 / n)
    ordered = np.sort(z)
    normal = np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in ordered])
    # Kolmogorov-Smirnov: 1.95 / sqrt(n) is the one-in-a-thousand bound; half a cell of the table adds 5e-4.
    assert np.abs(normal - (np.arange(n) + 0.5) / n).max() < 1.95 / math.sqrt(n) + 5e-4
    signs = draw("numpy", "signs", 4, ids=many)[0].astype(np.float64)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    covariance = signs.T @ signs / len(signs)
    assert np.abs(covariance - np.eye(4)).max() < 5 / math.sqrt(len(signs))


@pytest.mark.parametrize("bound", [1, 2, 3, 10, 1000, 50_257, 2**20 + 1])
def test_integers_are_uniform_and_never_out_of_range(bound: int) -> None:
    picks = draw("numpy", "integers", bound, ids=range(30_000))[0].astype(np.int64)
    assert picks.min() >= 0
    assert picks.max() < bound
    words = draw("numpy", "words", 1, ids=range(30_000))[0, :, 0].view(np.uint32).astype(object)
    assert (picks == [int(word) * bound >> 32 for word in words]).all()
    counts = np.bincount(picks * 10 // bound, minlength=10) if bound >= 1000 else np.bincount(picks, minlength=bound)
    expected = len(picks) / len(counts)
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < len(counts) + 5 * math.sqrt(2 * len(counts))  # five standard deviations of chi-squared
