"""Terms of a regularizer: weighted values that are added to the loss, and their sums."""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, fields, replace
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Protocol

import numpy as np

from gradreg_core.backend import Array, Backend
from gradreg_core.docstrings import with_inherited_arguments
from gradreg_core.errors import SpecError
from gradreg_core.fields import Checked, Integer, Schedule
from gradreg_core.numerals import real

__all__ = ["LAZY_EVERY", "LAZY_EVERY_OF_LOSS", "Batch", "Regularizer", "Sum", "Term", "Weight", "Weighted"]

_OF_NUMPY = np.generic | np.ndarray  # torch.compile cannot trace a union that is formed inside a function

Weight = float | Callable[[Any], Any]
"""A number >= 0, or a schedule step -> weight. A schedule may be given a traced step and return a traced weight."""

LAZY_EVERY = 8
LAZY_EVERY_OF_LOSS = 2
"""Of :meth:`Regularizer.lazy`: values that kept the whole gain of SpectReg and DataGrad (docs/performance.md)."""
_MAX_EVERY = 2**31 - 1


class Batch(Protocol):
    """The batch that a term is evaluated on; see :mod:`gradreg_core.evaluation`."""

    call: str
    ops: Backend

    @property
    def forward(self) -> Any:
        """The forward pass over the whole batch, a :class:`gradreg_core.forward.Forward`."""

    def mean(self, values: Array) -> Array:
        """The weighted mean of values (B,) of the whole batch."""

    def mean_penalty(self, term: Any) -> Array:
        """mean_i phi(||J_i^T W_i||), over the part of the batch that the term penalises."""

    def parameters(self, owner: str) -> list[Array]:
        """The parameters of the model, or the call's `params`; `owner` is the term, for messages."""

    def zero(self) -> Array:
        """0 in the dtype of the penalties."""


class Regularizer:
    """One term or a sum of terms. `a + b` shares one forward pass."""

    @property
    def terms(self) -> tuple["Term", ...]:
        """The terms, in order."""
        raise NotImplementedError

    def __add__(self, other: object) -> "Sum":
        if not isinstance(other, Regularizer):
            return NotImplemented
        return Sum(self.terms + other.terms)

    def __radd__(self, other: object) -> "Regularizer":
        """Let sum([...]) start from 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def lazy(self, every: int | None = None) -> "Regularizer":
        """The same regularizer with its Jacobian terms charged at every `every`-th step, `every` times as much.

        Weight decay and confidence penalties cost nothing and stay as they are.

        Args:
            every: steps from one charge to the next. None takes the values that kept the whole gain in the paper's
                protocol (docs/performance.md): 8 for penalties on logits or probabilities (1.14 times a plain step on
                average), 2 for those on the loss, whose larger weights upset the optimizer if charged more rarely.

        Raises:
            SpecError: `every` is not a positive integer.
        """

        def charged(term: Term) -> Term:
            lowered = term.lower()
            if lowered is None:
                return term
            default = LAZY_EVERY_OF_LOSS if lowered.output == "loss" else LAZY_EVERY
            return replace(term, every=default if every is None else every)

        if every is not None:
            Integer(minimum=1, maximum=_MAX_EVERY)("lazy", "every", every)
        return _joined(tuple(charged(term) for term in self.terms))

    def due(self, step: int) -> "Regularizer":
        """The regularizer of one step: terms that are due with `every` times their weight, the others with weight 0.

        The penalties at this step equal those of the regularizer itself. A training step that JAX or TensorFlow
        compiles is one program for all steps, in which skipping is expensive. With ``reg.due(step)`` as a static
        argument it is one program per set of due terms: equal sets give the same object.

        Args:
            step: the number of the step, a Python or NumPy integer.

        Raises:
            SpecError: `step` is anything else, such as an array that a compiler traces, or negative.
        """
        Integer(minimum=0)("due", "step", step)
        return _at_once(self.terms, tuple(int(step) % term.every == 0 for term in self.terms))


def _joined(terms: tuple["Term", ...]) -> "Regularizer":
    return terms[0] if len(terms) == 1 else Sum(terms)


@dataclass(frozen=True)
class _Multiple:
    """A schedule times a number."""

    schedule: Callable[[Any], Any]
    factor: int

    def __call__(self, step: Any) -> Any:
        return self.schedule(step) * self.factor


@lru_cache(maxsize=1024)
def _at_once(terms: tuple["Term", ...], due: tuple[bool, ...]) -> "Regularizer":
    def charged(term: Term, is_due: bool) -> Term:
        if not is_due:
            return replace(term, weight=0.0, every=1)
        if term.every == 1:
            return term
        weight = _Multiple(term.weight, term.every) if callable(term.weight) else term.weight * term.every
        return replace(term, weight=weight, every=1)

    return _joined(tuple(charged(term, is_due) for term, is_due in zip(terms, due, strict=True)))


@dataclass(frozen=True, repr=False)
class Sum(Regularizer):
    """Several terms; their penalties add."""

    _terms: tuple["Term", ...]

    def __post_init__(self) -> None:
        terms = tuple(self._terms)
        if not terms or not all(isinstance(term, Term) for term in terms):
            raise SpecError(f"Sum: expected one or more terms such as DataGrad(50.0), got {self._terms!r}.")
        object.__setattr__(self, "_terms", terms)

    @property
    def terms(self) -> tuple["Term", ...]:
        return self._terms

    def __repr__(self) -> str:
        return " + ".join(repr(term) for term in self._terms)


@dataclass(frozen=True, repr=False)
class Weighted(Checked, Regularizer):
    """A regularizer with a weight. For ``help()``, a class's docstring also gets the arguments of its bases.

    Args:
        weight: a number >= 0, or a schedule `step -> weight`.
        every: charge the term at steps divisible by `every` only, `every` times as much, so that its mean over steps
            is unchanged. Lazy regularization: Karras et al. 2020 (StyleGAN2), section 3.1.
    """

    weight: Annotated[Weight, Schedule(minimum=0)]
    _: KW_ONLY
    every: Annotated[int, Integer(minimum=1, maximum=_MAX_EVERY)] = 1

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__doc__ = with_inherited_arguments(cls)

    def __repr__(self) -> str:
        """The call that makes it, defaults left out."""
        chosen = [f"{name}={value!r}" for name, value in self.chosen().items()]
        return f"{type(self).__name__}({', '.join([repr(self.weight), *chosen])})"

    def chosen(self) -> dict[str, Any]:
        """The fields other than the weight that differ from their defaults."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {name: value for name, (value, default) in values.items() if name != "weight" and value != default}


