"""Which layers of two models belong together, by the parameters that they own and their order."""

from collections.abc import Sequence

from gradreg_validation.arrays import Pair
from gradreg_validation.forms import form_named
from gradreg_validation.matching import list_names
from gradreg_validation.proposal import Proposal
from gradreg_validation.recording import Step
from gradreg_validation.sides import Sides

__all__ = ["layers_note", "owning", "proposed_layers", "with_forms"]

_CATEGORIES = {
    "activation": ("gelu", "relu", "tanh", "sigmoid", "silu", "softmax", "activation", "elu", "softplus", "swish"),
    "pool": ("pool",),
    "flatten": ("flatten", "reshape"),
    "resize": ("upsampl", "resiz"),
}


def proposed_layers(sides: Sides, proposal: Proposal, matched: Sequence[tuple[str, str]]) -> list[Pair]:
    """Pairs of layers in the first model's order: of equal name, with matched parameters, and alike between those."""
    steps = [sides.steps(i) for i in (0, 1)]
    named = [{name: step for step in part for name in step.outputs} for part in steps]
    owners: dict[str, set[str]] = {}
    for first, second in [*matched, *((str(pair[0]), str(pair[1])) for pair in proposal.pairs)]:
        layers = [owning(list(named[i]), name) for i, name in enumerate((first, second))]
        if layers[0] and layers[1]:
            owners.setdefault(layers[0], set()).add(layers[1])
    chosen: dict[str, str] = {}
    for name in named[0]:
        if name in named[1]:
            chosen[name] = name
        elif len(owners.get(name, ())) == 1:
            chosen[name] = next(iter(owners[name]))
    _between(steps, chosen)
    order = list(named[0])
    pairs = sorted(chosen.items(), key=lambda item: order.index(item[0]))
    return with_forms(sides, [Pair((first, second), None) for first, second in pairs])


def with_forms(sides: Sides, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs, each with the activation that only one of its layers applies, so that the other's gets it too.

    A pair whose layer holds an activation of no known form is left out.
    """
    named = [{name: step for step in sides.steps(i) for name in step.outputs} for i in (0, 1)]
    kept = []
    for pair in pairs:
        steps = [named[i].get(name) for i, name in enumerate(pair.names)]
        first, second = (None if step is None else _held(step) for step in steps)
        if None in steps or bool(first) == bool(second) or not all(_linear(step) for step in steps if step):
            kept.append(pair)
        elif (form := form_named(first or second or "")) is not None:
            kept.append(pair._replace(forms=(None, form) if first else (form, None)))
    return kept


def _kind(step: Step) -> str:
    name = str(step.layer.get("type", "")) if isinstance(step.layer, dict) else type(step.layer).__name__
    return name.lower()


def _linear(step: Step) -> bool:
    """Whether the layer is one that an activation may be part of."""
    return any(mark in _kind(step) for mark in ("conv", "dense", "linear"))


def _held(step: Step) -> str | None:
    """The activation that a layer of Keras applies by itself."""
    if not _linear(step):
        return None
    if isinstance(step.layer, dict):
        return step.layer.get("activation")
    function = getattr(step.layer, "activation", None)
    if not type(step.layer).__module__.startswith("keras") or not callable(function):
        return None
    name = getattr(function, "__name__", "unknown")
    return None if name == "linear" else name


def owning(layers: Sequence[str], parameter: str) -> str | None:
    """The layer that has a parameter of that name: the longest whose path ends its own."""
    owner = "." + parameter.replace("/", ".").rpartition(".")[0]
    while owner:
        fitting = [name for name in layers if owner.endswith("." + name.replace("/", "."))]
        if fitting:
            return max(fitting, key=len)
        owner = owner.rpartition(".")[0]
    return None


def _category(step: Step) -> str | None:
    kind = step.name.lower() if step.layer is None else _kind(step)
    return next((category for category, marks in _CATEGORIES.items() if any(mark in kind for mark in marks)), None)


def _between(steps: Sequence[Sequence[Step]], chosen: dict[str, str]) -> None:
    """Pairs layers without parameters that stand alike between two paired layers, if their number is the same."""
    backwards = {second: first for first, second in chosen.items()}
    segments: list[dict[str, list[str]]] = []
    for i, part in enumerate(steps):
        anchor = ""
        segment: dict[str, list[str]] = {}
        for step in part:
            known = chosen.get(step.name) and step.name if i == 0 else backwards.get(step.name)
            if known:
                anchor = known
            elif category := _category(step):
                segment.setdefault(f"{anchor}:{category}", []).append(step.name)
        segments.append(segment)
    for key, names in segments[0].items():
        others = segments[1].get(key, [])
        if len(names) == len(others):
            chosen.update(zip(names, others, strict=True))


def layers_note(sides: Sides, pairs: Sequence[Pair]) -> str:
    """The note on layers=: the pairs that were compared, or the layers that could be."""
    known = [list(sides.activations(i)) for i in (0, 1)]
    if not pairs:
        texts = [f"the {sides.label(i)} model has {list_names(names)}" for i, names in enumerate(known)]
        advice = "mark activations with gradreg.tap in both, or give activations="
        return f"no layers were compared: {'; '.join(texts)}. Give pairs of them as layers= (--layers), or {advice}"
    listed = ", ".join(f"({pair.names[0]!r}, {pair.names[1]!r})" for pair in pairs[:40])
    return f"the layers compared were paired by name, parameters and order; to correct it: layers=[{listed}]"
