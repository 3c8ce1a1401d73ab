"""The joint space of calls: sums of terms and all options of a call at once, as the factors of a covering design."""

from dataclasses import replace
from functools import cache, partial
from typing import Any

from gradreg_conformance.cases import Case
from gradreg_conformance.design import ABSENT, Choice, Design, Space, covering
from gradreg_conformance.forms import PLAIN, Form
from gradreg_conformance.harness import Harness
from gradreg_conformance.regularizers import Ramp
from gradreg_core.norms import hinge, identity, target
from gradreg_core.portable.networks import Activation, Dense, Dropout, Layer, Network
from gradreg_core.presets import (
    R1,
    ConfidencePenalty,
    DataGrad,
    HoffmanReg,
    JacReg,
    SobolevReg,
    SpectralNormReg,
    WeightDecay,
)
from gradreg_core.projections import (
    direction,
    fisher,
    gaussian,
    onehot,
    orthonormal,
    rademacher,
    random_onehot,
    sphere,
    top_k,
)
from gradreg_core.spec import JacobianPenalty, JacobianTerm
from gradreg_core.terms import Regularizer, Sum, Term

__all__ = ["case_of", "design_of", "joint_space"]

BATCH = 5
"""No weight of the networks has that length, which could belong to the samples."""
_LARGE_BATCH = 515
_DRAWN = {
    "gaussian": gaussian(),
    "rademacher of 2": rademacher(2),
    "sphere of 3": sphere(3, unbiased=True),
    "orthonormal": orthonormal(2),
    "classes": random_onehot(2, unbiased=True),
    "gaussian of 20": gaussian(20),
}
_PUSHED = {"gaussian": gaussian(), "rademacher of 2": rademacher(2), "sphere of 3": sphere(3, unbiased=True)}
_FIXED: dict[str, Term] = {
    "R1": R1(1.0),
    "DataGrad": DataGrad(1.0),
    "Hoffman": HoffmanReg(1.0, projections=2),
    "one-hot": JacobianPenalty(1.0, projection=onehot()),
    "Fisher": JacobianPenalty(1.0, projection=fisher()),
    "top-k": JacobianPenalty(1.0, projection=top_k(1)),
    "JacReg": JacReg(1.0),
    "singular": SpectralNormReg(1.0, iterations=2),
    "direction": JacobianPenalty(1.0, projection=direction()),
    "target": SobolevReg(1.0),
    "teacher": SobolevReg(1.0, output="probabilities"),
}
_OF_CLASSES = ("one-hot", "Fisher", "top-k", "JacReg", "teacher")
_NORMS: dict[str, dict[str, Any]] = {
    "l2 squared": {},
    "l2": {"squared": False},
    "l1": {"norm": "l1", "squared": False},
    "linf squared": {"norm": "linf"},
}
_PHIS = {"identity": identity(), "target": target(0.5), "hinge": hinge(0.3)}
_FORMS = {
    "array": PLAIN,
    "dict": Form("dict", ((2,), ())),
    "integers": Form("tuple", ((2,), ()), counts="leaf"),
    "wrt": Form("arguments", ((2,), ()), wrt=(1,)),
    "closure": Form(counts="closure"),
}
_WEIGHTS = {"none": None, "given": (1.0, 0.5, 2.0, 0.25, 3.0), "zeros": (0.0, 0.5, 0.0, 2.0, 1.0)}
_LABELS = ("int64", "int32", "int8", "uint8")
_FACTORS: dict[str, tuple[Any, ...]] = {
    "terms": ("A", "C", "B", "CB", "AAC", "BA", "ABC", "CW"),
    "of": ("total", "penalty", "parts"),
    "drawn": tuple(_DRAWN),
    "pushed": tuple(_PUSHED),
    "difference": (False, True),
    "fixed": tuple(_FIXED),
    "output of A": ("logits", "probabilities", "log_probabilities"),
    "output of B": ("logits", "probabilities", "log_probabilities", "loss"),
    "norm": tuple(_NORMS),
    "phi": tuple(_PHIS),
    "weight": ("number", "schedule", "schedule of the first"),
    "every": ("always", "2 and 3"),
    "fraction": ("whole", "one part", "several parts"),
    "draw": ("per_sample", "per_batch", "per_batch of the first"),
    "place": ("input", "layer"),
    "step": (0, 6, 8, 2**31 - 2),
    "seed": (None, 7, 2**40 + 3),
    "ids": (None, "given"),
    "sample_weight": tuple(_WEIGHTS),
    "normalizer": (None, 7.0),
    "positions": ("none", "weights", "ignored"),
    "layout": ("flat", "single", "last", "first", "unnamed"),
    "labels": (*_LABELS, "distribution", "none"),
    "loss": ("cross_entropy", "squared", "squared_per_position"),
    "chunk": (None, 1, 2),
    "form": tuple(_FORMS),
    "returns": ("array", "object", "mapping", "path", "position", "function"),
    "size": ("small", "batch", "classes", "positions", "components"),
    "dtype": ("float64", "float32", "bfloat16"),
}


