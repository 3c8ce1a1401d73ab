"""Chosen settings and paired gains, from the results."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from gradreg_experiments.evidence.experiment import CHECKPOINTS, METHODS, TASKS, key
from gradreg_experiments.results import Results
from gradreg_experiments.weights.summary import interval

__all__ = ["Gain", "Outcomes", "chosen", "compare", "outcomes", "verdict"]

Outcomes = dict[str, dict[str, Mapping[str, Any]]]
"""Results by task and method."""


class Gain(NamedTuple):
    """A mean of paired differences over the seeds, in points, with half of its 95 % interval by Student's t."""

    mean: float
    half: float

    @property
    def sign(self) -> int:
        """1 or -1 if the interval lies on that side of zero, else 0."""
        return (self.mean > self.half) - (self.mean < -self.half)


def outcomes(results: Results) -> Outcomes:
    """The results of the tasks on which every method has been run."""
    by_key = {result["key"]: result for result in results}
    complete = [task for task in TASKS if all(key(task, method) in by_key for method in METHODS)]
    return {task.name: {method.name: by_key[key(task, method)] for method in METHODS} for task in complete}


def chosen(result: Mapping[str, Any], steps: int = CHECKPOINTS[-1]) -> Mapping[str, Any]:
    """The setting with the best mean accuracy on validation samples after `step` steps; the smallest of equals."""
    place = CHECKPOINTS.index(steps)
    best: Mapping[str, Any] = max(result["outcomes"], key=lambda run: fmean(run["validation"][place]))
    return best


def compare(
    first: Mapping[str, Any], second: Mapping[str, Any], name: str = "test", steps: int = CHECKPOINTS[-1]
) -> Gain:
    """The first result's accuracy minus the second's, each at its own chosen setting."""
    place = CHECKPOINTS.index(steps)
    values: Sequence[Sequence[float]] = [chosen(result, steps)[name][place] for result in (first, second)]
    differences = [one - other for one, other in zip(*values, strict=True)]
    return Gain(fmean(differences), interval(differences))


def verdict(gain: Gain, over_rival: Gain) -> str:
    """The recommendation, from the gains over no regularization and over the rival chosen on validation samples."""
    if gain.sign < 0:
        return "do not use it here"
    if gain.sign == 0:
        return "do not expect accuracy"
    return {1: "use it", 0: "use it, or the rival", -1: "use the rival"}[over_rival.sign]
