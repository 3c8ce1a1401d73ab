"""The named regularizers, each with the conventions of its paper pinned.

Notation: z logits (m of them), f = softmax(z), y one-hot label, M the loss, J = dz/dx of one sample. All means are over
the samples of the batch, all norms over the components of one sample's gradient; nothing is divided by the number of
components. Inputs in other units scale J: dividing x by s multiplies every gradient by s.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, ClassVar

from gradreg_core.backend import Array
from gradreg_core.errors import InputError
from gradreg_core.fields import Boolean, Integer, Number, OptionalInteger
from gradreg_core.layout import widened
from gradreg_core.norms import hinge, target
from gradreg_core.projections import exact, fisher, gaussian, onehot, random_onehot, sphere, top_singular
from gradreg_core.spec import Batch, JacobianPenalty, JacobianTerm, SidedTerm, Term

__all__ = [
    "R1",
    "ConfidencePenalty",
    "DataGrad",
    "FrobReg",
    "GradientPenalty",
    "HoffmanReg",
    "InputFisher",
    "JacReg",
    "OneHot",
    "RandomOneHot",
    "SpectReg",
    "SpectralNormReg",
    "WeightDecay",
]


@dataclass(frozen=True, repr=False)
class DataGrad(SidedTerm):
    """weight * mean_i ||dM(z_i, y_i)/dx_i||^2, the squared L2 norm of the loss's own input gradient; no one half.

    For cross-entropy that is ||J^T (f - y)||^2. The loss is per sample: no 1/B enters the gradient.
    With ``side="input"`` it is estimated without a bias by the loss's slope along v ~ N(0, I_d): (dM_i/dx_i . v_i)^2.
    Double backpropagation (Drucker, LeCun 1991), DataGrad (Ororbia et al. 2017); Varga et al. 2017, section 2.
    """

    def _lower(self) -> JacobianPenalty:
        return self._general(projection=exact() if self.side == "output" else gaussian(), output="loss")


@dataclass(frozen=True, repr=False)
class SpectReg(SidedTerm):
    """weight * mean_i ||J_i^T r||^2 with r ~ N(0, I_m), unnormalised; expectation weight * mean_i ||J_i||_F^2.

    With ``side="input"`` weight * mean_i ||J_i v||^2 with v ~ N(0, I_d), of the same expectation and variance.

    Args:
        spherical: project r onto the unit sphere; the expectation is then divided by m (by d on the input side), and
            ||J^T r|| is at most the spectral norm.
        projections: average over this many independent draws; the cost grows with it, the variance falls.

    Varga et al. 2017, section 2. Their code shares one r among the samples of a batch: ``draw="per_batch"``.
    """

    _: KW_ONLY
    spherical: Annotated[bool, Boolean()] = False
    projections: Annotated[int, Integer(minimum=1)] = 1

    def _lower(self) -> JacobianPenalty:
        return self._general(projection=(sphere if self.spherical else gaussian)(self.projections))


@dataclass(frozen=True, repr=False)
class FrobReg(JacobianTerm):
    """weight * mean_i ||J_i||_F^2, exactly; no one half. Costs m backward passes. Varga et al. 2017, section 3."""

    def _lower(self) -> JacobianPenalty:
        return self._general(projection=exact())


@dataclass(frozen=True, repr=False)
class JacReg(JacobianTerm):
    """weight * mean_i ||df_i/dx_i||_F^2, the exact Jacobian of the probabilities; no one half. m backward passes.

    Sokolic et al. 2017, as compared with in Varga et al. 2017, section 3.
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
class GradientPenalty(JacobianTerm):
    """weight * mean_i (||dD/dx_i||_2 - t)^2 for a critic D with one output, at the points x that are passed.

    Args:
        target: t, 1 in the paper.
        one_sided: penalise max(0, ||dD/dx_i||_2 - t)^2 instead.

    WGAN-GP (Gulrajani et al. 2017, equation 3; weight 10 there, x on segments between real and generated samples).
    A model with several outputs has its Frobenius norm penalised. The norm's gradient at 0 is taken as 0.
    """

    _: KW_ONLY
    target: Annotated[float, Number(minimum=0)] = 1.0
    one_sided: Annotated[bool, Boolean()] = False

    def _lower(self) -> JacobianPenalty:
        phi = (hinge if self.one_sided else target)(self.target)
        return self._general(projection=exact(), squared=False, phi=phi)


@dataclass(frozen=True, repr=False)
class R1(JacobianTerm):
    """weight * 1/2 * mean_i ||dD/dx_i||^2 for a critic D, at real samples x; the paper's gamma/2.

    Mescheder, Geiger, Nowozin 2018, equation 9. Their released code leaves the one half out: halve the weight there.
    """

    def _lower(self) -> JacobianPenalty:
        return self._general(projection=exact(), scale=0.5)


@dataclass(frozen=True, repr=False)
class OneHot(JacobianTerm):
    """weight * mean_i ||dz_{i,y}/dx_i||^2, the true class's logit alone (experiments of Varga et al.)."""

    def _lower(self) -> JacobianPenalty:
        return self._general(projection=onehot())


@dataclass(frozen=True, repr=False)
class RandomOneHot(JacobianTerm):
    """weight * mean_i ||dz_{i,c}/dx_i||^2 with c uniform over all m classes; expectation ||J||_F^2 / m.

    From the experiments of Varga et al., whose code never drew the last class.
    """

    def _lower(self) -> JacobianPenalty:
        return self._general(projection=random_onehot())


@dataclass(frozen=True, repr=False)
class InputFisher(JacobianTerm):
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
            that approaches sigma_max^2 like (s_2 / s_1)^(2 * iterations).

    The quantity that SpectReg bounds from below (Varga et al. 2017, section 2); as in Johansson et al. 2022.
    """

    _: KW_ONLY
    iterations: Annotated[int, Integer(minimum=1)] = 10

    def _lower(self) -> JacobianPenalty:
        return self._general(projection=top_singular(self.iterations))


@dataclass(frozen=True, repr=False)
class ConfidencePenalty(Term):
    """weight * mean_i sum_k f_ik log f_ik, the negative entropy of the predictions (mean over positions, if several).

    Pereyra et al. 2017. The experiments of Varga et al. sum over the batch instead: multiply their weight by B.
    """

    needs_outputs: ClassVar[bool] = True

    def value(self, batch: Batch) -> Array:
        ops, forward = batch.ops, batch.forward
        forward.layout.require_classes(batch.call, "ConfidencePenalty")
        _, positions, classes = forward.layout.canonical
        z = forward.logits
        if classes == 1:
            f = ops.sigmoid(z)
            negative_entropy = -f * ops.softplus(-z) - (1 - f) * ops.softplus(z)
        else:
            negative_entropy = ops.softmax(z) * ops.log_softmax(z)
        return batch.mean(ops.sum(negative_entropy, (1, 2)) / positions)


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
