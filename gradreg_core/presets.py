"""The named regularizers, each with the conventions of its paper.

Notation: z logits (m of them), f = softmax(z), y one-hot label, M the loss, J = dz/dx of one sample. All means are over
the samples of the batch, all norms over the components of one sample's gradient; nothing is divided by the number of
components. If a preset takes ``norm=`` and ``squared=``, ||.|| is that norm, squared unless ``squared=False``.
Inputs in other units scale J: dividing x by s multiplies every gradient by s.
"""

from dataclasses import KW_ONLY, dataclass, fields
from itertools import pairwise
from typing import Annotated, Any, ClassVar

from gradreg_core.backend import Array
from gradreg_core.errors import InputError, SpecError
from gradreg_core.fields import Integer, Number, OptionalInteger
from gradreg_core.layout import widened
from gradreg_core.norms import hinge, target
from gradreg_core.projections import (
    exact,
    fisher,
    gaussian,
    onehot,
    random_onehot,
    sphere,
    top_singular,
)
from gradreg_core.spec import (
    Directions,
    Draw,
    Flag,
    Fraction,
    JacobianPenalty,
    JacobianTerm,
    MethodTerm,
    NormedTerm,
    NormName,
    OutputName,
    Seed,
    SidedTerm,
)
from gradreg_core.terms import Batch, Term, Weighted

__all__ = [
    "R1",
    "ConfidencePenalty",
    "DataGrad",
    "FrobReg",
    "GradientPenalty",
    "HoffmanReg",
    "InputFisher",
    "JacReg",
    "LayerwiseReg",
    "OneHot",
    "RandomOneHot",
    "SobolevReg",
    "SpectReg",
    "SpectralNormReg",
    "WeightDecay",
]

_EXACT, _GAUSSIAN = exact(), gaussian()


@dataclass(frozen=True, repr=False)
class DataGrad(NormedTerm, SidedTerm):
    """weight * mean_i ||dM(z_i, y_i)/dx_i||^2, the squared L2 norm of the loss's own input gradient; no one half.

    For cross-entropy that is ||J^T (f - y)||^2. The loss is per sample: no 1/B enters the gradient.
    ``norm="l1"`` is weight * mean_i ||dM_i/dx_i||_1^2, the square of the sum of absolute values; ``squared=False``
    takes the norm itself. ``side="input"`` estimates it without bias by the loss's slope along v ~ N(0, I_d):
    (dM_i/dx_i . v_i)^2; every norm of that slope is its absolute value. With ``method="difference"`` the norm is the
    slope (M(x + h d) - M(x)) / h along the gradient's own direction d, a constant: it needs no second derivative.
    Double backpropagation (Drucker, LeCun 1991), DataGrad (Ororbia et al. 2017); Varga et al. 2017, section 2.
    """

    def _lower(self) -> JacobianPenalty:
        return self._general(projection=exact() if self.side == "output" else gaussian(), output="loss")


@dataclass(frozen=True, repr=False)
class SpectReg(NormedTerm, SidedTerm):
    """weight * mean_i ||J_i^T r||^2 with r ~ N(0, I_m), unnormalised; expectation weight * mean_i ||J_i||_F^2.

    With ``side="input"`` weight * mean_i ||J_i v||^2 with v ~ N(0, I_d), with the same expectation and variance.
    The expectations are for the squared L2 norm.

    Args:
        spherical: project r onto the unit sphere; the expectation is then divided by m (by d on the input side), and
            ||J^T r|| is at most the spectral norm.
        projections: average over this many independent draws; the cost grows with it, the variance falls.

    Varga et al. 2017, section 2. Their code shares one r among the samples of a batch: ``draw="per_batch"``.
    """

    _: KW_ONLY
    spherical: Flag = False
    projections: Annotated[int, Integer(minimum=1)] = 1

    def _lower(self) -> JacobianPenalty:
        return self._general(projection=(sphere if self.spherical else gaussian)(self.projections))


