"""A map of parameters and of layers, proposed from values, names and shapes."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradreg_core.errors import InputError, InputTypeError
from gradreg_validation.arrays import align
from gradreg_validation.batch import Arrays, Batch
from gradreg_validation.models import Problem
from gradreg_validation.opening import make_side

__all__ = ["Proposal", "confirmed", "proposal_for", "propose", "role_of"]

_ROLES = {
    "kernel": ("weight", "kernel", "embedding", "embeddings", "w", "depthwise_kernel"),
    "scale": ("scale", "gamma"),
    "bias": ("bias", "beta", "b"),
    "mean": ("running_mean", "moving_mean", "mean"),
    "variance": ("running_var", "moving_variance", "var"),
}


@dataclass(frozen=True)
class Proposal:
    """Which parameter of the first model is which of the second, as far as it can be told.

    ``print(proposal)`` shows it. Give it as ``parameters=`` of :func:`gradreg_validation.validate` to confirm it.
    """

    pairs: tuple[tuple[Any, ...], ...]
    """(first, second) or (first, second, rearrangement), as `parameters` takes them."""
    reasons: tuple[str, ...]
    """The ground of each pair: "values", "values in another order", "names" or "shape alone"."""
    ambiguous: dict[str, tuple[str, ...]]
    """Names in the first model -> those in the second that it may be; to be answered, never guessed."""
    left_out: tuple[tuple[str, ...], tuple[str, ...]]
    """The parameters of either model without a counterpart."""
    sums: tuple[tuple[str, str, str], ...] = ()
    """Two parameters of one model whose sum is one of the other's, as two biases of an LSTM are; not compared."""

    def __str__(self) -> str:
        lines = ["parameters = ["]
        lines += [f"    {pair!r},  # by {reason}" for pair, reason in zip(self.pairs, self.reasons, strict=True)]
        lines.append("]")
        lines += [f"# which is {name!r}? {', '.join(map(repr, names))}" for name, names in self.ambiguous.items()]
        lines += [f"# {one!r} plus {two!r} is {total!r} of the other model" for one, two, total in self.sums]
        for which, names in zip(("first", "second"), self.left_out, strict=True):
            if names:
                lines.append(f"# the {which} model's {', '.join(map(repr, names))} has no counterpart")
        return "\n".join(lines)

    def __iter__(self) -> Any:
        """The pairs, if nothing is ambiguous.

        Raises:
            InputError: a name has to be answered first.
        """
        return iter(confirmed(self, {}))


def propose(first: Any, second: Any, *, backends: tuple[str | None, str | None] = (None, None)) -> Proposal:
    """Propose which parameter of a model is which of its port.

    Parameters of equal values belong together, in any layout; the rest go by the layer that values have told, by their
    names, and by their shape if that is the only one. What stays open is listed in `ambiguous`.

    Args:
        first: a model, as :func:`gradreg_validation.validate` takes it.
        second: the other model.
        backends: the backend of each model, if its type does not tell.

    Raises:
        InputError: a model cannot be used yet.
    """
    problem = Problem(Batch.of(np.zeros((1, 1))), None, None)
    values = [make_side(model, backends[i], problem)[1].values for i, model in enumerate((first, second))]
    return proposal_for(values[0], values[1])


