"""The specification of a regularizer: frozen values, validated at construction, that add up and compare.

A :class:`Term` has a weight. A :class:`JacobianTerm` is a member of the gradient regularization family and lowers to
one :class:`JacobianPenalty`, the general form that the engine evaluates:

    penalty = weight(step) * scale * mean_i phi(||J_i^T W_i||),   W_i = projection(z_i, y_i, draw_i)

The named members of the family are in :mod:`gradreg_core.presets`.
"""

from dataclasses import KW_ONLY, dataclass, fields
from typing import Annotated, Any

from gradreg_core.backend import Array
from gradreg_core.errors import SpecError
from gradreg_core.fields import Boolean, Choice, Instance, Integer, Number
from gradreg_core.norms import NORMS, Phi, identity
from gradreg_core.outputs import OUTPUTS
from gradreg_core.projections import Projection, exact, gaussian, ones
from gradreg_core.terms import Batch, Regularizer, Sum, Term, Weight

__all__ = [
    "METHODS",
    "SIDES",
    "JacobianPenalty",
    "JacobianTerm",
    "MethodTerm",
    "NormedTerm",
    "Regularizer",
    "SidedTerm",
    "Sum",
    "Term",
    "Weight",
]

SIDES = ("output", "input")
METHODS = ("jvp", "difference")
_DEFAULT_H = 0.01
_GAUSSIAN, _EXACT, _IDENTITY = gaussian(), exact(), identity()

# The types of fields, with their checks.
Fraction = Annotated[float, Number(minimum=0, maximum=1, open_minimum=True)]
Seed = Annotated[int, Integer(minimum=0, maximum=2**64 - 1)]
Draw = Annotated[str, Choice(("per_sample", "per_batch"))]
NormName = Annotated[str, Choice(tuple(NORMS))]
OutputName = Annotated[str, Choice(tuple(OUTPUTS))]
Flag = Annotated[bool, Boolean()]
Directions = Annotated[
    Projection, Instance(lambda value: isinstance(value, Projection), "a projection such as gaussian(1) or exact()")
]
Place = Annotated[
    str | None,
    Instance(
        lambda name: name is None or (isinstance(name, str) and name != ""), "the name of a layer or of a tap, or None"
    ),
]


@dataclass(frozen=True, repr=False)
class JacobianTerm(Term, abstract=True):
    """A member of the gradient regularization family.

    Args:
        fraction: penalise this share of the batch, a random part drawn anew at each step; unbiased. The model is
            called on the part and on the rest, so batch normalisation in training sees two smaller batches.
        seed: of the draws, in [0, 2**64); equal seeds give equal draws in all frameworks.
        draw: ``"per_sample"``, or ``"per_batch"``: one draw shared by all samples, as in the paper's own code.
        at: differentiate with respect to this named activation instead of the input, if the framework has names.
        of: differentiate this named activation instead of the outputs; W has as many components as its values, which
            are used as they are. With ``at`` the Jacobian of one place of the network with respect to an earlier one.
    """

    _: KW_ONLY
    fraction: Fraction = 1.0
    seed: Seed = 0
    draw: Draw = "per_sample"
    at: Place = None
    of: Place = None

    def lower(self) -> "JacobianPenalty":
        lowered: JacobianPenalty = self.__dict__["_lowered"]
        return lowered

    def _lower(self) -> "JacobianPenalty":
        raise NotImplementedError

    def _general(self, **chosen: Any) -> "JacobianPenalty":
        shared = {name: getattr(self, name) for name in ("every", "fraction", "seed", "draw", "at", "of")}
        _check_general(type(self).__name__, **shared, **chosen)
        return JacobianPenalty(self.weight, **shared, **chosen)

    def value(self, batch: Batch) -> Array:
        return batch.mean_penalty(self.lower())

    @property
    def factor(self) -> float:
        return self.lower().scale


@dataclass(frozen=True, repr=False)
class NormedTerm(JacobianTerm, abstract=True):
    """A term whose norm may be chosen.

    Args:
        norm: ``"l2"``, ``"l1"`` or ``"linf"``, over all components of one sample's rows J^T w together.
        squared: whether the norm, whichever it is, is squared, as in the paper (its footnote 2).
    """

    _: KW_ONLY
    norm: NormName = "l2"
    squared: Flag = True

    def _general(self, **chosen: Any) -> "JacobianPenalty":
        return super()._general(norm=self.norm, squared=self.squared, **chosen)


