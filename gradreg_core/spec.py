"""The specification of a regularizer: frozen values, validated at construction, that add up and compare.

A :class:`Term` has a weight. A :class:`JacobianTerm` is a member of the gradient regularization family and lowers to
one :class:`JacobianPenalty`, the general form that the engine evaluates:

    penalty = weight(step) * scale * mean_i phi(||J_i^T W_i||),   W_i = projection(z_i, y_i, draw_i)

The named members of the family are in :mod:`gradreg_core.presets`.
"""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Annotated, Any, ClassVar, Protocol

from gradreg_core.backend import Array, Backend
from gradreg_core.errors import SpecError
from gradreg_core.fields import Boolean, Checked, Choice, Instance, Integer, Number, Schedule
from gradreg_core.norms import NORMS, Phi, identity
from gradreg_core.outputs import OUTPUTS
from gradreg_core.projections import Projection, exact, gaussian

__all__ = [
    "METHODS",
    "SIDES",
    "JacobianPenalty",
    "JacobianTerm",
    "Regularizer",
    "SidedTerm",
    "Sum",
    "Term",
    "Weight",
]

Weight = float | Callable[[Any], Any]
"""A number >= 0, or a schedule step -> weight. A schedule may be given a traced step and return a traced weight."""

SIDES = ("output", "input")
METHODS = ("jvp", "difference")
_DRAWS = ("per_sample", "per_batch")
_MAX_EVERY = 2**31 - 1
_DEFAULT_H = 0.01
_GAUSSIAN, _EXACT, _IDENTITY = gaussian(), exact(), identity()
_PLACE = Instance(
    lambda name: name is None or (isinstance(name, str) and name != ""), "the name of a layer or of a tap, or None"
)
LAZY_EVERY = 8
LAZY_EVERY_OF_LOSS = 2
"""Of :meth:`Regularizer.lazy`: what kept the whole gain of SpectReg, and of DataGrad (docs/performance.md)."""


class Batch(Protocol):
    """The batch that a term is evaluated on; see :mod:`gradreg_core.evaluation`."""

    call: str
    ops: Backend

    @property
    def forward(self) -> Any:
        """The forward pass over the whole batch, a :class:`gradreg_core.forward.Forward`."""

    def mean(self, values: Array) -> Array:
        """The weighted mean of values (B,) of the whole batch."""

    def mean_penalty(self, term: "JacobianPenalty") -> Array:
        """mean_i phi(||J_i^T W_i||), over the part of the batch that the term penalises."""

    def parameters(self, owner: str) -> list[Array]:
        """The parameters of the model, or those of the call; `owner` is the term, for messages."""

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
        """The same regularizer, its Jacobian terms charged at every `every`-th step, `every` times as much.

        Weight decay and confidence penalties cost nothing and stay as they are.

        Args:
            every: steps from one charge to the next. None takes what kept the whole gain in accuracy in the paper's
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
        changed = tuple(charged(term) for term in self.terms)
        return changed[0] if len(changed) == 1 else Sum(changed)


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
class Term(Checked, Regularizer):
    """A weighted value that is added to the loss.

    Args:
        weight: a number >= 0, or a schedule `step -> weight`.
        every: charge the term at steps divisible by `every` only, `every` times as much, so that its mean over steps
            is unchanged. Lazy regularization: Karras et al. 2020 (StyleGAN2), section 3.1.
    """

    weight: Annotated[Weight, Schedule(minimum=0)]
    _: KW_ONLY
    every: Annotated[int, Integer(minimum=1, maximum=_MAX_EVERY)] = 1

    abstract: ClassVar[bool] = True
    """Whether the class is a common base and cannot be constructed itself."""
    needs_outputs: ClassVar[bool] = False
    """Whether its value is of the outputs of the whole batch."""

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

    def __repr__(self) -> str:
        """The call that makes the term, defaults left out."""
        chosen = [f"{name}={value!r}" for name, value in self.chosen().items()]
        return f"{type(self).__name__}({', '.join([repr(self.weight), *chosen])})"

    def chosen(self) -> dict[str, Any]:
        """The fields, but for the weight, that differ from their defaults."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {name: value for name, (value, default) in values.items() if name != "weight" and value != default}

    def lower(self) -> "JacobianPenalty | None":
        """The term in the general form, or None if it is not a penalty on a Jacobian."""
        lowered: JacobianPenalty | None = self.__dict__["_lowered"]
        return lowered

    def _lower(self) -> "JacobianPenalty | None":
        return None

    def value(self, batch: Batch) -> Array:
        """The penalty without weight and the convention's constant, a scalar."""
        raise NotImplementedError

    @property
    def factor(self) -> float:
        """The convention's constant that multiplies the value, such as one half; 1 unless the formula has one."""
        return 1.0

    def weight_at(self, step: Any) -> Any:
        """The weight at `step`; a Python number is checked, a traced one is taken as it is.

        Raises:
            SpecError: the schedule returned a number that is negative, NaN or infinite.
        """
        value: Any = self.weight(step) if callable(self.weight) else self.weight
        if isinstance(value, int | float) and not (math.isfinite(value) and value >= 0):
            raise SpecError(
                f"{type(self).__name__}: the weight schedule must return a finite number of at least 0, "
                f"got {value!r} at step {step!r}."
            )
        return value

    def is_due(self, step: Any) -> bool:
        """Whether the term may cost anything at `step`; of a traced step it always may."""
        weight = self.weight_at(step)
        if isinstance(weight, int | float) and weight == 0:
            return False
        return self.every == 1 or not isinstance(step, int) or step % self.every == 0


