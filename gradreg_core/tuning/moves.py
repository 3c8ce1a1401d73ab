"""Chooses the next weight to try: outwards until the best one is inside the range, then between its neighbours."""

import math
from collections.abc import Mapping

from gradreg_core.tuning.trials import ADVISED_NORMS, Candidate, SearchResult

__all__ = ["next_factor"]

_COARSE, _FINE = 10.0, math.sqrt(10.0)
_NOTHING_LEFT, _NOTHING_DONE = 0.1, 0.9
"""Shares beyond which no larger, or no smaller, weight is worth a training."""
_CLEAR = 2.0
"""A score that is this many standard errors below another is worse."""


def next_factor(candidates: Mapping[float, Candidate], result: SearchResult) -> float | None:
    """The factor to try next; None if no further training can tell more.

    Args:
        candidates: by factor, 0 for training without a regularizer; at least one has a regularizer.
        result: the same candidates.
    """
    moves = _Moves(candidates, result)
    outside = moves.outside()
    return moves.between() if outside is None else outside


class _Moves:
    def __init__(self, candidates: Mapping[float, Candidate], result: SearchResult) -> None:
        self.candidates, self.result = candidates, result
        self.factors = sorted(factor for factor in candidates if factor > 0)
        self.best = max(self.factors, key=lambda factor: candidates[factor].rank())

    def share(self, factor: float) -> float | None:
        """The norm with a factor, as a share of the norm without a regularizer."""
        norm, none = self.candidates[factor].norm, self.candidates[0.0].norm
        return norm / none if norm is not None and none else None

    def is_worse(self, factor: float, than: float) -> bool:
        """Whether a score is lower than another by more than chance."""
        first, second = self.candidates[factor], self.candidates[than]
        return first.score < second.score - _CLEAR * (self.result.standard_error(second) or 0.0)

    def outside(self) -> float | None:
        """A factor ten times above or below the range, or None if the range is wide enough."""
        low, high = self.factors[0], self.factors[-1]
        of_low, of_high = self.share(low), self.share(high)
        leading = self.best if self.candidates[self.best].score > self.candidates[0.0].score else 0.0
        if of_low is not None and of_low < ADVISED_NORMS[0]:
            return low / _COARSE
        if of_high is not None and of_high > ADVISED_NORMS[1] and not self.is_worse(high, leading):
            return high * _COARSE
        if self.best == low == high and of_high is None:
            return high * _COARSE if leading else low / _COARSE
        if self.best == high and not (of_high is not None and of_high < _NOTHING_LEFT):
            return high * _COARSE
        if self.best == low and not (of_low is not None and of_low > _NOTHING_DONE):
            return low / _COARSE
        return None

    def between(self) -> float | None:
        """A factor between the best and the better of its neighbours, half a decade away."""
        index, best = self.factors.index(self.best), self.best
        sides = [self.factors[i] for i in (index - 1, index + 1) if 0 <= i < len(self.factors)]
        if len(sides) == 2 and all(self._is_level(side) for side in sides):
            return None
        open_sides = [side for side in sides if max(side, best) / min(side, best) > _FINE * 1.01]
        if not open_sides:
            return None
        side = max(open_sides, key=lambda factor: self.candidates[factor].score)
        return best * _FINE if side > best else best / _FINE

    def _is_level(self, factor: float) -> bool:
        """Whether a score is within one standard error of the best one."""
        error = self.result.standard_error(self.candidates[self.best])
        return error is not None and self.candidates[factor].score >= self.candidates[self.best].score - error
