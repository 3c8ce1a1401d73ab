"""A logarithmic search for the weight of a regularizer, for any training loop that can be called with one."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.numerals import real
from gradreg_core.scalars import integer_option
from gradreg_core.spec import Regularizer, Sum
from gradreg_core.terms import Weighted
from gradreg_core.tuning.journal import Journal
from gradreg_core.tuning.moves import next_factor
from gradreg_core.tuning.trials import Candidate, SearchResult, Trial, sorted_candidates

__all__ = ["search"]

Fit = Callable[[Regularizer | None, int], Any]
_DIGITS = 3
"""Significant digits of the weights that are tried."""


def search(
    fit: Fit,
    reg: Regularizer,
    *,
    trainings: int = 8,
    seeds: Sequence[int] = (0,),
    validation_size: int | None = None,
    journal: "str | os.PathLike[str] | None" = None,
    progress: bool = True,
) -> SearchResult:
    """Find the weight of `reg` by training with some weights, and without a regularizer.

    The search trains without a regularizer, then with the weight of `reg`, then ten times more or less, until the range
    holds norms of the Jacobian between 17 and 67 % of the unregularized one, where the best weights were in the
    experiments, and the score falls on both sides: the range widens while the best weight is at its edge. The other
    trainings go between the best and its neighbours. It ends early once half a decade is resolved, or if the
    neighbours of the best are within its standard error.

    ::

        def fit(reg, seed):
            model = train(reg, seed)
            return accuracy(model, validation)      # or (accuracy, norm of the Jacobian)

        result = gradreg_core.search(fit, SpectReg(0.01), validation_size=1000)
        print(result)
        result.regularizer

    Args:
        fit: ``fit(reg, seed)`` trains with a regularizer (None: without) and returns a score on validation data, higher
            is better; or (score, norm): a norm such as the mean of ``measure(...).frobenius`` guides the search.
        reg: the regularizer to start from. In a sum all weights are multiplied alike.
        trainings: the largest number of calls of `fit`.
        seeds: each weight is tried with each seed. Several make the choice more certain, and cost as many trainings.
            With few labels let the seed choose the fold of a cross-validation.
        validation_size: the number of samples that a score is a mean over, for the standard error of an accuracy; with
            folds, of all of them together.
        journal: a file that keeps finished trainings, one JSON line each. They are not repeated, so a search that was
            stopped resumes, and one with more trainings starts from there. The file records the regularizer and the
            seed, but not `fit`: use another file for another `fit`.
        progress: show a progress bar on stderr if that is a terminal.

    Returns:
        The candidates, the best regularizer, a table (``print(result)``) and a picture (``result.plot(path)``).

    Raises:
        InputTypeError: fit is not callable, reg is not a regularizer, or fit did not return a score.
        InputError: there are too few trainings, no seeds, the same seed twice, or a weight is 0 or a schedule.
        DataFileError: the journal holds something else.
    """
    count = _checked(fit, reg, trainings, seeds)
    size = integer_option("search", "validation_size", validation_size, minimum=1)
    state = _State(fit, reg, tuple(seeds), count, size, None if journal is None else Journal(journal))
    if not progress:
        return _run(state, lambda: None)
    from gradreg_core.cli.terminal import progress_bar

    with progress_bar("search for the weight", state.left) as bar:
        return _run(state, bar.advance)


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
    if len(set(seeds)) < len(seeds):
        raise InputError(f"search: seeds must differ, or one training counts twice, got {tuple(seeds)!r}.")
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
    validation_size: int | None
    journal: Journal | None
    candidates: dict[float, Candidate] = field(default_factory=dict)
    """By the factor that the weights of `reg` are multiplied by; 0 without a regularizer."""

    def scaled(self, factor: float) -> Regularizer | None:
        """The regularizer with its weights times a factor, rounded."""
        if factor == 0:
            return None
        if isinstance(self.reg, Weighted):
            return replace(self.reg, weight=_times(self.reg, factor))
        return Sum(tuple(replace(term, weight=_times(term, factor)) for term in self.reg.terms))

    def try_factor(self, factor: float, advance: Callable[[], Any]) -> bool:
        """Train with a factor that is new, with every seed; False if there are too few trainings left."""
        if len(self.seeds) > self.left:
            return False
        regularizer = self.scaled(factor)
        weight = 0.0 if regularizer is None else _times(self.reg.terms[0], factor)
        trials = []
        for seed in self.seeds:
            score, norm = self._trained(regularizer, seed)
            trials.append(Trial(weight, seed, score, norm))
            self.left -= 1
            advance()
        self.candidates[factor] = Candidate(weight, regularizer, tuple(trials))
        return True

    def _trained(self, regularizer: Regularizer | None, seed: int) -> tuple[float, float | None]:
        known = None if self.journal is None else self.journal.get(regularizer, seed)
        if known is not None:
            return known
        score, norm = _score(self.fit(regularizer, seed))
        if self.journal is not None:
            self.journal.add(regularizer, seed, score, norm)
        return score, norm

    def result(self) -> SearchResult:
        """The result so far."""
        return SearchResult(sorted_candidates(list(self.candidates.values())), self.validation_size)


def _times(term: Any, factor: float) -> float:
    """The weight times a factor, to a few digits. The user's own weight stays as it is."""
    assert not callable(term.weight)
    return float(term.weight) if factor == 1 else float(f"{term.weight * factor:.{_DIGITS}g}")


def _score(returned: Any) -> tuple[float, float | None]:
    pair = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
    score = _number(pair[0])
    norm = None if pair[1] is None else _number(pair[1])
    if score is None or (pair[1] is not None and norm is None):
        raise InputTypeError(f"search: fit must return a score, or (score, norm), as numbers, got {returned!r}.")
    return (score if math.isfinite(score) else -math.inf), (norm if norm is None or math.isfinite(norm) else None)


def _number(value: Any) -> float | None:
    """A number, or an array of one number of any framework."""
    number = real(value)
    return float(value) if number is None and getattr(value, "shape", None) == () else number


def _run(state: _State, advance: Callable[[], Any]) -> SearchResult:
    state.try_factor(0.0, advance)
    state.try_factor(1.0, advance)
    while (factor := next_factor(state.candidates, state.result())) is not None:
        if not state.try_factor(factor, advance):
            break
    return state.result()