def confirmed(proposal: Proposal, answers: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """The pairs of a proposal with the user's answers.

    Raises:
        InputError: a name is ambiguous and not answered.
    """
    entries = [
        (name, *value) if isinstance(value, list | tuple) else (name, value)
        for name, value in answers.items()
        if value is not None
    ]
    taken = {entry[1] for entry in entries}
    kept = [pair for pair in proposal.pairs if pair[0] not in answers and pair[1] not in taken]
    open_ones = {
        name: [other for other in names if other not in taken]
        for name, names in proposal.ambiguous.items()
        if name not in answers
    }
    if unanswered := {name: names for name, names in open_ones.items() if names}:
        name, names = next(iter(unanswered.items()))
        raise InputError(
            f"validate: which parameter of the second model is {name!r}: {', '.join(map(repr, names))}? Say it with "
            f"mapping={{{name!r}: {names[0]!r}}} (one of these, or None to leave it out); "
            f"to be answered are {', '.join(map(repr, unanswered))}."
        )
    return [*kept, *entries]


def resolved(mapping: Any, proposal: Proposal) -> list[tuple[Any, ...]]:
    """The map of parameters that `mapping` of validate stands for."""
    if mapping == "proposed":
        return confirmed(proposal, {})
    if not isinstance(mapping, Mapping):
        raise InputTypeError(f'validate: mapping must be "proposed" or a dict of answers, got {mapping!r}.')
    return confirmed(proposal, mapping)


def role_of(name: str) -> str:
    """The role of a parameter in its layer, by the last part of its name."""
    last = name.replace("/", ".").rpartition(".")[2]
    return next((role for role, names in _ROLES.items() if last in names), last)


def _owner(name: str) -> str:
    return name.replace("/", ".").rpartition(".")[0]


def proposal_for(first: Arrays, second: Arrays) -> Proposal:
    """The proposal for two models' arrays."""
    pairs: dict[str, tuple[str, str, Any]] = {}
    sums = [*_sums(first, second), *_sums(second, first)]
    summed = {name for names in sums for name in names}
    first, second = ({name: a for name, a in side.items() if name not in summed} for side in (first, second))
    for search in (_by_values, _by_owner, _by_name, _by_shape):
        left = [name for name in first if name not in pairs]
        free = [name for name in second if name not in {pair[0] for pair in pairs.values()}]
        for name, other, reason in search(first, second, left, free, pairs):
            if name not in pairs and other not in {pair[0] for pair in pairs.values()}:
                pairs[name] = (other, reason, _arrangement(first[name], second[other]))
    left = [name for name in first if name not in pairs]
    free = [name for name in second if name not in {pair[0] for pair in pairs.values()}]
    ambiguous = {
        name: tuple(names) for name in left if (names := [other for other in free if _fits(first[name], second[other])])
    }
    asked = {other for names in ambiguous.values() for other in names}
    left_out = tuple(n for n in left if n not in ambiguous), tuple(n for n in free if n not in asked)
    listed = tuple((name, other) if how is None else (name, other, how) for name, (other, _, how) in pairs.items())
    return Proposal(listed, tuple(reason for _, reason, _ in pairs.values()), ambiguous, left_out, tuple(sums))


def _sums(parts: Arrays, totals: Arrays) -> list[tuple[str, str, str]]:
    """Two vectors of one layer whose sum is, in some order, a vector of the other model."""
    vectors = {name: array for name, array in parts.items() if array.ndim == 1 and array.any()}
    wanted = {name: np.sort(array) for name, array in totals.items() if array.ndim == 1}
    sums = []
    for (one, first), (two, second) in itertools.combinations(vectors.items(), 2):
        if _owner(one) == _owner(two) and first.shape == second.shape and first.size > 1:
            total = np.sort(first + second)
            equal = [
                n for n, a in wanted.items() if a.shape == total.shape and np.allclose(a, total, rtol=1e-6, atol=1e-7)
            ]
            if len(equal) == 1:
                sums.append((one, two, equal[0]))
    return sums


def _fits(first: np.ndarray, second: np.ndarray) -> bool:
    return sorted(size for size in first.shape if size > 1) == sorted(size for size in second.shape if size > 1)


def _sorted(array: np.ndarray) -> bytes | None:
    """A fingerprint of the values in any order; None for constants, which say nothing."""
    values = np.sort(np.ravel(array).astype(np.float32))
    return None if values.size == 0 or values[0] == values[-1] else values.tobytes()


def _by_values(first: Arrays, second: Arrays, left: Sequence[str], free: Sequence[str], pairs: Any) -> Any:
    prints = [{name: _sorted(arrays[name]) for name in names} for arrays, names in ((first, left), (second, free))]
    for name, fingerprint in prints[0].items():
        if fingerprint is None or list(prints[0].values()).count(fingerprint) > 1:
            continue
        fitting = [other for other, its in prints[1].items() if its == fingerprint]
        if len(fitting) == 1:
            yield name, fitting[0], "values"


def _by_owner(first: Arrays, second: Arrays, left: Sequence[str], free: Sequence[str], pairs: Any) -> Any:
    """Parameters of layers that another parameter has told."""
    owners = {_owner(name): _owner(pair[0]) for name, pair in pairs.items()}
    for name in left:
        owner = owners.get(_owner(name))
        fitting = [
            other
            for other in free
            if owner is not None and _owner(other) == owner and _fits(first[name], second[other])
        ]
        same = [other for other in fitting if _same_role(name, other)]
        if len(same or fitting) == 1 and (same or role_of(name) == "kernel"):
            yield name, (same or fitting)[0], "the layer's other parameters"


def _same_role(name: str, other: str) -> bool:
    roles = {role_of(name), role_of(other)}
    return len(roles) == 1 or roles == {"kernel", "scale"}


def _by_name(first: Arrays, second: Arrays, left: Sequence[str], free: Sequence[str], pairs: Any) -> Any:
    def key(name: str) -> str:
        parts = _owner(name).lower().split(".")
        return ".".join(part for part in parts if part not in ("params", "batch_stats"))

    for name in left:
        fitting = [o for o in free if _same_role(name, o) and _fits(first[name], second[o])]
        same = [o for o in fitting if key(o) == key(name)]
        same = same or [o for o in fitting if key(o).rpartition(".")[2] == key(name).rpartition(".")[2]]
        if len(same) == 1:
            yield name, same[0], "names"


def _by_shape(first: Arrays, second: Arrays, left: Sequence[str], free: Sequence[str], pairs: Any) -> Any:
    for name in left:
        fitting = [o for o in free if _same_role(name, o) and _fits(first[name], second[o])]
        rivals = [n for n in left if fitting and _same_role(n, fitting[0]) and _fits(first[n], second[fitting[0]])]
        if len(fitting) == 1 and len(rivals) == 1:
            yield name, fitting[0], "shape alone"


def _arrangement(first: np.ndarray, second: np.ndarray) -> Any:
    """A rearrangement under which the values are equal, where no permutation of axes does it; None otherwise."""
    difference = align(first, second, None, True)[1]
    if difference == 0 or _sorted(first) is None or _sorted(first) != _sorted(second):
        return None
    for how in _rearrangements(first, second):
        if align(first, second, how, False)[1] == 0:
            return how
    return None


def _rearrangements(first: np.ndarray, second: np.ndarray) -> Any:
    shape = first.shape
    for axis, size in enumerate(shape):  # a flatten in another order
        for part in range(2, size // 2 + 1):
            if size % part == 0:
                split = (*shape[:axis], part, size // part, *shape[axis + 1 :])
                for order in itertools.permutations(range(len(split))):
                    yield {"reshape": split, "axes": order}
    for blocks in (2, 3, 4):  # gates in another order
        for axis, size in enumerate(shape):
            if size % blocks == 0:
                yield from _blocks(first, second, axis, blocks)
    if math.prod(shape) == math.prod(second.shape):
        yield {"reshape": shape, "axes": tuple(range(len(shape)))}


def _blocks(first: np.ndarray, second: np.ndarray, axis: int, blocks: int) -> Any:
    for order in itertools.permutations(range(blocks)):
        for turned in itertools.permutations(range(first.ndim)):
            yield {"blocks": order, "axis": axis, "axes": turned}