def joint_space(harness: Harness) -> Space:
    """The space of a harness's calls: its dtypes; other forms than the plain one where models are any callable."""
    factors = dict(_FACTORS)
    factors["dtype"] = tuple(dtype for dtype in _FACTORS["dtype"] if dtype in harness.dtypes)
    if not (harness.any_callable and getattr(harness.calls, "backend", None) is not None):
        factors |= {name: factors[name][:1] for name in ("form", "returns", "place")}
        factors |= {"loss": ("cross_entropy", "squared"), "size": ("small",)}
    return _space(factors)


def _space(factors: dict[str, tuple[Any, ...]]) -> Space:
    return Space(factors, partial(_settled, factors))


def _settled(factors: dict[str, tuple[Any, ...]], choice: Choice) -> Choice:
    """The choice with what does not go with the rest, or has no effect in it, at its simplest."""
    one = {name: factors[name][0] if level == ABSENT else level for name, level in choice.items()}

    def simplest(*names: str) -> None:
        one.update({name: factors[name][0] for name in names})

    _settle_size(one, simplest)
    _settle_dtype(one, simplest)
    _settle_layout(one, simplest)
    if "A" not in one["terms"]:
        simplest("place")
    if "B" not in one["terms"]:
        simplest("output of B")
    if "C" not in one["terms"]:
        simplest("fixed")
    if one["fixed"] in ("direction", "target", "teacher"):
        one["form"] = "array" if one["form"] == "wrt" else one["form"]
        if one["fixed"] == "direction":
            simplest("fraction")
        if one["fixed"] == "teacher":
            simplest("form", "returns")
    _settle_labels(one, simplest)
    return one | dict.fromkeys(_without_effect(one), ABSENT)


def _without_effect(one: Choice) -> list[str]:
    """The factors that nothing depends on."""
    terms, fixed = one["terms"], one["fixed"]
    names = [] if "A" in terms else ["drawn", "output of A", "place", "phi"]
    names += [] if "B" in terms else ["pushed", "output of B", "difference"]
    names += [] if "C" in terms else ["fixed"]
    normed = "A" in terms or ("C" in terms and fixed in ("R1", "DataGrad", "JacReg", "target", "teacher"))
    names += [] if normed else ["norm"]
    rows = ("A" in terms and one["drawn"] != "gaussian") or ("C" in terms and fixed in ("R1", "JacReg", "Hoffman"))
    names += [] if rows else ["chunk"]
    return names if one["loss"] == "cross_entropy" else [*names, "labels"]


def _settle_size(one: dict[str, Any], simplest: Any) -> None:
    if one["size"] == "small":
        return
    simplest("form", "difference")  # nearly equal outputs lose digits, which no movement of the inputs shows
    if one["size"] == "batch":
        simplest("positions")
        return
    one["layout"] = ("last" if one["layout"] != "first" else "first") if one["size"] == "positions" else "flat"
    if one["size"] == "positions":
        simplest("positions")
    if one["size"] in ("classes", "positions"):
        simplest("chunk")  # every chunk is an operation of its own
        one["fixed"] = "DataGrad" if one["fixed"] in ("R1", "JacReg") else one["fixed"]  # and so may every row be


