"""The two models of a validation on one batch: evaluated, perturbed, and blamed by name."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from gradreg_core.errors import GradregError, InputError
from gradreg_validation.arrays import relative
from gradreg_validation.batch import Arrays, Batch
from gradreg_validation.models import Evaluation, Side
from gradreg_validation.recording import Step

__all__ = ["WHICH", "Sides", "blame"]

WHICH = ("first", "second")
_RANDOM = 1e3
"""Unit roundoffs by which two calls of a model may differ before it counts as random; some GPU sums are reordered."""


@contextmanager
def blame(label: str) -> Iterator[None]:
    """Errors say which of the two models they come from."""
    try:
        yield
    except GradregError as error:
        raise type(error)(f"validate: the {label} model: {error}") from error
    except Exception as error:
        raise InputError(f"validate: the {label} model raised {type(error).__name__}: {error}") from error


class Sides:
    """Both models on one batch.

    Args:
        sides: the models.
        names: their backends.
        batch: converted to the coarser of the models' dtypes.
    """

    def __init__(self, sides: Sequence[Side], names: Sequence[str], batch: Batch) -> None:
        self.pair, self.names, self.batch = tuple(sides), tuple(names), batch
        self.dtype = "float32" if any(side.dtype == "float32" for side in sides) else "float64"
        self.u = float(np.finfo(self.dtype).eps) / 2
        self.x = batch.cast(self.dtype)
        measurable = [i for i, side in enumerate(sides) if side.measurable]
        reached = [i for i in measurable if sides[i].values]
        self.measured = (reached or measurable or [0])[0]
        """The model whose roundoff is measured: one whose parameters can be reached, if there is one."""
        self._steps: dict[int, list[Step]] = {}

    def label(self, i: int) -> str:
        """Which model, and its backend."""
        return f"{WHICH[i]} ({self.names[i]})"

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Both models are as before afterwards."""
        with ExitStack() as stack:
            for side in self.pair:
                stack.enter_context(side.kept())
            yield

    def evaluate(self, i: int) -> Evaluation:
        """The results of one model, from two calls that must be equal.

        Raises:
            InputError: the model is random.
        """
        side = self.pair[i]
        x = self._cast(side)
        with blame(self.label(i)):
            evaluation, again = side.evaluate(x, {}), side.evaluate(x, {})
        if any(relative(array, again.outputs[path]) > _RANDOM * self.u for path, array in evaluation.outputs.items()):
            raise InputError(
                f"validate: the {self.label(i)} model is random: two calls on the same batch differ. Put it into "
                f"evaluation mode, or give it a fixed dropout mask."
            )
        return evaluation

    def steps(self, i: int) -> list[Step]:
        """The calls of the layers of one model on the batch."""
        if i not in self._steps:
            side = self.pair[i]
            with blame(self.label(i)):
                self._steps[i] = side.record(self._cast(side), {})
        return self._steps[i]

    def activations(self, i: int, x: Arrays | None = None, changed: Arrays | None = None) -> Arrays:
        """The activations of one model by name, on the batch or on x, with other parameters if they are given."""
        if x is None:
            steps = self.steps(i)
        else:
            with blame(self.label(i)):
                steps = self.pair[i].record(x, changed or {})
        return {name: array for step in steps for name, array in step.outputs.items()}

    def _cast(self, side: Side) -> Arrays:
        return {path: a.astype(side.dtype) if a.dtype.kind == "f" else a for path, a in self.x.items()}

    def perturbed(self, rng: np.random.Generator) -> tuple[Arrays, Arrays]:
        """The input and the parameters of the measured model, moved by one unit in the last place."""
        side = self.pair[self.measured]
        values = {name: self._moved(value, rng) for name, value in side.values.items()}
        x = self._cast(side)
        return {path: self._moved(a, rng) if a.dtype.kind == "f" else a for path, a in x.items()}, values

    def _moved(self, value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        sign = rng.choice([-1.0, 1.0], size=value.shape)
        if np.finfo(value.dtype).eps / 2 == self.u:
            moved = np.nextafter(value, (np.inf * sign).astype(value.dtype))
        else:
            moved = value * (1 + 2 * self.u * sign)
        return np.asarray(np.where(np.isfinite(value) & (value != 0), moved, value), value.dtype)
