"""A regularizer that waits until the training set is fitted."""

from collections.abc import Mapping
from typing import Any

from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.numerals import of_array
from gradreg_core.spec import Regularizer

__all__ = ["OnceFitted"]


class OnceFitted:
    """A regularizer that is left out until the training set is fitted, and stays from then on.

    A penalty pays off once the network fits its training samples; before that it can only slow the fit down,
    and its steps cost twice as much. The training set counts as fitted when the moving average of the batches' accuracy

        a <- decay * a + (1 - decay) * accuracy,    a = 0 at first

    reaches `accuracy`. In the experiments this kept the gain of :class:`SpectReg` and lost nothing.

    ::

        once = gradreg_core.OnceFitted(gradreg.SpectReg(0.01))
        for step, (x, y) in enumerate(batches):
            total, parts = gradreg.loss(model, x, y, once.reg, step=step)
            ...
            once.update((parts.outputs.argmax(1) == y).float().mean())

    `reg` is None or the regularizer itself, so that a compiled step, which takes it as a static argument, is compiled
    at most twice. If processes share a training, give all of them the accuracy of the whole batch.

    Args:
        reg: the regularizer to use once the training set is fitted.
        accuracy: the moving average of the batches' accuracy that counts as fitted, above 0 and at most 1.
        decay: of the moving average, at least 0 and below 1.

    Raises:
        InputTypeError: `reg` is not a regularizer, or the others are not numbers.
        InputError: a number is out of its range.
    """

    def __init__(self, reg: Regularizer, *, accuracy: float = 0.99, decay: float = 0.9) -> None:
        if not isinstance(reg, Regularizer):
            raise InputTypeError(
                f"OnceFitted: reg must be a regularizer such as SpectReg(0.01), got {type(reg).__name__}."
            )
        self._reg = reg
        self._accuracy = _share("accuracy", accuracy)
        if self._accuracy == 0:
            raise InputError("OnceFitted: accuracy must be above 0 and at most 1, got 0.")
        self._decay = _share("decay", decay)
        if self._decay == 1:
            raise InputError("OnceFitted: decay must be at least 0 and below 1, got 1.")
        self._average, self._fitted = 0.0, False

    @property
    def reg(self) -> Regularizer | None:
        """The regularizer of the next step: None until the training set is fitted."""
        return self._reg if self._fitted else None

    @property
    def fitted(self) -> bool:
        """Whether the training set has been fitted."""
        return self._fitted

    def update(self, accuracy: Any) -> None:
        """Add the accuracy of a batch, a share between 0 and 1.

        Args:
            accuracy: a number, or a 0-d array of any framework, whose value is read. On an accelerator reading waits
                for the step; update at every tenth step, say, if that matters.

        Raises:
            InputTypeError: it is not a number, or an array whose value cannot be read, as in a compiled step.
            InputError: it is not between 0 and 1.
        """
        self._average = self._decay * self._average + (1 - self._decay) * _share("update(accuracy)", accuracy)
        self._fitted = self._fitted or self._average >= self._accuracy

    def state_dict(self) -> dict[str, float | bool]:
        """The state for a checkpoint: the moving average, and whether the training set has been fitted."""
        return {"average": self._average, "fitted": self._fitted}

    def load_state_dict(self, state: Mapping[str, float | bool]) -> None:
        """Restore the result of `state_dict`.

        Raises:
            InputError: it has other entries.
        """
        if set(state) != {"average", "fitted"}:
            raise InputError(
                f"OnceFitted: load_state_dict expects the entries 'average' and 'fitted', got {sorted(state)}."
            )
        self._average, self._fitted = _share("average", state["average"]), bool(state["fitted"])

    def __repr__(self) -> str:
        return f"OnceFitted({self._reg!r}, accuracy={self._accuracy:g}, decay={self._decay:g})"


def _share(name: str, value: Any) -> float:
    number = of_array(value)
    if number is None:
        raise InputTypeError(
            f"OnceFitted: {name} must be a number between 0 and 1 that can be read, got {value!r}. "
            f"Pass the mean of (prediction == label), outside of a compiled step."
        )
    if not 0 <= number <= 1:
        raise InputError(
            f"OnceFitted: {name} must be between 0 and 1, got {number:g}. Pass a share of the samples, not percent."
        )
    return number