@dataclass(frozen=True, repr=False)
class JacobianTerm(Term, abstract=True):
    """A member of the gradient regularization family.

    Args:
        weight, every: see :class:`Term`.
        fraction: penalise a random part of the batch of this share, drawn anew at each step; unbiased. The model is
            called on the part and on the rest, so batch normalisation in training sees two smaller batches.
        seed: of the draws, in [0, 2**64); equal seeds give equal draws in all frameworks.
        draw: ``"per_sample"``, or ``"per_batch"``: one draw shared by all samples, as in the paper's own code.
        at: differentiate with respect to this named activation instead of the input, where the framework has names.
        of: differentiate this named activation instead of the outputs; W has as many components as its values, taken as
            they are. With ``at`` the Jacobian of one place of the network with respect to an earlier one.
    """

    _: KW_ONLY
    fraction: Annotated[float, Number(minimum=0, maximum=1, open_minimum=True)] = 1.0
    seed: Annotated[int, Integer(minimum=0, maximum=2**64 - 1)] = 0
    draw: Annotated[str, Choice(_DRAWS)] = "per_sample"
    at: Annotated[str | None, _PLACE] = None
    of: Annotated[str | None, _PLACE] = None

    def lower(self) -> "JacobianPenalty":
        lowered: JacobianPenalty = self.__dict__["_lowered"]
        return lowered

    def _lower(self) -> "JacobianPenalty":
        raise NotImplementedError

    def _general(self, **chosen: Any) -> "JacobianPenalty":
        shared = {name: getattr(self, name) for name in ("every", "fraction", "seed", "draw", "at", "of")}
        if self.of is not None:
            _check_of(type(self).__name__, self.of, **chosen)
        return JacobianPenalty(self.weight, **shared, **chosen)

    def value(self, batch: Batch) -> Array:
        return batch.mean_penalty(self.lower())

    @property
    def factor(self) -> float:
        return self.lower().scale


def _check_of(
    owner: str,
    of: str,
    output: str = "logits",
    side: str = "output",
    projection: Projection = _GAUSSIAN,
    **_: Any,
) -> None:
    """Refuse what does not go with the values of a place inside the network.

    Raises:
        SpecError: the output or the projection is one of class scores, or the directions lie in input space.
    """
    if output != "logits" or projection.needs_classes:
        chosen = f"output={output!r}" if output != "logits" else f"{projection!r}"
        raise SpecError(
            f"{owner}: of={of!r} differentiates the values of that place as they are, and {chosen} needs the outputs "
            f"of the network; use SpectReg or FrobReg, or JacobianPenalty with output='logits' and a projection such "
            f"as gaussian()."
        )
    if side != "output":
        raise SpecError(f"{owner}: of={of!r} goes with side='output' only; leave side out.")