@dataclass(frozen=True, repr=False)
class MethodTerm(JacobianTerm, abstract=True):
    """A term that can do without a second derivative.

    The difference takes two forward passes with the same random masks, for models that can be differentiated only once.
    On the output side u is the loss of the sample, or the sum of its outputs, and d its own input gradient divided by
    its length, taken as a constant: the slope along d is ||du/dx||, up to a bias of h/2 times the curvature of u
    along d. At a kink (ReLU, max pooling) within h of x the slope is a mean of the slopes on both sides. On the input
    side d is the direction v, usually random. Use it on smooth models. It is a different penalty: at kinks it sees
    the change of slope over the distance h ||d||, and through ReLU and max pooling its gradient along random directions
    is several times as large as the product's, and mostly noise. `check` warns of that.

    Args:
        method: ``"jvp"``: derivatives, differentiated again. ``"difference"``: (u(x + h d) - u(x)) / h from two forward
            passes, without a second derivative, for smooth models; see :class:`gradreg_core.spec.MethodTerm`.
        h: the step of the difference. On the output side it is the distance that x moves. On the input side it is in
            units of v: each component of the input moves by about h for Gaussian v. Too large a step measures another
            function, too small a step the rounding of the outputs, which enters divided by h. The default, 0.01, suits
            float32 and standardised inputs.

    The difference along the gradient: Finlay, Oberman 2019, Scaleable input gradient regularization.
    """

    _: KW_ONLY
    method: Annotated[str, Choice(METHODS)] = "jvp"
    h: Annotated[float, Number(minimum=0, open_minimum=True)] = _DEFAULT_H

    def _check_together(self) -> None:
        super()._check_together()
        if self.method != "difference" and self.h != _DEFAULT_H:
            raise SpecError(f"{type(self).__name__}: h={self.h!r} is the step of method='difference'; pass that too.")

    def _general(self, **chosen: Any) -> "JacobianPenalty":
        return super()._general(method=self.method, h=self.h, **chosen)


@dataclass(frozen=True, repr=False)
class SidedTerm(MethodTerm, abstract=True):
    """A term whose directions may lie in input space instead of output space.

    Args:
        side: ``"output"``: ||J_i^T w_i||, by a backward pass. ``"input"``: ||J_i v_i||, without one, so that no layer
            needs a second derivative through its backward pass. For v ~ N(0, I_d) the expectation is the same squared
            Frobenius norm, and so is the variance, since tr((J J^T)^2) = tr((J^T J)^2).
    """

    _: KW_ONLY
    side: Annotated[str, Choice(SIDES)] = "output"

    def _general(self, **chosen: Any) -> "JacobianPenalty":
        return super()._general(side=self.side, **chosen)


@dataclass(frozen=True, repr=False)
class JacobianPenalty(NormedTerm, SidedTerm):
    """The general form: weight * scale * mean_i phi(||J_i^T W_i||), or ||J_i V_i|| with directions in input space.

    Args:
        projection: the rows of W, such as ``gaussian(k)`` or ``exact()``; see :mod:`gradreg_core.projections`.
        output: the function that is differentiated: the logits, the probabilities f = softmax(z), log f, or the loss.
            The loss is one output, so on the output side its projection is ``exact()`` and W is dM/dz.
        phi: ``identity()``, ``target(t)`` or ``hinge(t)``.
        scale: a convention's constant, such as one half.
        to_target: penalise ||J_i^T W_i - T_i^T W_i|| with the target Jacobian T of the call's ``target=``, a constant.

    A single logit counts as binary: f is the logistic function of it.
    """

    _: KW_ONLY
    projection: Directions = _GAUSSIAN
    output: OutputName = "logits"
    phi: Annotated[Phi, Instance(lambda value: isinstance(value, Phi), "identity(), target(t) or hinge(t)")] = _IDENTITY
    scale: Annotated[float, Number(minimum=0, open_minimum=True)] = 1.0
    to_target: Flag = False

    def _check_together(self) -> None:
        super()._check_together()
        _check_general("JacobianPenalty", **{field.name: getattr(self, field.name) for field in fields(self)})

    def __post_init__(self) -> None:
        super().__post_init__()
        # Made once, here: torch.compile cannot trace the representation of a dataclass on every Python.
        name = self.projection if self.projection.needs_classes else type(self.projection).__name__
        object.__setattr__(self, "_asker", f"the projection {name}")

    def _lower(self) -> "JacobianPenalty":
        return self

    @property
    def asker(self) -> str:
        """The part that needs labels or probabilities, for messages: the projection."""
        asker: str = self.__dict__["_asker"]
        return asker

    @property
    def pulls(self) -> bool:
        """Whether its value is computed from pullbacks to the input, not from a product or a difference along it."""
        return self.side == "output" and self.method != "difference"


