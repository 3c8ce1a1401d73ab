"""Which parameter and which layer of the first model corresponds to which of the second."""

import math
from collections.abc import Sequence

from gradreg_core.errors import InputError
from gradreg_validation.arrays import Match, Names, Pair, align, pairs
from gradreg_validation.sides import Sides

__all__ = [
    "differing",
    "find_name",
    "list_names",
    "match_parameters",
    "pair_layers",
    "turned_kernels",
    "unmatched",
    "worst",
]


def match_parameters(sides: Sides, given: Names | None, transpose: bool) -> list[Match]:
    """The parameters that `given` maps; without it, those of equal name and shape.

    Raises:
        InputError: a name is not a parameter, or the arrays cannot be turned into each other.
    """
    if given is None:
        one, two = (side.values for side in sides.pair)
        given = [name for name in one if name in two and one[name].shape == two[name].shape]
    matches = []
    for entry in pairs("parameters", given):
        names = [_find(sides, i, "parameter", list(sides.pair[i].values), entry.names[i]) for i in (0, 1)]
        first, second = (sides.pair[i].values[name] for i, name in enumerate(names))
        how, difference = align(first, second, entry.how, transpose)
        if math.isnan(difference):
            raise InputError(
                f"validate: {names[0]!r} of shape {first.shape} cannot be turned into {names[1]!r} of shape "
                f"{second.shape}; correct the map of parameters, or give a function that rearranges the first."
            )
        matches.append(Match(names[0], names[1], how, difference))
    return matches


def pair_layers(sides: Sides, given: Names | None) -> list[Pair]:
    """The layers that `given` maps; without it, those of equal name.

    Raises:
        InputError: a name is not a layer.
    """
    known = [list(sides.activations(i)) for i in (0, 1)]
    if given is None:
        return [Pair((name, name), None) for name in known[0] if name in known[1]]

    def name(i: int, wanted: str) -> str:
        silent = wanted not in known[i] and wanted in sides.pair[i].layer_kinds
        return wanted if silent else _find(sides, i, "layer", known[i], wanted)

    entries = pairs("layers", given)
    return [Pair((name(0, entry.names[0]), name(1, entry.names[1])), entry.how) for entry in entries]


def _find(sides: Sides, i: int, kind: str, known: list[str], wanted: str) -> str:
    name = find_name(known, wanted)
    if name is None:
        raise InputError(
            f"validate: the {sides.label(i)} model has no {kind} {wanted!r}, or several that end so; "
            f"it has {list_names(known)}."
        )
    return name


def find_name(names: Sequence[str], wanted: str) -> str | None:
    """The name that is `wanted`, or the only one that ends in it after a separator; None if there is no such name."""
    if wanted in names:
        return wanted
    ending = "." + wanted.replace("/", ".")
    fitting = [name for name in names if ("." + name.replace("/", ".")).endswith(ending)]
    return fitting[0] if len(fitting) == 1 else None


def unmatched(sides: Sides, matches: Sequence[Match]) -> list[str]:
    """The parameters of either model without a counterpart, in words."""
    known = ({match.first for match in matches}, {match.second for match in matches})
    left = [[name for name in side.values if name not in known[i]] for i, side in enumerate(sides.pair)]
    return [f"{list_names(names)} of the {sides.label(i)}" for i, names in enumerate(left) if names]


def worst(matches: Sequence[Match]) -> Match | None:
    """The parameters that differ most."""
    return max(matches, key=lambda match: match.difference, default=None)


def differing(matches: Sequence[Match]) -> str:
    """The parameters that differ most, in words."""
    match = worst(matches)
    if match is None:
        return ""
    turned = "" if match.how is None or callable(match.how) else f" compared with axes {tuple(match.how)},"
    return f"{match.first!r} and {match.second!r},{turned} by {match.difference:.1e}"


def list_names(names: Sequence[str], limit: int = 12) -> str:
    """Names for a message; the first `limit` of them."""
    return ", ".join(map(repr, names[:limit])) + (", ..." if len(names) > limit else "") if names else "none"


def turned_kernels(matches: Sequence[Match]) -> list[str]:
    """A note on the parameters that agree only with their axes permuted, by permutation."""
    turned: dict[tuple[int, ...], list[str]] = {}
    for match in matches:
        if match.how is not None and not callable(match.how):
            turned.setdefault(tuple(match.how), []).append(match.first)
    return [f"compared with its axes permuted to {axes}: {list_names(names)}" for axes, names in turned.items()]