@dataclass(frozen=True, repr=False)
class Term(Weighted):
    """A weighted value that is added to the loss."""

    abstract: ClassVar[bool] = True
    """Whether the class is a common base and cannot be constructed itself."""
    needs_outputs: ClassVar[bool] = False
    """Whether its value needs the outputs of the whole batch."""

    def __init_subclass__(cls, abstract: bool = False) -> None:
        super().__init_subclass__()
        cls.abstract = abstract

    def __post_init__(self) -> None:
        if self.abstract:
            raise SpecError(
                f"{type(self).__name__} is the base class of regularizers and has no value of its own; use a named one "
                f"such as SpectReg(0.01), or the general form JacobianPenalty(weight, projection=...)."
            )
        super().__post_init__()
        self._check_together()
        # Made once, here, so that a compiler that traces a call finds it ready.
        object.__setattr__(self, "_lowered", self._lower())

    def _check_together(self) -> None:
        """Refuse fields that do not go with each other.

        Raises:
            SpecError: they do not.
        """

    @property
    def terms(self) -> tuple["Term", ...]:
        return (self,)

    def lower(self) -> Any:
        """The term in the general form, a JacobianPenalty, or None if it is not a penalty on a Jacobian."""
        return self.__dict__["_lowered"]

    def _lower(self) -> Any:
        return None

    def value(self, batch: Batch) -> Array:
        """The penalty without the weight and the convention's constant, a scalar."""
        raise NotImplementedError

    @property
    def factor(self) -> float:
        """The convention's constant that multiplies the value, such as one half; 1 unless the formula has one."""
        return 1.0

    def weight_at(self, step: Any) -> Any:
        """The weight at `step`: a checked float, or the value of a schedule that is not a number, such as an array.

        Raises:
            SpecError: the schedule returned a number that is negative, NaN or infinite, or nothing like a number.
        """
        if not callable(self.weight):
            return self.weight
        value: Any = self.weight(step)
        number = real(value)
        is_array = not isinstance(value, _OF_NUMPY) and getattr(value, "shape", None) == ()
        if not (is_array if number is None else 0 <= number < math.inf):
            raise SpecError(
                f"{type(self).__name__}: the weight schedule must return a finite number of at least 0, "
                f"got {value!r} at step {step!r}."
            )
        return value if number is None else number

    def is_due(self, step: Any) -> bool:
        """Whether the term may cost anything at `step`; at a traced step it always may."""
        weight = self.weight_at(step)
        if isinstance(weight, int | float) and weight == 0:
            return False
        return self.every == 1 or not isinstance(step, int) or step % self.every == 0
