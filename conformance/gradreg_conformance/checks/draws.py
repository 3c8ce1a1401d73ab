"""L1: random draws through the backend's primitives, bit for bit."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from gradreg_conformance.check import Disagreement, check
from gradreg_conformance.primitive import to_numpy
from gradreg_conformance.subject import Subject
from gradreg_core.random import STREAM_DIRECTION, STREAM_START, STREAM_SUBSET, Draws, make_draws
from gradreg_numpy.draws import draws as reference

# Random123 1.14, tests/kat_vectors: threefry2x32 with 20 rounds (counter, key, result).
_KNOWN = (
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
)
_STREAMS = (STREAM_DIRECTION, STREAM_SUBSET, STREAM_START)
_seeds = st.integers(2**32, 2**64 - 1)
_ids = st.lists(st.integers(-(2**31), 2**31 - 1), min_size=3, max_size=3)


def _same(label: str, result: np.ndarray, wanted: np.ndarray) -> None:
    if result.dtype != wanted.dtype or result.shape != wanted.shape or result.tobytes() != wanted.tobytes():
        raise Disagreement(
            f"{label}: expected, bit for bit, {wanted.dtype} {wanted.tolist()}, got {result.dtype} {result.tolist()}"
        )


def _words(values: Any) -> np.ndarray:
    return np.asarray(values, np.uint32).view(np.int32)


def _draws(subject: Subject, seed: int, step: int, ids: list[int]) -> tuple[list[Draws], Draws]:
    """The backend's draws, by its own operations and as a call makes them, and the reference's."""
    given = np.array(ids, np.int32)
    array = subject.array(given, "int32")
    ours = [Draws(subject.ops, seed, step, array), make_draws(subject.ops, seed, step, array)]
    return ours, reference(seed, step, given)


@check("primitives")
def random_words_are_the_references(subject: Subject) -> None:
    """Threefry's known answers, and the words of every seed, stream, step, sample, projection and block."""
    ops = subject.ops
    for counter, key, wanted in _KNOWN:
        given = [tuple(subject.array(_words([word]), "int32") for word in pair) for pair in (key, counter)]
        words = np.concatenate([to_numpy(subject, word) for word in ops.threefry2x32(*given)])
        _same(f"threefry2x32(key={key}, counter={counter})", words, _words(wanted))

    @subject.given(_seeds, st.integers(2**31, 2**32 - 1), _ids, st.integers(0, 2**31 - 3))
    def _(seed, step, ids, projection):  # type: ignore[no-untyped-def]
        ids[0] = -(2**31) + ids[0] % 2**8  # one far from zero in each example, and one of many bits
        projections = (projection, 2, 2**17 + 2)
        for stream in _STREAMS:
            ours, theirs = _draws(subject, seed, step, ids)
            wanted = np.asarray(theirs.words(stream, projections, 2))
            label = f"the words of seed {seed}, stream {stream}, step {step}, samples {ids}, projections {projections}"
            for draws in ours:
                _same(label, to_numpy(subject, draws.words(stream, projections, 2)), wanted)


@check("primitives")
def random_numbers_are_the_references(subject: Subject) -> None:
    """Signs, normal deviates, uniforms and picks have the reference's bits, for few logits and for many."""

    @subject.given(st.integers(0, 999), st.sampled_from([50_257, 2**30 + 1, 10]))
    def _(seed, bound):  # type: ignore[no-untyped-def]
        ours, theirs = _draws(subject, seed, 0, [0, 1, 2])
        for kind, number in (("signs", 130), ("gaussians", 5), ("uniforms", 5), ("integers", bound)):
            wanted = np.asarray(getattr(theirs, kind)(STREAM_DIRECTION, range(2), number))
            for draws in ours:
                drawn = getattr(draws, kind)(STREAM_DIRECTION, range(2), number)
                _same(f"{kind} of seed {seed}, size {number}", to_numpy(subject, drawn), wanted)
