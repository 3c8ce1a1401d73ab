"""Threefry-2x32-20: the known answers of Random123, whatever holds the words."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradreg_core.host_draws import HostPrimitives
from gradreg_core.threefry import Pair, int_rounds, uint32_rounds
from gradreg_torch.backend import TorchBackend
from minimal_backend import MINIMAL

# Random123 1.14, tests/kat_vectors: threefry2x32 20 (counter, key, result).
KNOWN = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]
Rounds = Callable[[Pair, Pair], Pair]


def over_arrays(rounds: Rounds, array: Callable[[np.ndarray], Any], dtype: type) -> Rounds:
    """`rounds` for Python ints, by arrays of one word of a dtype."""

    def run(key: Pair, counter: Pair) -> Pair:
        words = [array(np.asarray([word], np.uint32).view(dtype)) for word in (*key, *counter)]
        results = rounds((words[0], words[1]), (words[2], words[3]))
        first, second = (int(np.asarray(word).view(np.uint32)[0]) for word in results)
        return first, second

    return run


ROUNDS: dict[str, Rounds] = {
    "ints": int_rounds,
    "uint32": over_arrays(uint32_rounds, np.asarray, np.uint32),
    "NumPy's int32": over_arrays(HostPrimitives().threefry2x32, np.asarray, np.int32),
    "the base class": over_arrays(MINIMAL.threefry2x32, torch.from_numpy, np.int32),
    "PyTorch": over_arrays(TorchBackend().threefry2x32, torch.from_numpy, np.int32),
}
words = st.integers(0, 2**32 - 1)
pairs = st.tuples(words, words)


@pytest.mark.parametrize("holder", ROUNDS)
@pytest.mark.parametrize(("counter", "key", "wanted"), KNOWN)
def test_known_answers_of_random123(holder: str, counter: Pair, key: Pair, wanted: Pair) -> None:
    assert ROUNDS[holder](key, counter) == wanted


@given(pairs, pairs)
def test_whatever_holds_the_words_they_are_the_same(key: Pair, counter: Pair) -> None:
    assert len({rounds(key, counter) for rounds in ROUNDS.values()}) == 1


@given(pairs, pairs, pairs)
def test_a_key_is_a_permutation_of_the_counters(key: Pair, first: Pair, second: Pair) -> None:
    assert (int_rounds(key, first) == int_rounds(key, second)) == (first == second)
