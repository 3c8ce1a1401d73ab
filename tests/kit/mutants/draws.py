"""Mutants whose draws are wrong.

Left out: a word's bits taken in another order for signs of one logit, which is another generator of equal quality and
differs from ours in every check; one mutant per mistake is enough.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from gradreg_core.random import STREAM_DIRECTION, STREAM_START, Draws
from gradreg_torch.backend import TorchBackend
from gradreg_torch.harness import TorchHarness
from mutants.mutant import harness_of, mutant, patched

__all__: list[str] = []


class _OwnDraws(TorchBackend):
    """Draws by PyTorch's own operations, not by NumPy, so that they can be changed for it alone."""

    def values_if_free(self, array: Any) -> Any:
        return None if array.dtype == torch.int32 else super().values_if_free(array)


@contextmanager
def _changed(name: str, change: Callable[..., Any]) -> Iterator[TorchHarness]:
    """A method of the draws changed for PyTorch alone: change(original, draws, stream, projections, size)."""
    original = getattr(Draws, name)

    def method(self: Draws, stream: int, projections: Any, size: int) -> Any:
        if not isinstance(self.ops, TorchBackend):
            return original(self, stream, projections, size)
        return change(original, self, stream, projections, size)

    with patched(Draws, name, method):
        yield harness_of(_OwnDraws())


@mutant("random_words_are_the_references")
def projections_in_16_bits() -> Any:
    def words(original: Any, draws: Draws, stream: int, projections: Any, blocks: int) -> Any:
        return original(draws, stream, [row & 0xFFFF for row in projections], blocks)

    return _changed("_words", words)


@mutant("random_words_are_the_references")
def sample_ids_without_their_sign() -> Any:
    def words(original: Any, draws: Draws, stream: int, projections: Any, blocks: int) -> Any:
        return original(replace(draws, sample_ids=draws.sample_ids.abs()), stream, projections, blocks)

    return _changed("_words", words)


@mutant("random_words_are_the_references", "sample_ids")
def sample_ids_in_16_bits() -> Any:
    def words(original: Any, draws: Draws, stream: int, projections: Any, blocks: int) -> Any:
        return original(replace(draws, sample_ids=draws.sample_ids & 0xFFFF), stream, projections, blocks)

    return _changed("_words", words)


@mutant("random_words_are_the_references", "seed")
def upper_half_of_the_seed_ignored() -> Any:
    def words(original: Any, draws: Draws, stream: int, projections: Any, blocks: int) -> Any:
        own = draws.seed % 2**32 if isinstance(draws.seed, int) else draws.seed
        return original(replace(draws, seed=own), stream, projections, blocks)

    return _changed("_words", words)


@mutant("gradients_with_top_singular", "random_words_are_the_references")
def power_iterations_that_start_from_the_directions() -> Any:
    def words(original: Any, draws: Draws, stream: int, projections: Any, blocks: int) -> Any:
        return original(draws, STREAM_DIRECTION if stream == STREAM_START else stream, projections, blocks)

    return _changed("_words", words)


@mutant("projection_gaussian", "random_words_are_the_references", exactly=False)
def projection_index_ignored() -> Any:
    def words(original: Any, draws: Draws, stream: int, projections: Any, blocks: int) -> Any:
        return original(draws, stream, [0 for _ in projections], blocks)

    return _changed("_words", words)


@mutant("random_numbers_are_the_references")
def picks_from_half_a_word() -> Any:
    def integers(original: Any, draws: Draws, stream: int, projections: Any, bound: int) -> Any:
        word = draws.words(stream, projections, 1)[:, :, 0]
        return (((word.long() >> 16) & 0xFFFF) * bound >> 16).int()

    return _changed("integers", integers)


@mutant("random_numbers_are_the_references", "random_projections_are_unbiased")
def signs_that_repeat_after_64() -> Any:
    def signs(original: Any, draws: Draws, stream: int, projections: Any, size: int) -> Any:
        first = original(draws, stream, projections, min(size, 64))
        return first.repeat(1, 1, -(-size // 64))[:, :, :size]

    return _changed("signs", signs)
