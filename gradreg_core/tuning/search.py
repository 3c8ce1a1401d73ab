"""A logarithmic search for the weight of a regularizer, for any training loop that can be called with one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.scalars import integer_option, real
from gradreg_core.spec import Regularizer, Sum
from gradreg_core.terms import Term
from gradreg_core.tuning.trials import Candidate, SearchResult, Trial, sorted_candidates

__all__ = ["search"]

Fit = Callable[[Regularizer | None, int], Any]
_COARSE, _FINE = 10.0, math.sqrt(10.0)
_STRONG = 0.1
"""A norm below this share of the unregularized one: the weight is far too large. The best ones leave 17 to 67 %."""
_WEAK = 0.9
"""A norm above this share: the weight hardly acts yet."""


def search(
    fit: Fit,
    reg: Regularizer,
    *,
    trainings: int = 8,
    seeds: Sequence[int] = (0,),
    validation_size: int | None = None,
    progress: bool = True,
) -> SearchResult:
    """Find the weight of `reg` by training with some weights, and without.

    The search trains without a regularizer, then with the weight of `reg`, then ten times more or less in the direction
    that is better, until the score falls on both sides; the rest of the trainings go between the best and its
    neighbours. The best weight is never left at the edge of the range while there are trainings left.

    ::

        def fit(reg, seed):
            model = train(reg, seed)
            return accuracy(model, validation)      # or (accuracy, norm of the Jacobian)

        result = gradreg_core.search(fit, SpectReg(0.01), validation_size=1000)
        print(result)
        result.regularizer

    Args:
        fit: ``fit(reg, seed)`` trains with a regularizer (None: without) and returns a score on validation data, higher
            is better; or (score, norm), where a norm such as the mean of ``measure(...).frobenius`` guides the search.
        reg: where to start. Of a sum all weights are multiplied alike.
        trainings: the largest number of calls of `fit`.
        seeds: each weight is tried with each of them. Several make the choice more certain, and cost as many trainings.
        validation_size: the number of validation samples, for the standard error of an accuracy.
        progress: show a progress bar on stderr where that is a terminal.

    Returns:
        The candidates, the best regularizer, a table (``print(result)``) and a picture (``result.plot(path)``).

    Raises:
        InputTypeError: fit is not callable, reg is no regularizer, or fit returned no score.
        InputError: there are too few trainings, no seeds, or a weight is 0 or a schedule.
    """
    state = _State(fit, reg, tuple(seeds), _checked(fit, reg, trainings, seeds))
    size = integer_option("search", "validation_size", validation_size, minimum=1)
    if not progress:
        _run(state, lambda: None)
    else:
        from gradreg_core.cli.terminal import progress_bar

        with progress_bar("search for the weight", state.left) as bar:
            _run(state, bar.advance)
    return SearchResult(sorted_candidates(list(state.candidates.values())), size)


def _checked(fit: Any, reg: Any, trainings: Any, seeds: Sequence[int]) -> int:
    """The number of trainings."""
    if not callable(fit):
        raise InputTypeError(f"search: fit must be a function of (reg, seed) that returns a score, got {fit!r}.")
    if not isinstance(reg, Regularizer):
        raise InputTypeError(f"search: reg must be a regularizer such as SpectReg(0.01), got {reg!r}.")
    for term in reg.terms:
        if callable(term.weight) or term.weight == 0:
            raise InputError(f"search: the weight of {term!r} must be a number above 0, where the search starts.")
    if not seeds:
        raise InputError("search: seeds must be one or more integers, got none.")
    count = integer_option("search", "trainings", trainings, minimum=2 * len(seeds))
    if count is None:
        raise InputTypeError("search: trainings must be an integer, got None.")
    return count


@dataclass
class _State:
    """The trainings so far."""

    fit: Fit
    reg: Regularizer
    seeds: tuple[int, ...]
    left: int
    candidates: dict[float, Candidate] = field(default_factory=dict)
    """By the factor that the weights of `reg` are multiplied with; 0 without a regularizer."""

    def scaled(self, factor: float) -> Regularizer | None:
        if factor == 0:
            return None
        terms: tuple[Term, ...] = tuple(replace(term, weight=_plain(term) * factor) for term in self.reg.terms)
        return terms[0] if len(terms) == 1 else Sum(terms)

    def try_factor(self, factor: float, advance: Callable[[], Any]) -> bool:
        """Train with a factor that is new, with every seed; False if there are too few trainings left."""
        if len(self.seeds) > self.left:
            return False
        regularizer = self.scaled(factor)
        first = _plain(self.reg.terms[0])
        trials = []
        for seed in self.seeds:
            score, norm = _score(self.fit(regularizer, seed))
            trials.append(Trial(first * factor, seed, score, norm))
            self.left -= 1
            advance()
        self.candidates[factor] = Candidate(first * factor, regularizer, tuple(trials))
        return True

    @property
    def factors(self) -> list[float]:
        """Of the candidates with a regularizer, in order."""
        return sorted(factor for factor in self.candidates if factor > 0)

    @property
    def best(self) -> float:
        """The best factor with a regularizer; of equal scores the smallest."""
        return max(self.factors, key=lambda factor: (self.candidates[factor].score, -factor))

    def share(self, factor: float) -> float | None:
        """The norm with a factor as a share of that without a regularizer."""
        norm, none = self.candidates[factor].norm, self.candidates[0.0].norm
        return norm / none if norm is not None and none else None


def _plain(term: Term) -> float:
    """The weight, which is no schedule."""
    assert not callable(term.weight)
    return term.weight


def _score(returned: Any) -> tuple[float, float | None]:
    pair = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
    score = _number(pair[0])
    norm = None if pair[1] is None else _number(pair[1])
    if score is None or (pair[1] is not None and norm is None):
        raise InputTypeError(f"search: fit must return a score, or (score, norm), as numbers, got {returned!r}.")
    return (score if math.isfinite(score) else -math.inf), norm


def _number(value: Any) -> float | None:
    """A number, or an array of one number of any framework."""
    number = real(value)
    return float(value) if number is None and getattr(value, "shape", None) == () else number


def _run(state: _State, advance: Callable[[], Any]) -> None:
    state.try_factor(0.0, advance)
    state.try_factor(1.0, advance)
    while (factor := _next_coarse(state)) is not None:
        if not state.try_factor(factor, advance):
            return
    while (factor := _next_fine(state)) is not None:
        if not state.try_factor(factor, advance):
            return


def _next_coarse(state: _State) -> float | None:
    """The next factor outside of the range, in steps of ten, until the best one has a neighbour on both sides."""
    factors, best = state.factors, state.best
    low, high = factors[0], factors[-1]
    if best == low == high:
        share = state.share(best)
        better = state.candidates[best].score > state.candidates[0.0].score
        strong = share < _STRONG if share is not None else not better
        return best / _COARSE if strong else best * _COARSE
    share_low, share_high = state.share(low), state.share(high)
    if best == high and not (share_high is not None and share_high < _STRONG):
        return high * _COARSE
    if best == low and not (share_low is not None and share_low > _WEAK and len(factors) > 2):
        return low / _COARSE
    return None


def _next_fine(state: _State) -> float | None:
    """A factor between the best and the better of its neighbours, half a decade away."""
    factors, best = state.factors, state.best
    index = factors.index(best)
    sides = [factors[i] for i in (index - 1, index + 1) if 0 <= i < len(factors)]
    open_sides = [side for side in sides if max(side, best) / min(side, best) > _FINE * 1.01]
    if not open_sides:
        return None
    side = max(open_sides, key=lambda factor: state.candidates[factor].score)
    return best * _FINE if side > best else best / _FINE
