"""The state of a search for the weight: trainings, candidates, and the choice among them."""

import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradreg_core.errors import InputError
from gradreg_core.spec import Regularizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ADVISED_NORMS", "Candidate", "SearchResult", "Trial"]

ADVISED_NORMS = (0.17, 0.67)
"""The norm of the Jacobian with the best weights, as a share of the norm without a regularizer."""

_DIGITS = 6
"""Significant digits of a score that count: a mean in float32 has no more."""


@dataclass(frozen=True)
class Trial:
    """One training."""

    weight: float
    """0 without a regularizer."""
    seed: int
    score: float
    """Higher is better."""
    norm: float | None
    """A norm of the Jacobian after training, if `fit` returned one."""


@dataclass(frozen=True)
class Candidate:
    """A weight, and the trainings with it."""

    weight: float
    regularizer: Regularizer | None
    """None without a regularizer."""
    trials: tuple[Trial, ...]

    @property
    def is_finite(self) -> bool:
        """Whether none of its trainings diverged."""
        return all(math.isfinite(trial.score) for trial in self.trials)

    @property
    def score(self) -> float:
        """The mean score of its trainings; -inf if one of them is not finite."""
        return statistics.fmean(trial.score for trial in self.trials) if self.is_finite else -math.inf

    def rank(self) -> tuple[float, float]:
        """Higher is better: the rounded score, then, among equal ones, the lower weight."""
        return float(f"{self.score:.{_DIGITS}g}"), -self.weight

    @property
    def norm(self) -> float | None:
        """The mean norm of the Jacobian, if it is known."""
        known = [trial.norm for trial in self.trials if trial.norm is not None]
        return statistics.fmean(known) if known else None


@dataclass(frozen=True)
class SearchResult:
    """The candidates in the order of their weights, and the best of them."""

    candidates: tuple[Candidate, ...]
    validation_size: int | None
    """The number of validation samples that an accuracy is the mean of."""

    @property
    def best(self) -> Candidate:
        """The candidate with the highest mean score; among equals the one with the lowest weight."""
        return max(self.candidates, key=Candidate.rank)

    @property
    def regularizer(self) -> Regularizer | None:
        """The regularizer with the best weight, or None if training without one was best."""
        return self.best.regularizer

    @property
    def none(self) -> Candidate:
        """Training without a regularizer."""
        return self.candidates[0]

    @property
    def at_edge(self) -> bool:
        """Whether the best weight is the largest or the smallest tried, so that a better one may lie beyond."""
        weights = [candidate.weight for candidate in self.candidates if candidate.weight > 0]
        return self.best.weight in (min(weights), max(weights)) if weights else False

    def standard_error(self, candidate: Candidate) -> float | None:
        """The standard error of a candidate's mean score.

        From its seeds if there are several; for an accuracy p on n validation samples it is at least
        sqrt(p (1 - p) / n). None if neither is known.
        """
        errors = []
        if len(candidate.trials) > 1 and candidate.is_finite:
            scores = [trial.score for trial in candidate.trials]
            errors.append(statistics.stdev(scores) / math.sqrt(len(scores)))
        if (sampling := self._sampling_error(candidate)) is not None:
            errors.append(sampling)
        return max(errors) if errors else None

    def _sampling_error(self, candidate: Candidate) -> float | None:
        """The standard error of an accuracy on the validation samples; None for another score, or an unknown number."""
        if self.validation_size is None or not 0 <= candidate.score <= 1:
            return None
        return math.sqrt(candidate.score * (1 - candidate.score) / self.validation_size)

    @property
    def gain(self) -> float:
        """The best score minus the score without a regularizer."""
        return self.best.score - self.none.score

    @property
    def gain_error(self) -> float | None:
        """The standard error of the gain; None if it is not known.

        From the differences seed by seed if there are several seeds; for accuracies it is at least the standard error
        of both scores together.
        """
        errors = []
        pairs = list(zip(self.best.trials, self.none.trials, strict=True))
        if len(pairs) > 1:
            differences = [best.score - none.score for best, none in pairs]
            errors.append(statistics.stdev(differences) / math.sqrt(len(pairs)) if self.best.is_finite else math.inf)
        both = [self._sampling_error(candidate) for candidate in (self.best, self.none)]
        known = [error for error in both if error is not None]
        if len(known) == 2:
            errors.append(math.hypot(*known))
        return max(errors) if errors else None

    @property
    def is_gain_clear(self) -> bool | None:
        """Whether the gain is larger than its standard error; None if that is not known."""
        return None if self.gain_error is None else self.gain > self.gain_error

    @property
    def equally_good(self) -> tuple[Candidate, ...]:
        """The candidates with scores within one standard error of the best one, itself included."""
        error = self.standard_error(self.best) or 0.0
        return tuple(candidate for candidate in self.candidates if candidate.score >= self.best.score - error)

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """The table: weight, trainings, mean score, standard error, norm relative to training without a regularizer."""
        return [
            (
                "none" if candidate.regularizer is None else f"{candidate.weight:.3g}",
                str(len(candidate.trials)),
                f"{candidate.score:.5g}",
                "" if (error := self.standard_error(candidate)) is None else f"{error:.2g}",
                "" if not (candidate.norm and self.none.norm) else f"{candidate.norm / self.none.norm:.2f}",
            )
            for candidate in self.candidates
        ]

    def __str__(self) -> str:
        """The table, the choice, and how certain it is."""
        head = ("weight", "trainings", "score", "std. error", "norm")
        rows = [head, *self.rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([*lines, self._verdict()])

    def _verdict(self) -> str:
        if not any(candidate.is_finite for candidate in self.candidates):
            return "All trainings diverged, with a regularizer and without."
        if self.best.regularizer is None:
            return f"Training without a regularizer was best.{self._beside()}"
        error = "" if self.gain_error is None else f" \u00b1 {self.gain_error:.2g}"
        verdict = f"Best: {self.best.regularizer!r}, {self.gain:+.3g}{error} against none."
        if self.is_gain_clear is False:
            verdict += (
                " The difference is within the standard error: more seeds, or a larger validation set, would tell."
            )
        if self.is_gain_clear is None:
            verdict += " One seed does not tell how certain that is: pass several, or validation_size=."
        if self.at_edge:
            verdict += " It is at the edge of the weights that were tried; search on with more trainings."
        return verdict + self._beside()

    def _beside(self) -> str:
        """The other candidates that are equally good."""
        others = [candidate for candidate in self.equally_good if candidate is not self.best]
        if not others:
            return ""
        weights = ", ".join("none" if other.regularizer is None else f"{other.weight:.3g}" for other in others)
        return f" Within one standard error of it: {weights}."

    def plot(self, path: "str | os.PathLike[str] | None" = None) -> "Figure":
        """A figure of score and norm over the weight; written to `path` if there is one.

        Returns:
            The matplotlib Figure.

        Raises:
            ImportError: Matplotlib is not installed: ``pip install "gradreg[monitor]"``.
        """
        from gradreg_core.tuning.figure import draw

        figure = draw(self, ADVISED_NORMS)
        if path is not None:
            figure.savefig(path, dpi=160)
        return figure


def sorted_candidates(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The candidates in the order of their weights.

    Raises:
        InputError: no candidate is without a regularizer.
    """
    ordered = tuple(sorted(candidates, key=lambda candidate: candidate.weight))
    if not ordered or ordered[0].regularizer is not None:
        raise InputError("search: training without a regularizer is among the candidates, always.")
    return ordered