@dataclass(frozen=True, repr=False)
class SidedTerm(JacobianTerm, abstract=True):
    """A term whose directions may lie in input space instead of output space.

    Args:
        side: ``"output"``: ||J_i^T w_i||, by a backward pass. ``"input"``: ||J_i v_i||, without one, so that no layer
            needs a second derivative by way of its backward pass. For v ~ N(0, I_d) the expectation is the same squared
            Frobenius norm, and so is the variance, since tr((J J^T)^2) = tr((J^T J)^2).
        method: of the input side. ``"jvp"``: the exact product by forward-mode differentiation. ``"difference"``:
            (g(x + h v) - g(x)) / h from two forward passes with the same random masks, for models that can be
            differentiated only once. Use it on smooth models. It is a penalty of its own: at kinks it feels the change
            of slope over the distance h ||v||, and through ReLU and max pooling its gradient is several times as large
            as the product's, and mostly noise. `check` warns of that.
        h: the step of the difference, in units of v: each component of the input moves by about h for Gaussian v.
            Too large a step measures another function, too small a step the rounding of the outputs, which enters
            divided by h. The default, 0.01, suits float32 and standardised inputs.
        weight, every, fraction, seed, draw, at, of: see :class:`JacobianTerm`.
    """

    _: KW_ONLY
    side: Annotated[str, Choice(SIDES)] = "output"
    method: Annotated[str, Choice(METHODS)] = "jvp"
    h: Annotated[float, Number(minimum=0, open_minimum=True)] = _DEFAULT_H

    def _check_together(self) -> None:
        owner = type(self).__name__
        if self.side == "output" and self.method != "jvp":
            raise SpecError(f"{owner}: method={self.method!r} is of side='input'; pass that too.")
        if self.method != "difference" and self.h != _DEFAULT_H:
            raise SpecError(f"{owner}: h={self.h!r} is the step of method='difference'; pass that too.")
        if self.side == "input" and self.at is not None:
            raise SpecError(
                f"{owner}: at={self.at!r} does not go with side='input', whose directions start from x; pass the head "
                f"of the network as the model and the activation as x."
            )

    def _general(self, **chosen: Any) -> "JacobianPenalty":
        return super()._general(side=self.side, method=self.method, h=self.h, **chosen)


@dataclass(frozen=True, repr=False)
class JacobianPenalty(SidedTerm):
    """The general form: weight * scale * mean_i phi(||J_i^T W_i||), or ||J_i V_i|| with directions in input space.

    Args:
        projection: the rows of W, such as ``gaussian(k)`` or ``exact()``; see :mod:`gradreg_core.projections`.
        output: what is differentiated: the logits, the probabilities f = softmax(z), log f, or the loss. The loss is
            one output, so on the output side its projection is ``exact()``; W is dM/dz, f - y for cross-entropy.
        norm: ``"l2"``, ``"l1"`` or ``"linf"``, over all components of J^T W of one sample, all rows together.
        squared: whether n is the squared norm (the paper's footnote 2).
        phi: ``identity()``, ``target(t)`` or ``hinge(t)``.
        scale: a convention's constant, such as one half.
        weight, every, fraction, seed, draw, at, of, side, method, h: see :class:`SidedTerm`.

    A single logit counts as binary: f is the logistic function of it.
    """

    _: KW_ONLY
    projection: Annotated[
        Projection,
        Instance(lambda value: isinstance(value, Projection), "a projection such as gaussian(1) or exact()"),
    ] = _GAUSSIAN
    output: Annotated[str, Choice(tuple(OUTPUTS))] = "logits"
    norm: Annotated[str, Choice(tuple(NORMS))] = "l2"
    squared: Annotated[bool, Boolean()] = True
    phi: Annotated[Phi, Instance(lambda value: isinstance(value, Phi), "identity(), target(t) or hinge(t)")] = _IDENTITY
    scale: Annotated[float, Number(minimum=0, open_minimum=True)] = 1.0

    def _check_together(self) -> None:
        super()._check_together()
        if self.of is not None:
            _check_of("JacobianPenalty", self.of, self.output, self.side, self.projection)
        if self.side == "input" and not self.projection.on_input_side:
            raise SpecError(
                f"JacobianPenalty: {self.projection!r} is a direction in output space; side='input' takes "
                f"gaussian, rademacher, sphere, orthonormal, random_onehot, exact or direction."
            )
        if self.side == "output" and self.output == "loss" and self.projection != _EXACT:
            raise SpecError(
                f"JacobianPenalty: the loss is one number per sample, so output='loss' takes projection=exact(), "
                f"got {self.projection!r}."
            )

    def _lower(self) -> "JacobianPenalty":
        return self
