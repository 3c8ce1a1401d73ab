"""What a search for the weight has seen: trainings, candidates, and the choice among them."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradreg_core.errors import InputError
from gradreg_core.spec import Regularizer

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Candidate", "SearchResult", "Trial"]


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
    def score(self) -> float:
        """The mean score of its trainings; -inf if one of them is not finite."""
        mean = statistics.fmean(trial.score for trial in self.trials)
        return mean if math.isfinite(mean) else -math.inf

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
        """The candidate with the highest mean score; of equal ones that with the lowest weight."""
        return max(self.candidates, key=lambda candidate: (candidate.score, -candidate.weight))

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

        From its seeds if there are several; of an accuracy p on n validation samples it is at least
        sqrt(p (1 - p) / n). None if neither is known.
        """
        errors = []
        if len(candidate.trials) > 1:
            scores = [trial.score for trial in candidate.trials]
            errors.append(statistics.stdev(scores) / math.sqrt(len(scores)))
        if self.validation_size is not None and 0 <= candidate.score <= 1:
            errors.append(math.sqrt(candidate.score * (1 - candidate.score) / self.validation_size))
        return max(errors) if errors else None

    @property
    def gain(self) -> float:
        """The best score less that without a regularizer."""
        return self.best.score - self.none.score

    @property
    def is_gain_clear(self) -> bool | None:
        """Whether the gain is larger than the standard errors of both scores together; None if these are unknown."""
        errors = [self.standard_error(candidate) for candidate in (self.best, self.none)]
        if None in errors:
            return None
        return self.gain > math.hypot(*(error for error in errors if error is not None))

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
        """The table, the choice, and what to think of it."""
        head = ("weight", "trainings", "score", "std. error", "norm")
        rows = [head, *self.rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([*lines, self._verdict()])

    def _verdict(self) -> str:
        if self.best.regularizer is None:
            return "Training without a regularizer was best."
        verdict = f"Best: {self.best.regularizer!r}, {self.gain:+.3g} against none."
        if self.is_gain_clear is False:
            verdict += (
                " The difference is within the standard error: more seeds, or a larger validation set, would tell."
            )
        if self.is_gain_clear is None:
            verdict += " How sure that is cannot be told from one seed: pass several, or validation_size=."
        if self.at_edge:
            verdict += " It is at the edge of the weights that were tried; search on with more trainings."
        return verdict

    def plot(self, path: "str | Path | None" = None) -> Any:
        """A figure of score and norm over the weight; written to `path` if there is one.

        Returns:
            The matplotlib figure.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5, 3.2), layout="constrained")
        axes = figure.subplots()
        tried = [candidate for candidate in self.candidates if candidate.regularizer is not None]
        weights, scores = [c.weight for c in tried], [c.score for c in tried]
        errors = [self.standard_error(candidate) or 0.0 for candidate in tried]
        axes.errorbar(weights, scores, errors, fmt="o-", color="tab:blue", capsize=3, label="score")
        axes.axhline(self.none.score, color="tab:blue", linestyle=":", label="score without a regularizer")
        axes.set(xscale="log", xlabel="weight", ylabel="score")
        if self.none.norm and all(candidate.norm for candidate in tried):
            other = axes.twinx()
            other.plot(weights, [(c.norm or 0.0) / self.none.norm for c in tried], "s--", color="tab:orange")
            other.set_ylabel("norm of the Jacobian, relative to none", color="tab:orange")
            other.set_ylim(bottom=0)
        axes.legend(fontsize="small")
        if path is not None:
            figure.savefig(path)
        return figure


def sorted_candidates(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """In the order of their weights.

    Raises:
        InputError: there is none without a regularizer.
    """
    ordered = tuple(sorted(candidates, key=lambda candidate: candidate.weight))
    if not ordered or ordered[0].regularizer is not None:
        raise InputError("search: training without a regularizer is among the candidates, always.")
    return ordered