@dataclass(frozen=True, repr=False)
class FrobReg(NormedTerm):
    """weight * mean_i ||J_i||_F^2, exactly; no one half. Costs m backward passes. Varga et al. 2017, section 3.

    ``norm="l1"`` and ``"linf"`` are the sum and the largest of the absolute values of all m * d entries, squared.
    """

    def _lower(self) -> JacobianPenalty:
        return self._general(projection=exact())


@dataclass(frozen=True, repr=False)
class JacReg(NormedTerm):
    """weight * mean_i ||df_i/dx_i||_F^2, the exact Jacobian of the probabilities; no one half. m backward passes.

    ``norm=`` is over all entries of the Jacobian, as in FrobReg.
    Sokolic et al. 2017, the baseline in Varga et al. 2017, section 3.
    """

    def _lower(self) -> JacobianPenalty:
        return self._general(projection=exact(), output="probabilities")


@dataclass(frozen=True, repr=False)
class HoffmanReg(JacobianTerm):
    """weight * 1/2 * mean_i (m / n) sum_{j=1..n} ||J_i^T v_j||^2 with v_j on the unit sphere, drawn per sample.

    Args:
        projections: n, or None for the exact weight * 1/2 * mean_i ||J_i||_F^2.

    Hoffman, Roberts, Yaida 2019, equation 9 and Algorithm 1, with their one half and factor m: its expectation is half
    of FrobReg's, and of SpectReg's.
    """

    _: KW_ONLY
    projections: Annotated[int | None, OptionalInteger(minimum=1)] = 1

    def _lower(self) -> JacobianPenalty:
        chosen = exact() if self.projections is None else sphere(self.projections, unbiased=True)
        return self._general(projection=chosen, scale=0.5)


@dataclass(frozen=True, repr=False)
class GradientPenalty(MethodTerm):
    """weight * mean_i (||dD/dx_i||_2 - t)^2 for a critic D with one output, at the points x that are passed.

    Args:
        target: t, 1 in the paper.
        one_sided: penalise max(0, ||dD/dx_i||_2 - t)^2 instead.
        projection: ``exact()``: for a critic with several outputs the Frobenius norm of its Jacobian. ``ones()``: the
            gradient of the sum of its outputs, as for PatchGAN's.

    WGAN-GP (Gulrajani et al. 2017, equation 3; weight 10 there, x on segments between real and generated samples).
    The norm's gradient at 0 is taken as 0.
    """

    _: KW_ONLY
    target: Annotated[float, Number(minimum=0)] = 1.0
    one_sided: Flag = False
    projection: Directions = _EXACT

    def _lower(self) -> JacobianPenalty:
        phi = (hinge if self.one_sided else target)(self.target)
        return self._general(projection=self.projection, squared=False, phi=phi)


@dataclass(frozen=True, repr=False)
class R1(NormedTerm, MethodTerm):
    """weight * 1/2 * mean_i ||dD/dx_i||^2 for a critic D, at real samples x; the paper's gamma/2.

    Args:
        projection: ``exact()``: for a critic with several outputs the Frobenius norm of its Jacobian. ``ones()``: the
            gradient of the sum of its outputs, as for PatchGAN's.

    Mescheder, Geiger, Nowozin 2018, equation 9. Their released code leaves the one half out: halve the weight there.
    """

    _: KW_ONLY
    projection: Directions = _EXACT

    def _lower(self) -> JacobianPenalty:
        return self._general(projection=self.projection, scale=0.5)


@dataclass(frozen=True, repr=False)
class OneHot(NormedTerm):
    """weight * mean_i ||dz_{i,y}/dx_i||^2, the true class's logit alone (experiments of Varga et al.)."""

    def _lower(self) -> JacobianPenalty:
        return self._general(projection=onehot())


