"""Hypothesis strategies: portable networks, regularizers, cases. Small things first, so that examples shrink well."""

from dataclasses import replace
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from gradreg_conformance.cases import Case, kink_margin
from gradreg_conformance.harness import Harness
from gradreg_core.portable import networks as nets
from gradreg_core.portable.networks import Layer, Network
from gradreg_core.spec import Regularizer

__all__ = ["KINK_MARGIN", "NORM_EPS", "SMALL", "cases", "classifiers", "smooth_activations", "with_options"]

NORM_EPS = 1.0
"""eps of the norms. With a small one, two normalised numbers are always near 1 and -1, and the derivatives are lost in
rounding, which no perturbation of the inputs shows."""
KINK_MARGIN = 1e-3
"""Inputs of rectifiers and maxima stay this far from the kink: far more than any rounding moves them."""

SMALL = Network((3,), (nets.Dense(3), nets.Activation("tanh"), nets.Dense(4)))
"""For all checks that do not depend on the network: a single one, so that compilers see few shapes."""
TINY = Network((2,), (nets.Dense(2), nets.Activation("tanh"), nets.Dense(3)))
"""The same for gradients: those of the reference cost a pass over the network for every number in it."""
SINGLE_LOGIT = Network((2,), (nets.Dense(2), nets.Activation("tanh"), nets.Dense(1)))
POSITIONS = Network((2, 2), (nets.Dense(2), nets.Activation("tanh"), nets.Dense(3)))
"""The same with one logit, and with logits at two positions."""

SMOOTH = ("tanh", "sigmoid", "softplus", "gelu", "gelu_tanh")
smooth_activations = st.sampled_from(SMOOTH).map(nets.Activation)
activations = st.sampled_from(nets.ACTIVATIONS).map(nets.Activation)


@st.composite
def classifiers(draw: Any, layers: frozenset[type[Layer]] | None = None, *, classes: int | None = None) -> Network:
    """A small network with a vector of logits: dense, convolutional or a sequence with attention.

    Args:
        draw: hypothesis's.
        layers: the layers that the backend has; None for all.
        classes: the number of logits, or None for 2 to 4.

    A nonlinearity comes before every norm: behind linear layers alone, a wrong second derivative of a norm hides.
    Every kind makes the same number of draws, so that examples shrink to dense networks.
    """
    has = (lambda kind: True) if layers is None else layers.__contains__
    m = draw(st.integers(2, 4)) if classes is None else classes
    kinds = ["dense"]
    kinds += ["conv"] if has(nets.Conv2D) and has(nets.Flatten) else []
    kinds += ["attention"] if has(nets.Attention) and has(nets.Flatten) else []
    kind = draw(st.sampled_from(kinds))
    if kind == "conv":
        padding = draw(st.sampled_from(["valid", "same"]))
        body: list[Layer] = [nets.Conv2D(2, 3, padding), draw(activations)]
        norms: list[tuple[Layer, ...]] = [(), *([(nets.GroupNorm(2, NORM_EPS),)] if has(nets.GroupNorm) else [])]
        pools = [(), *((kind(2),) for kind in (nets.MaxPool, nets.AvgPool) if has(kind))]
        body += draw(st.sampled_from([(*norm, *pool) for pool in pools for norm in norms]))
        return Network((4, 4, 1), (*body, nets.Flatten(), nets.Dense(m)))
    if kind == "attention":
        attention: Layer = nets.Attention(draw(st.sampled_from([1, 2])))
        block = nets.Residual((attention,)) if draw(st.booleans()) and has(nets.Residual) else attention
        return Network((2, 2), (block, draw(smooth_activations), nets.Flatten(), nets.Dense(m)))
    inputs, width = draw(st.sampled_from([(1, 2), (2, 2), (3, 2), (1, 3), (2, 3), (3, 3)]))
    activation = draw(activations)
    norms = [(), *((kind(NORM_EPS),) for kind in (nets.LayerNorm, nets.BatchNorm) if has(kind))]
    ends = [(), (nets.Residual((nets.Dense(width), activation)),)] if has(nets.Residual) else [()]
    norm, end = draw(st.sampled_from([(norm, end) for end in ends for norm in norms]))
    return Network((inputs,), (nets.Dense(width), activation, *norm, *end, nets.Dense(m)))


@st.composite
def cases(
    draw: Any,
    /,
    harness: Harness,
    regs: st.SearchStrategy[Regularizer],
    networks: st.SearchStrategy[Network] | None = None,
    *,
    batch: tuple[int, int] = (1, 3),
    **options: st.SearchStrategy[Any],
) -> Case:
    """Cases off the kinks, in the first dtype that the harness declares unless `options` say another.

    Args:
        draw: hypothesis's.
        harness: whose layers the networks are made of.
        regs: the regularizers.
        networks: the networks; by default `classifiers` of the harness's layers.
        batch: the least and the largest batch.
        options: strategies for further fields of :class:`Case`.
    """
    network = draw(classifiers(harness.layers) if networks is None else networks)
    size, seed = draw(st.integers(*batch)), draw(st.integers(0, 999))
    assume(kink_margin(network, size, seed) > KINK_MARGIN)
    chosen = {"dtype": harness.dtypes[0], **{name: draw(option) for name, option in options.items()}}
    return Case(network, draw(regs), size, seed, **chosen)


def with_options(
    drawn: st.SearchStrategy[Case], options: st.SearchStrategy[dict[str, Any]], **fixed: Any
) -> st.SearchStrategy[Case]:
    """Cases with further fields of :class:`Case`: those that `options` draws together, and those that are given."""
    return st.tuples(drawn, options).map(lambda pair: replace(pair[0], **(pair[1] | fixed)))