def _settle_dtype(one: dict[str, Any], simplest: Any) -> None:
    if one["dtype"] != "float64":
        simplest("difference")
    if one["dtype"] == "bfloat16":
        # Rounding decides between equal numbers in half precision, and soft labels do not sum to 1.
        one["norm"] = one["norm"] if one["norm"] == "l2" else "l2 squared"
        one["fixed"] = one["fixed"] if one["fixed"] in ("R1", "DataGrad", "Hoffman", "JacReg") else "DataGrad"
        simplest("phi", "size", "loss", "positions")
        one["labels"] = "int32" if one["labels"] == "distribution" else one["labels"]


def _settle_layout(one: dict[str, Any], simplest: Any) -> None:
    if one["layout"] == "unnamed":  # without a class axis, for outputs that are not logits
        one["loss"] = "squared" if one["loss"] != "squared" else one["loss"]
        simplest("output of A", "positions")
        one["output of B"] = "loss" if one["output of B"] == "loss" else "logits"
        one["terms"] = "C" if one["terms"] == "CW" else one["terms"]
        if one["fixed"] in _OF_CLASSES:
            one["fixed"] = "DataGrad"
    if one["layout"] in ("flat", "single"):
        one["loss"] = "squared" if one["loss"] == "squared_per_position" else one["loss"]
    if one["layout"] == "first" and one["loss"] == "squared_per_position":
        one["loss"] = "squared"  # its classes are last
    if one["loss"] != "cross_entropy":
        if one["loss"] == "squared" and one["positions"] == "weights":
            simplest("positions")  # the loss of a sample says nothing of its positions
        one["positions"] = "weights" if one["positions"] == "ignored" else one["positions"]
        if one["loss"] == "squared":
            simplest("positions")


def _settle_labels(one: dict[str, Any], simplest: Any) -> None:
    if one["loss"] != "cross_entropy":
        simplest("labels")  # real targets
        one["fixed"] = "DataGrad" if one["fixed"] == "one-hot" else one["fixed"]
        return
    needed = one["of"] != "penalty" or one["fixed"] == "one-hot" or "W" in one["terms"]
    needed = needed or ("C" in one["terms"] and one["fixed"] == "DataGrad") or one["output of B"] == "loss"
    needed = needed or one["positions"] == "ignored"
    if one["labels"] == "none" and needed:
        one["labels"] = "int32"
    if one["labels"] == "distribution" and (one["fixed"] == "one-hot" or one["positions"] == "ignored"):
        one["labels"] = "int64"
    if one["labels"] == "int8" and one["size"] == "classes":
        one["labels"] = "uint8"  # of 200 classes
    if one["labels"] == "uint8" and one["positions"] == "ignored":
        one["labels"] = "int32"  # which has negative numbers


def _network(one: Choice, form: Form) -> Network:
    """A small network of the layout and the size; with Dropout first, whose mask is given, where the form counts."""
    first: tuple[Layer, ...] = (Dropout(),) if form.counts else ()
    dense = one["layout"] in ("last", "first", "unnamed")
    inputs = {"components": 260}.get(one["size"], 3)
    classes = 1 if one["layout"] == "single" else 3
    if one["size"] == "classes":
        classes = 200 if one["labels"] == "uint8" else 300
    positions = 50 if one["size"] == "positions" else 2
    if not dense:
        shape: tuple[int, ...] = (inputs,)
    elif form.leaves:
        shape = (3, 1)
    else:
        shape = (positions, 2)
    return Network(shape, (*first, Dense(2), Activation("tanh"), Dense(classes)))