@dataclass(frozen=True, repr=False)
class RandomOneHot(NormedTerm):
    """weight * mean_i ||dz_{i,c}/dx_i||^2 with c uniform over all m classes; expectation ||J||_F^2 / m.

    From the experiments of Varga et al., whose code never drew the last class.
    """

    def _lower(self) -> JacobianPenalty:
        return self._general(projection=random_onehot())


@dataclass(frozen=True, repr=False)
class InputFisher(NormedTerm):
    """weight * mean_i ||J_i^T (f_i - e_c)||^2 with c ~ f_i: DataGrad with labels drawn from the model.

    Its expectation is weight * mean_i tr(J_i^T S_i J_i), S = diag(f) - f f^T: the trace of the Fisher information
    with respect to the input. The draw of c is a constant to differentiation.
    """

    def _lower(self) -> JacobianPenalty:
        return self._general(projection=fisher())


@dataclass(frozen=True, repr=False)
class SpectralNormReg(JacobianTerm):
    """weight * mean_i sigma_max(J_i)^2, the squared spectral norm by power iteration; no one half.

    Args:
        iterations: of the power method; each costs one product with J^T and one with J. The value is a lower bound
            that approaches sigma_max^2 at the rate (s_2 / s_1)^(2 * iterations).
        squared: False for weight * mean_i sigma_max(J_i).

    The quantity that SpectReg bounds from below (Varga et al. 2017, section 2); as in Johansson et al. 2022.
    """

    _: KW_ONLY
    iterations: Annotated[int, Integer(minimum=1)] = 10
    squared: Flag = True

    def _lower(self) -> JacobianPenalty:
        return self._general(projection=top_singular(self.iterations), squared=self.squared)


@dataclass(frozen=True, repr=False)
class SobolevReg(NormedTerm):
    """weight * mean_i ||J_i^T W_i - T_i^T W_i||^2: the Jacobian is drawn towards a target T along directions W.

    T is the call's ``target=``, a constant: an array (B, *outputs, *input), or a teacher, a model that is called on the
    same input and pulled back along the same directions. W is drawn from the model itself. If x holds several arrays,
    an array T has their components, flattened and one after another, in place of the input's axes.

    Args:
        projection: ``gaussian(k)``: expectation ||J_i - T_i||_F^2; ``exact()``: that value, by m backward passes.
        output: the output that T is the Jacobian of: "logits", "probabilities", "log_probabilities", or "loss", for
            which the projection is ``exact()`` and an array T has the shape of x.

    Sobolev training (Czarnecki et al. 2017); Jacobian matching for distillation (Srinivas, Fleuret 2018).
    """

    _: KW_ONLY
    projection: Directions = _GAUSSIAN
    output: OutputName = "logits"

    def _lower(self) -> JacobianPenalty:
        return self._general(projection=self.projection, output=self.output, to_target=True)