def _check_general(
    owner: str,
    *,
    projection: Projection = _GAUSSIAN,
    output: str = "logits",
    norm: str = "l2",
    side: str = "output",
    method: str = "jvp",
    at: str | None = None,
    of: str | None = None,
    to_target: bool = False,
    **_: Any,
) -> None:
    """Refuse fields of the general form that do not go with each other; `owner` is the class that users wrote.

    Raises:
        SpecError: they do not.
    """
    if side == "input":
        _check_input_side(owner, projection, at, of)
    elif output == "loss" and projection != _EXACT:
        raise SpecError(
            f"{owner}: the loss is one number per sample, so output='loss' takes projection=exact(), got "
            f"{projection!r}."
        )
    elif method == "difference":
        _check_along_the_gradient(owner, projection, output, norm, at, of)
    if of is not None and (output != "logits" or projection.needs_classes):
        chosen = f"output={output!r}" if output != "logits" else f"{projection!r}"
        raise SpecError(
            f"{owner}: of={of!r} differentiates the values of that place as they are, and {chosen} needs the outputs "
            f"of the network; use SpectReg or FrobReg, or JacobianPenalty with output='logits' and a projection such "
            f"as gaussian()."
        )
    if to_target and (side == "input" or method == "difference" or not projection.constant):
        chosen = f"{projection!r}" if not projection.constant else f"side={side!r}, method={method!r}"
        raise SpecError(
            f"{owner}: a target Jacobian goes with the output side, exact derivatives and directions that are "
            f"constants, got {chosen}; use gaussian() or exact(), and leave side and method out."
        )


def _check_input_side(owner: str, projection: Projection, at: str | None, of: str | None) -> None:
    """Refuse terms that do not go with directions in the space of the input.

    Raises:
        SpecError: the projection is for outputs, or the term has places besides the input and the outputs.
    """
    if not projection.on_input_side:
        raise SpecError(
            f"{owner}: {projection!r} is a direction in output space; side='input' takes gaussian, rademacher, sphere, "
            f"orthonormal, random_onehot, exact, ones or direction."
        )
    if at is not None:
        raise SpecError(
            f"{owner}: at={at!r} does not go with side='input', whose directions start from x; pass the head of the "
            f"network as the model and the activation as x."
        )
    if of is not None:
        raise SpecError(f"{owner}: of={of!r} goes with side='output' only; leave side out.")


def _check_along_the_gradient(
    owner: str, projection: Projection, output: str, norm: str, at: str | None, of: str | None
) -> None:
    """Refuse terms that do not go with a difference along the gradient of one number per sample.

    Raises:
        SpecError: there is no such number, or its gradient's length is not the norm.
    """
    if output not in ("loss", "logits") or projection not in (_EXACT, ones()):
        raise SpecError(
            f"{owner}: method='difference' on the output side follows the gradient of one number per sample, the loss "
            f"(DataGrad) or the sum of the outputs (R1, GradientPenalty, projection=ones()), got output={output!r}, "
            f"projection={projection!r}. Pass side='input' too for a difference along random directions."
        )
    if norm != "l2":
        raise SpecError(
            f"{owner}: method='difference' measures the slope along the gradient, its L2 norm; leave norm={norm!r} or "
            f"method out."
        )
    if at is not None or of is not None:
        place = f"at={at!r}" if at is not None else f"of={of!r}"
        raise SpecError(
            f"{owner}: {place} does not go with method='difference', which moves x; pass the head of the network as "
            f"the model and the activation as x, or leave method out."
        )
