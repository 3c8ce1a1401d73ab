"""Makes the tables of the page on regularizers from the specifications; as a script, writes them into the page."""

import re
from dataclasses import MISSING, fields
from pathlib import Path

from gradreg_core import presets
from gradreg_core.errors import SpecError
from gradreg_core.projections import (
    fisher,
    gaussian,
    onehot,
    orthonormal,
    rademacher,
    random_onehot,
    sphere,
    top_singular,
)
from gradreg_core.spec import JacobianPenalty, MethodTerm
from gradreg_core.terms import Regularizer

PAGE = Path(__file__).with_name("regularizers.md")
_RANDOM = (fisher, gaussian, orthonormal, rademacher, random_onehot, sphere, top_singular)

WHEN = {
    "SpectReg": "few labelled samples, smoothness, unlabelled samples; the first to try",
    "DataGrad": "few labelled samples, with dropout or mixup; any differentiable loss",
    "FrobReg": "few outputs, no noise wanted",
    "JacReg": "probabilities instead of logits",
    "HoffmanReg": "weights of Hoffman et al., and of the package jacobian_regularizer",
    "SpectralNormReg": "the steepest direction alone",
    "OneHot": "the true class's logit alone",
    "RandomOneHot": "one logit at a time, to compare with",
    "InputFisher": "DataGrad without labels",
    "GradientPenalty": "critics: WGAN-GP, one-sided or not",
    "R1": "critics, at real samples",
    "SobolevReg": "a teacher, or derivatives that are known",
    "LayerwiseReg": "each layer by itself",
    "ConfidencePenalty": "to combine and compare with",
    "WeightDecay": "to combine and compare with",
    "JacobianPenalty": "any other member of the family",
}
"""When to use which; the order of the matrix."""

MEANING = {
    "weight": "a number of at least 0, or a schedule `step -> weight`",
    "every": "charge it at every n-th step, n times as much",
    "fraction": "penalise a random part of the batch; unbiased",
    "seed": "the seed of the draws",
    "draw": '`"per_sample"`, or `"per_batch"`: one draw for all samples, as in the paper\'s code',
    "at": "differentiate with respect to this place instead of the input",
    "of": "differentiate this place instead of the outputs",
    "norm": '`"l2"`, `"l1"` or `"linf"`, over all components of a sample',
    "squared": "square the norm",
    "side": '`"output"`: J^T w by a backward pass; `"input"`: J v',
    "method": '`"jvp"`: derivatives; `"difference"`: two forward passes, no second derivative',
    "h": "the step of the difference",
    "spherical": "directions on the unit sphere",
    "projections": "the number of directions, averaged; None: all (HoffmanReg)",
    "target": "the target norm t (GradientPenalty)",
    "one_sided": "penalise norms above the target only",
    "projection": "the directions: `gaussian(k)`, `exact()`, `ones()`, ...",
    "output": 'what is differentiated: `"logits"`, `"probabilities"`, `"log_probabilities"`, `"loss"`',
    "iterations": "the number of power iterations",
    "layers": "the places, in the order of the forward pass",
    "from_input": "the first pair starts from the input",
    "to_outputs": "the last pair ends at the outputs",
    "phi": "`identity()`, `target(t)` or `hinge(t)`, of the norm",
    "scale": "a convention's constant, such as one half",
    "to_target": "the distance to the call's `target=` instead of the size",
}
"""The meaning of every argument of every regularizer."""


def example(name: str) -> Regularizer:
    """The regularizer with its defaults."""
    kind = getattr(presets, name, JacobianPenalty)
    return kind(1.0, layers=("layer",)) if name == "LayerwiseReg" else kind(1.0)


def passes(term: Regularizer) -> str:
    """The number of backward passes for the inner gradient, with m outputs per sample."""
    if isinstance(term, presets.LayerwiseReg):
        return "1 per pair"
    lowered = term.terms[0].lower()
    if lowered is None:
        return "0"
    if isinstance(lowered.projection, top_singular):
        return "1 + 2n"
    if lowered.output == "loss":
        return "1"
    count = lowered.projection.count(10)
    if count != lowered.projection.count(11):
        return "1 per output" if count == 10 else str(count)
    names = {field.name for field in fields(term)}
    return "k, 1 by default" if names & {"projections", "projection"} else str(count)


def differences(term: Regularizer) -> str:
    """Whether it does without second derivatives, on the output side or with directions in the space of the input."""
    if not isinstance(term, MethodTerm):
        return "no"
    try:
        type(term)(1.0, method="difference")
    except SpecError:
        return "yes, input side"
    return "yes"


def matrix() -> str:
    """One row per regularizer."""
    head = "| regularizer | backward passes | memory | labels | random | differences | when |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for name, when in WHEN.items():
        term = example(name)
        lowered = term.terms[0].lower()
        cost = passes(term)
        memory = "none" if cost == "0" else "m rows, or `chunk_size=`" if cost == "1 per output" else "one pass more"
        labels = lowered is not None and (lowered.output == "loss" or isinstance(lowered.projection, onehot))
        random = lowered is not None and isinstance(lowered.projection, _RANDOM)
        without = "no gradient" if lowered is None else differences(term)
        cells = [f"`{name}`", cost, memory, "yes" if labels else "no", "yes" if random else "no", without, when]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _owners(taking: list[str]) -> str:
    """The regularizers of a list, by those that are missing where that is shorter."""
    others = [name for name in WHEN if name not in taking]
    if not others:
        return "all"
    return ", ".join(taking) if len(taking) <= len(others) else f"all but {', '.join(others)}"


def arguments() -> str:
    """One row per argument, with its default and the regularizers that take it."""
    kinds = {name: type(example(name)) for name in WHEN}
    lines = ["| argument | default | of | meaning |", "|---|---|---|---|"]
    for name, meaning in MEANING.items():
        taking = {
            kind: field for kind, cls in kinds.items() for field in fields(cls) if field.name == name and field.init
        }
        defaults = {repr(field.default) for field in taking.values() if field.default is not MISSING}
        default = " or ".join(f"`{value}`" for value in sorted(defaults)) or "required"
        lines.append(f"| `{name}` | {default} | {_owners(list(taking))} | {meaning} |")
    return "\n".join(lines)


def written(text: str) -> str:
    """The page with its tables made anew."""
    for name, table in {"matrix": matrix(), "arguments": arguments()}.items():
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m, t=table: f"{m[1]}\n{t}\n\n{m[2]}", text, flags=re.S
        )
    return text


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
