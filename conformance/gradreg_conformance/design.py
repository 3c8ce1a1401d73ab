"""Few examples that contain every pair of choices: a greedy covering design over factors that constrain each other.

Most faults that need several options need two of them (Kuhn, Wallace, Gallo 2004, IEEE TSE 30:418), and a small set of
examples holds every pair. Greedily the next example is the one with the most pairs that no earlier one has, so the
first few have most of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

__all__ = ["ABSENT", "Choice", "Design", "Space", "covering"]

Choice = Mapping[str, Any]
"""One level for every factor, by name."""
ABSENT = "-"
"""The level of a factor that has no effect in an example, whose pairs do not count."""
_POOL = 3000
"""Examples that the design is picked from: a pair that none of them has counts as impossible."""


@dataclass(frozen=True)
class Space:
    """Factors and their levels, the simplest first.

    Args:
        factors: name -> levels.
        settled: gives the example that a choice stands for, whose levels go with each other; idempotent.
    """

    factors: Mapping[str, tuple[Any, ...]]
    settled: Callable[[Choice], Choice]

    @property
    def simplest(self) -> dict[str, Any]:
        """The first level of every factor."""
        return {name: levels[0] for name, levels in self.factors.items()}

    def pairs(self, choices: Sequence[Choice]) -> np.ndarray:
        """A number for each pair of levels of each choice, (choices, pairs of factors); 0 where one has no effect."""
        levels = list(self.factors.items())
        indices = np.array(
            [[-1 if one[name] == ABSENT else own.index(one[name]) for name, own in levels] for one in choices]
        )
        numbers, start = [], 1
        for first, second in combinations(range(len(levels)), 2):
            sizes = len(levels[first][1]), len(levels[second][1])
            number = start + indices[:, first] * sizes[1] + indices[:, second]
            numbers.append(np.where((indices[:, first] < 0) | (indices[:, second] < 0), 0, number))
            start += sizes[0] * sizes[1]
        return np.stack(numbers, axis=1)


@dataclass(frozen=True)
class Design:
    """Examples in order, and how many pairs of levels the first n of them have."""

    space: Space
    choices: tuple[Choice, ...]
    covered: tuple[int, ...]
    """Of the first 0, 1, ... examples; the last number is that of all pairs that are possible."""


def covering(space: Space, seed: int = 0) -> Design:
    """A design of `space`, the same for the same seed.

    Every pair of levels that goes together is in some example; each example is there for a pair that no earlier one
    has.
    """
    rng = np.random.default_rng(seed)
    pool = [space.settled(space.simplest)]
    for _ in range(_POOL):
        drawn = {name: levels[rng.integers(len(levels))] for name, levels in space.factors.items()}
        pool.append(space.settled(drawn))
    pairs = space.pairs(pool)
    missing = np.zeros(pairs.max() + 1, bool)
    missing[pairs] = True
    missing[0] = False
    possible = int(missing.sum())
    chosen: list[Choice] = []
    covered = [0]
    while missing.any():
        best = int(missing[pairs].sum(axis=1).argmax())
        missing[pairs[best]] = False
        chosen.append(pool[best])
        covered.append(possible - int(missing.sum()))
    return Design(space, tuple(chosen), tuple(covered))
