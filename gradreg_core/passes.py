"""One differentiated pass through a model, between any two of its places."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gradreg_core.errors import InputError
from gradreg_core.primitives import Array, DrawPrimitives, Pullback
from gradreg_core.taps import Place, Places

__all__ = ["Apply", "ModelPass", "Pair", "perturbed_pass", "places_in", "require_order"]

Pair = tuple[Place, Place]
"""(of, at): the place that is differentiated, and with respect to which. None: the outputs, and the input."""
Apply = Callable[[Any, Array | None], tuple[Array, Any]]
"""apply(model, x) -> (outputs, what the model returned)."""
VjpWithAux = Callable[[Callable[[Array], tuple[Array, Any]], Array], tuple[Array, Any, Pullback]]


@dataclass
class ModelPass:
    """The result of one pass."""

    outputs: Array
    """The outputs that are scored and regularized."""
    returned: Any
    """The model's result."""
    pullbacks: dict[Pair, Pullback]
    """w -> J^T w for each pair (of, at)."""
    values: dict[str, Array]
    """The value at each named place."""


def places_in(pairs: Sequence[Pair]) -> list[str]:
    """The named places in `pairs`, each once."""
    return list(dict.fromkeys(place for pair in pairs for place in pair if place is not None))


def require_order(places: Places, pairs: Sequence[Pair]) -> None:
    """Refuse a pair whose `of` comes before its `at`.

    Raises:
        InputError: the Jacobian of such a pair is zero.
    """
    for of, at in pairs:
        if of is not None and at is not None and places.position(of) <= places.position(at):
            raise InputError(
                f"of={of!r} is passed before at={at!r}, so it does not depend on it. Swap them: at= is the earlier "
                f"place, of= the later one."
            )


@dataclass(frozen=True)
class _Part:
    """The position of an array in a flat one."""

    shape: tuple[int, ...]
    dtype: str
    start: int

    @property
    def stop(self) -> int:
        return self.start + math.prod(self.shape)


class _Flat:
    """Arrays by name, packed into one flat array."""

    def __init__(self, ops: DrawPrimitives, arrays: dict[Place, Array]) -> None:
        self.ops = ops
        self.parts: dict[Place, _Part] = {}
        start = 0
        for name, array in arrays.items():
            self.parts[name] = part = _Part(ops.shape(array), ops.dtype(array), start)
            start = part.stop
        dtypes = {part.dtype for part in self.parts.values()}
        self.dtype = dtypes.pop() if len(dtypes) == 1 else "float64" if "float64" in dtypes else "float32"

    def pack(self, arrays: dict[Place, Array]) -> Array:
        ops = self.ops
        return ops.concat([ops.reshape(ops.astype(arrays[name], self.dtype), (-1,)) for name in self.parts], 0)

    def unpack(self, flat: Array, name: Place) -> Array:
        part = self.parts[name]
        return self.ops.astype(self.ops.reshape(flat[part.start : part.stop], part.shape), part.dtype)


def perturbed_pass(
    ops: DrawPrimitives,
    vjp_with_aux: VjpWithAux,
    model: Any,
    stateless: Any,
    apply: Apply,
    x: Array | None,
    pairs: Sequence[Pair],
) -> ModelPass:
    """See :meth:`gradreg_core.backend.Backend.model_vjp`: zeros are added to the named places, and differentiated.

    J with respect to an activation h is J with respect to d at d = 0 if h + d replaces h. A first pass
    through `stateless` finds the shapes; a compiler drops its arithmetic.
    """
    names = places_in(pairs)
    with Places(names, lambda key, value: value) as shapes:
        first, _ = apply(stateless, x)
    shapes.require_all()
    require_order(shapes, pairs)
    sources: dict[Place, Array] = {at: shapes.values[at] * 0 for _, at in pairs if at is not None}
    if any(at is None for _, at in pairs):
        sources[None] = x
    results: dict[Place, Array] = {of: first if of is None else shapes.values[of] for of in (None, *names)}
    inner, outer = _Flat(ops, sources), _Flat(ops, results)

    def run(point: Array) -> tuple[Array, Any]:
        def moved(key: str, value: Array) -> Array:
            return value + inner.unpack(point, key) if key in inner.parts else value

        with Places(names, moved) as places:
            outputs, returned = apply(model, inner.unpack(point, None) if None in inner.parts else x)
        values: dict[Place, Array] = {None: outputs}
        values.update(places.values)
        return outer.pack(values), returned

    flat, returned, pullback = vjp_with_aux(run, inner.pack(sources))

    def pull(of: Place, at: Place) -> Pullback:
        def between(w: Array) -> Array:
            cotangents = {name: w if name == of else results[name] * 0 for name in outer.parts}
            return inner.unpack(pullback(outer.pack(cotangents)), at)

        return between

    return ModelPass(
        outer.unpack(flat, None),
        returned,
        {pair: pull(*pair) for pair in pairs},
        {name: outer.unpack(flat, name) for name in names},
    )