def _terms(one: Choice) -> Regularizer:
    """The sum: A draws in the space of the outputs, B in that of the input, C is one of the others."""
    sizes = 1 if one["layout"] == "single" else 2
    drawn = orthonormal(sizes) if one["drawn"] == "orthonormal" else _DRAWN[one["drawn"]]
    first: dict[str, Any] = {"at": "1"} if one["place"] == "layer" else {}
    a = JacobianPenalty(
        1.0,
        projection=drawn,
        output=one["output of A"],
        phi=_PHIS[one["phi"]],
        seed=3,
        **_NORMS[one["norm"]],
        **first,
    )
    difference: dict[str, Any] = {"method": "difference", "h": 1.0} if one["difference"] else {}
    b = JacobianPenalty(
        1.0,
        side="input",
        projection=_PUSHED[one["pushed"]],
        output=one["output of B"],
        seed=2**33 + 5,
        **difference,
    )
    c = _FIXED[one["fixed"]]
    c = replace(c, **_NORMS[one["norm"]]) if isinstance(c, DataGrad | R1 | JacReg | SobolevReg) else c
    by_letter: dict[str, list[Term]] = {"A": [a], "B": [b], "C": [c], "W": [ConfidencePenalty(1.0), WeightDecay(1.0)]}
    terms = [term for letter in one["terms"] for term in by_letter[letter]]
    alike = one["terms"] == "AAC"
    charged = [_charged(one, term, index - (alike and index == 1)) for index, term in enumerate(terms)]
    return charged[0] if len(charged) == 1 else Sum(tuple(charged))


def _charged(one: Choice, term: Any, index: int) -> Any:
    """The term with weight, `every`, `fraction`, `draw` and `seed` of its place in the sum."""
    number = (0.5, 2.0, 1.25)[index]
    scheduled = one["weight"] == "schedule" or (one["weight"] == "schedule of the first" and index == 0)
    # Of 2**31 steps it is still a moderate number.
    weight: Any = Ramp(number, 0.25 / (1 + one["step"])) if scheduled else number
    chosen: dict[str, Any] = {"weight": weight}
    if one["every"] != "always":
        chosen["every"] = (2, 3, 1)[index]
    if isinstance(term, JacobianTerm):
        if one["fraction"] == "one part":
            chosen |= {"fraction": 0.5, "seed": 3}
        elif one["fraction"] == "several parts":
            chosen["fraction"] = (0.5, 0.4, 1.0)[index]
        if one["draw"] == "per_batch" or (one["draw"] == "per_batch of the first" and index == 0):
            chosen["draw"] = "per_batch"
    return replace(term, **chosen)


def case_of(one: Choice, seed: int = 0) -> tuple[Case, str]:
    """The case of a choice, whose data are drawn from `seed`, and what of it is compared."""
    one = {name: _FACTORS[name][0] if level == ABSENT else level for name, level in one.items()}
    batch = _LARGE_BATCH if one["size"] == "batch" else BATCH
    repeats = batch // BATCH
    form = replace(_FORMS[one["form"]], returns=one["returns"])
    dense = one["layout"] in ("last", "first")
    form = replace(form, taps="each") if one["place"] == "layer" and "A" in one["terms"] else form
    network = _network(one, form)
    weights = _WEIGHTS[one["sample_weight"]]
    position_weight: Any = None
    if one["positions"] == "weights":
        count = network.output_shape[1 if one["layout"] == "first" else 0] if dense else 1
        rows = ((0.5, 2.0, 1.0), (1.0, 0.0, 0.25), (0.0, 0.0, 0.0), (0.0, 3.0, 1.0), (1.0, 1.0, 2.0))
        position_weight = tuple(row[:count] if dense else row[0] for row in rows)
    labels = one["labels"]
    case = Case(
        network,
        _terms(one),
        batch,
        seed,
        step=one["step"],
        draw_seed=one["seed"],
        dtype=one["dtype"],
        ids=None if one["ids"] is None else tuple(range(2**20 + batch, 2**20, -1)),
        sample_weight=None if weights is None else weights * repeats,
        position_weight=position_weight,
        ignore_index=-100 if one["positions"] == "ignored" else None,
        normalizer=one["normalizer"],
        labels="classes" if labels in _LABELS else labels,
        label_dtype=labels if labels in _LABELS else "int64",
        directions="sample" if one["fixed"] == "direction" else None,
        target={"target": "outputs", "teacher": "teacher"}.get(one["fixed"]),
        chunk_size=one["chunk"],
        class_axis={"last": -1, "first": 1}.get(one["layout"]),
        loss=one["loss"],
        form=form,
    )
    return case, one["of"]


def design_of(harness: Harness) -> Design:
    """The covering design of a harness's calls, the same object for the same dtypes and forms."""
    return _design(tuple(joint_space(harness).factors.items()))


@cache
def _design(factors: tuple[tuple[str, tuple[Any, ...]], ...]) -> Design:
    return covering(_space(dict(factors)))