@dataclass(frozen=True, repr=False)
class LayerwiseReg(Weighted):
    """weight * sum_j mean_i ||J_ij^T W_ij||^2, J_ij being the Jacobian of place j with respect to the one before.

    The places are the input, the named layers or taps in the order in which the model passes them, and the outputs. One
    term for each pair of neighbours, from one forward pass; W has as many components as the later place.

    Args:
        layers: names such as ``("conv1", "conv2")``, of layers if the framework has names, or of taps.
        projection: ``gaussian(k)``: expectation ||J_ij||_F^2 for each pair; ``exact()``: that value.
        from_input: whether the first pair is the first layer with respect to the input.
        to_outputs: whether the last pair is the outputs with respect to the last layer.
        norm: ``"l2"``, ``"l1"`` or ``"linf"``, for every pair, over all components of one sample's rows J^T w together.
        squared: whether the norm is squared.
        fraction: penalise this share of the batch, a random part drawn anew at each step; unbiased.
        seed: of the draws, in [0, 2**64); equal seeds give equal draws in all frameworks.
        draw: ``"per_sample"``, or ``"per_batch"``: one draw shared by all samples.

    Each layer's own Jacobian is penalised, as in DREG (arXiv:2606.23942, 2026), by the directions of Varga et al. 2017.
    """

    _: KW_ONLY
    layers: tuple[str, ...]
    projection: Directions = _GAUSSIAN
    from_input: Flag = True
    to_outputs: Flag = True
    norm: NormName = "l2"
    squared: Flag = True
    fraction: Fraction = 1.0
    seed: Seed = 0
    draw: Draw = "per_sample"

    def __post_init__(self) -> None:
        super().__post_init__()
        layers: Any = self.layers
        names = list(layers) if isinstance(layers, list | tuple) else [layers]
        places = [None] * self.from_input + names + [None] * self.to_outputs
        if not all(isinstance(name, str) and name for name in names) or len(set(names)) < max(len(names), 1):
            raise SpecError(f"LayerwiseReg: layers must be one or more names, all different, got {layers!r}.")
        if len(places) < 2:
            raise SpecError(f"LayerwiseReg: {self.layers!r} has no pair; name two layers, or leave from_input=True.")
        if self.projection.needs_classes:
            raise SpecError(
                f"LayerwiseReg: {self.projection!r} needs the outputs of the network; use gaussian() or exact()."
            )
        own = ("layers", "from_input", "to_outputs")
        options = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in own}
        object.__setattr__(self, "layers", tuple(names))
        object.__setattr__(
            self, "_pairs", tuple(JacobianPenalty(**options, at=at, of=of) for at, of in pairwise(places))
        )

    @property
    def terms(self) -> tuple[Term, ...]:
        pairs: tuple[Term, ...] = self.__dict__["_pairs"]
        return pairs


@dataclass(frozen=True, repr=False)
class ConfidencePenalty(Term):
    """weight * mean_i sum_k f_ik log f_ik, the negative entropy of the predictions (mean over positions, if several).

    Pereyra et al. 2017. The experiments of Varga et al. sum over the batch instead: multiply their weight by B.
    """

    needs_outputs: ClassVar[bool] = True

    def value(self, batch: Batch) -> Array:
        ops, forward = batch.ops, batch.forward
        forward.layout.require_classes(batch.call, "ConfidencePenalty")
        z = forward.logits
        if forward.layout.canonical[2] == 1:
            f = ops.sigmoid(z)
            negative_entropy = -f * ops.softplus(-z) - (1 - f) * ops.softplus(z)
        else:
            negative_entropy = ops.softmax(z) * ops.log_softmax(z)
        return batch.mean(forward.mean_over_positions(ops.sum(negative_entropy, 2)))


@dataclass(frozen=True, repr=False)
class WeightDecay(Term):
    """weight * 1/2 * sum ||w||^2 over all parameters with two or more axes (no biases, no normalisation scales).

    As in the experiments of Varga et al. The parameters are the model's own, or `params=` of the call.
    """

    def value(self, batch: Batch) -> Array:
        ops, params = batch.ops, batch.parameters("WeightDecay")
        if params and all(len(ops.shape(param)) < 2 for param in params):
            raise InputError(
                f"{batch.call}: WeightDecay counts parameters with two or more axes, but all {len(params)} parameters "
                f"have fewer than two. If a wrapper has flattened them, undo that (FullyShardedDataParallel: pass "
                f"use_orig_params=True)."
            )
        total = batch.zero()
        for param in params:
            if ops.dtype(param).startswith("complex"):
                raise InputError(
                    f"{batch.call}: WeightDecay takes real parameters, got one of {ops.dtype(param)}. Pass the real "
                    f"ones by params=."
                )
            if len(ops.shape(param)) >= 2:
                wide = widened(ops, param)
                total = total + 0.5 * ops.sum(wide * wide, tuple(range(len(ops.shape(param)))))
        return total
