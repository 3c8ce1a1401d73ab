"""The specification of a regularizer: frozen values, validated when they are made, that add up and compare.

A :class:`Term` has a weight; a :class:`JacobianTerm` is any of the family and lowers to one
:class:`JacobianPenalty`, the general form that the engine evaluates:

    penalty = weight(step) * scale * mean_i phi(||J_i^T W_i||),   W_i = projection(z_i, y_i, draw_i)

The named members of the family are in :mod:`gradreg_core.presets`.
"""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Any

from gradreg_core.errors import SpecError
from gradreg_core.fields import require_bool, require_choice, require_integer, require_number
from gradreg_core.norms import NORMS, Phi, identity
from gradreg_core.projections import Projection, exact, gaussian

__all__ = [
    "METHODS",
    "OUTPUTS",
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

OUTPUTS = ("logits", "probabilities", "log_probabilities", "loss")
SIDES = ("output", "input")
METHODS = ("jvp", "difference")
_DRAWS = ("per_sample", "per_batch")
_H = 0.01
_MAX_EVERY = 2**31 - 1
LAZY_EVERY = 8
LAZY_EVERY_OF_LOSS = 2
"""Of :meth:`Regularizer.lazy`: what kept the whole gain of SpectReg, and of DataGrad (docs/performance.md)."""
_GAUSSIAN, _EXACT, _IDENTITY = gaussian(), exact(), identity()


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
        """The same regularizer, its Jacobian terms charged at each `every`-th step, `every` times as much.

        Weight decay and confidence penalties, which cost nothing, stay as they are.

        Args:
            every: steps from one charge to the next; None for what kept the whole gain in accuracy in the paper's
                protocol, see docs/performance.md: 8 for penalties on logits or probabilities (1.14 times a plain step
                on average), 2 for those on the loss, whose larger weights upset the optimizer if charged more rarely.

        Raises:
            SpecError: `every` is no positive integer.
        """

        def charged(term: JacobianTerm) -> JacobianTerm:
            default = LAZY_EVERY_OF_LOSS if term.lower().output == "loss" else LAZY_EVERY
            return replace(term, every=default if every is None else every)

        changed = [charged(term) if isinstance(term, JacobianTerm) else term for term in self.terms]
        return changed[0] if len(changed) == 1 else Sum(tuple(changed))

    def to_dict(self) -> dict[str, Any]:
        """A plain dict of JSON values with a schema version; see :func:`gradreg_core.schema.to_dict`."""
        from gradreg_core.schema import to_dict

        return to_dict(self)


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
class Term(Regularizer):
    """Something with a weight that is added to the loss.

    Args:
        weight: a number >= 0, or a schedule `step -> weight`.
        every: charge the term at steps divisible by `every` only, `every` times as much, so that its mean over steps
            is unchanged. Lazy regularization: Karras et al. 2020 (StyleGAN2), section 3.1.
    """

    weight: Weight
    _: KW_ONLY
    every: int = 1

    def __post_init__(self) -> None:
        self._validate()

    def _validate(self) -> None:
        """Check the fields and bring them to their own types.

        Raises:
            SpecError: a field is invalid.
        """
        if not callable(self.weight):
            weight = require_number(type(self).__name__, "weight", self.weight, minimum=0)
            object.__setattr__(self, "weight", weight)
        every = require_integer(type(self).__name__, "every", self.every, minimum=1, maximum=_MAX_EVERY)
        object.__setattr__(self, "every", every)

    @property
    def terms(self) -> tuple["Term", ...]:
        return (self,)

    def __repr__(self) -> str:
        """The call that makes the term, defaults left out."""
        chosen = [
            f"{each.name}={getattr(self, each.name)!r}"
            for each in fields(self)
            if each.name != "weight" and getattr(self, each.name) != each.default
        ]
        return f"{type(self).__name__}({', '.join([repr(self.weight), *chosen])})"

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


@dataclass(frozen=True, repr=False)
class JacobianTerm(Term):
    """A member of the gradient regularization family.

    Args:
        weight, every: see :class:`Term`.
        fraction: penalise a random part of the batch of this share, drawn anew at each step; unbiased. The model is
            called on the part and on the rest, so batch normalisation in training sees two smaller batches.
        seed: of the draws, in [0, 2**64); equal seeds give equal draws in all frameworks.
        draw: ``"per_sample"``, or ``"per_batch"``: one draw shared by all samples, as in the paper's own code.
        at: differentiate with respect to this named activation instead of the input, where the framework has names.
    """

    _: KW_ONLY
    fraction: float = 1.0
    seed: int = 0
    draw: str = "per_sample"
    at: str | None = None

    def _validate(self) -> None:
        super()._validate()
        owner = type(self).__name__
        fraction = require_number(owner, "fraction", self.fraction, minimum=0, maximum=1, open_minimum=True)
        object.__setattr__(self, "fraction", fraction)
        object.__setattr__(self, "seed", require_integer(owner, "seed", self.seed, minimum=0, maximum=2**64 - 1))
        require_choice(owner, "draw", self.draw, _DRAWS)
        if self.at is not None and (not isinstance(self.at, str) or not self.at):
            raise SpecError(f"{owner}: at must be the name of a layer or None, got {self.at!r}.")

    def __post_init__(self) -> None:
        super().__post_init__()
        # Made once, here, so that a compiler that traces a call finds it ready.
        object.__setattr__(self, "_lowered", self._lower())

    def lower(self) -> "JacobianPenalty":
        """The same penalty in the general form."""
        lowered: JacobianPenalty = self.__dict__["_lowered"]
        return lowered

    def _lower(self) -> "JacobianPenalty":
        raise NotImplementedError

    def _general(self, **chosen: Any) -> "JacobianPenalty":
        shared = {name: getattr(self, name) for name in ("every", "fraction", "seed", "draw", "at")}
        return JacobianPenalty(self.weight, **shared, **chosen)


@dataclass(frozen=True, repr=False)
class SidedTerm(JacobianTerm):
    """A term whose directions may lie in the space of the input instead of the output.

    Args:
        side: ``"output"``: ||J_i^T w_i||, by a backward pass. ``"input"``: ||J_i v_i||, without one, so that no layer
            needs a second derivative by way of its backward pass. For v ~ N(0, I_d) the expectation is the same squared
            Frobenius norm, and so is the variance, since tr((J J^T)^2) = tr((J^T J)^2).
        method: of the input side. ``"jvp"``: the exact product by forward-mode differentiation. ``"difference"``:
            (g(x + h v) - g(x)) / h from two forward passes with the same random masks, for models that can be
            differentiated only once. For smooth models: it is a penalty of its own, which at kinks feels the change of
            slope over the distance h ||v||, and through ReLU and max pooling its gradient is several times as large as
            the product's, and mostly noise. `check` tells.
        h: the step of the difference, in units of v: each component of the input moves by about h for Gaussian v.
            Too large a step measures another function, too small a one only the rounding of the outputs, which enters
            divided by h. The default, 0.01, suits float32 and standardised inputs.
        weight, every, fraction, seed, draw, at: see :class:`JacobianTerm`.
    """

    _: KW_ONLY
    side: str = "output"
    method: str = "jvp"
    h: float = _H

    def _validate(self) -> None:
        super()._validate()
        owner = type(self).__name__
        require_choice(owner, "side", self.side, SIDES)
        require_choice(owner, "method", self.method, METHODS)
        object.__setattr__(self, "h", require_number(owner, "h", self.h, minimum=0, open_minimum=True))
        if self.side == "output" and self.method != "jvp":
            raise SpecError(f"{owner}: method={self.method!r} is of side='input'; pass that too.")
        if self.method != "difference" and self.h != _H:
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
        output: what is differentiated: the logits, the probabilities f = softmax(z), log f, or the loss. For the loss
            there is one output, so on the output side the projection is ``exact()``; W is dM/dz, f - y for
            cross-entropy.
        norm: ``"l2"``, ``"l1"`` or ``"linf"``, over all components of J^T W of one sample, all rows together.
        squared: whether n is the squared norm (the paper's footnote 2).
        phi: ``identity()``, ``target(t)`` or ``hinge(t)``.
        scale: a convention's constant, such as one half.
        weight, every, fraction, seed, draw, at, side, method, h: see :class:`SidedTerm`.

    A single logit counts as binary: f is the logistic function of it.
    """

    _: KW_ONLY
    projection: Projection = _GAUSSIAN
    output: str = "logits"
    norm: str = "l2"
    squared: bool = True
    phi: Phi = _IDENTITY
    scale: float = 1.0

    def _validate(self) -> None:
        super()._validate()
        owner = "JacobianPenalty"
        if not isinstance(self.projection, Projection):
            raise SpecError(f"{owner}: projection must be one such as gaussian(1) or exact(), got {self.projection!r}.")
        if not isinstance(self.phi, Phi):
            raise SpecError(f"{owner}: phi must be identity(), target(t) or hinge(t), got {self.phi!r}.")
        require_choice(owner, "output", self.output, OUTPUTS)
        require_choice(owner, "norm", self.norm, NORMS)
        require_bool(owner, "squared", self.squared)
        scale = require_number(owner, "scale", self.scale, minimum=0, open_minimum=True)
        object.__setattr__(self, "scale", scale)
        if self.side == "input" and not self.projection.on_input_side:
            raise SpecError(
                f"{owner}: {self.projection!r} is a direction in the space of the output; side='input' takes "
                f"gaussian, rademacher, sphere, orthonormal, random_onehot, exact or direction."
            )
        if self.side == "output" and self.output == "loss" and self.projection != _EXACT:
            raise SpecError(
                f"{owner}: the loss is one number per sample, so output='loss' takes projection=exact(), "
                f"got {self.projection!r}."
            )

    def _lower(self) -> "JacobianPenalty":
        return self
