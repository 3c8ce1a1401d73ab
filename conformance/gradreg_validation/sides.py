"""The two models of a validation on one batch: evaluated, perturbed, and blamed by name."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from gradreg_core.errors import GradregError, InputError
from gradreg_validation.arrays import relative
from gradreg_validation.models import Arrays, Evaluation, Side

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
        x: the batch, which is converted to the coarser of the models' dtypes.
    """

    def __init__(self, sides: Sequence[Side], names: Sequence[str], x: np.ndarray) -> None:
        self.pair, self.names = tuple(sides), tuple(names)
        self.dtype = "float32" if any(side.dtype == "float32" for side in sides) else "float64"
        self.u = float(np.finfo(self.dtype).eps) / 2
        self.x = x.astype(self.dtype)
        self.measured = 1 if not sides[0].values and sides[1].values else 0
        """The model whose roundoff is measured: one whose parameters can be reached, if there is one."""

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
        x = self.x.astype(side.dtype)
        with blame(self.label(i)):
            evaluation, again = side.evaluate(x, {}), side.evaluate(x, {})
        if relative(evaluation.outputs, again.outputs) > _RANDOM * self.u:
            raise InputError(
                f"validate: the {self.label(i)} model is random: two calls on the same batch differ. Put it into "
                f"evaluation mode, or give it a fixed dropout mask."
            )
        return evaluation

    def activations(
        self, i: int, names: Sequence[str], x: np.ndarray | None = None, changed: Arrays | None = None
    ) -> Arrays:
        """Activations of one model, on the batch or on x, with other parameters if they are given."""
        side = self.pair[i]
        with blame(self.label(i)):
            return side.activations(self.x.astype(side.dtype) if x is None else x, changed or {}, names)

    def perturbed(self, rng: np.random.Generator) -> tuple[np.ndarray, Arrays]:
        """The input and the parameters of the measured model, moved by one unit in the last place."""
        side = self.pair[self.measured]
        values = {name: self._moved(value, rng) for name, value in side.values.items()}
        return self._moved(self.x.astype(side.dtype), rng), values

    def _moved(self, value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        sign = rng.choice([-1.0, 1.0], size=value.shape)
        if np.finfo(value.dtype).eps / 2 == self.u:
            moved = np.nextafter(value, (np.inf * sign).astype(value.dtype))
        else:
            moved = value * (1 + 2 * self.u * sign)
        return np.asarray(np.where(np.isfinite(value) & (value != 0), moved, value), value.dtype)
