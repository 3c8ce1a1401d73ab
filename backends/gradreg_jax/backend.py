"""The primitives in JAX: pure functions, traced or not. A second derivative is reverse mode over jax.vjp."""

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.random import threefry2x32_p
from jax.sharding import PartitionSpec

from gradreg_core.backend import Apply, Backend, Model, ModelPass, Pair, Pullback
from gradreg_core.errors import InputTypeError
from gradreg_core.objective import Objective, Scalar
from gradreg_core.passes import places_in, require_order
from gradreg_core.structures import Leaves, Rebuild
from gradreg_core.taps import Place
from gradreg_jax.batch_norm import batch_norm_policy
from gradreg_jax.diagnose import blame, explain, how_it_runs
from gradreg_jax.kinks import smoothed
from gradreg_jax.model import (
    Keep,
    Pure,
    functional,
    holds_parameters,
    parameters,
    part_names,
    repeatable,
    without_state_changes,
)
from gradreg_jax.nnx_modules import batch_norms
from gradreg_jax.objective import draws_numbers, objective
from gradreg_jax.places import TracedPlaces, located, zeros
from gradreg_jax.trees import Carrier, flatten, is_array

__all__ = ["JaxBackend"]

Array = jax.Array
_HIGHEST = lax.Precision.HIGHEST
_FEW_WORDS = 1024
"""Random words up to which JAX's own Threefry primitive is faster."""
_PARAMS = "Pass the trained parameters: a dictionary of arrays, nnx.state(model, nnx.Param), or a module of Equinox."
_FEW_ROWS = 16
"""Rows up to which a program that repeats the pullback is faster on the CPU."""


def _dtype(name: Any) -> Any:
    """The dtype of that name, or the 32-bit one if 64-bit types are off; the dtype of random keys unchanged."""
    return name if jnp.issubdtype(name, jax.dtypes.extended) else jax.dtypes.canonicalize_dtype(name)


class JaxBackend(Backend):
    """See :class:`gradreg_core.backend.Backend`, which documents the methods."""

    name = "jax"
    default_chunk: int | None = None
    is_array = staticmethod(is_array)

    def conversion(self, value: Any) -> str:
        return "Pass x.todense()." if hasattr(value, "todense") else super().conversion(value)

    def asarray(self, value: Any, like: Array) -> Array:
        known = any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value))
        return jnp.asarray(value if known else np.asarray(value))

    def shape(self, array: Array) -> tuple[int, ...]:
        return tuple(array.shape)

    def dtype(self, array: Array) -> str:
        return str(_dtype(array.dtype))

    def values_if_free(self, array: Array) -> np.ndarray | None:
        if not _is_readable(array):
            return None
        half = jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4
        return np.asarray(array, np.float32 if half else None)

    def constant(self, values: Any, dtype: str, like: Array) -> Array:
        return jnp.asarray(np.asarray(values, _dtype(dtype)))

    def int32(self, value: Any, like: Array) -> Array:
        return jnp.asarray(value).astype(jnp.int32)

    def arange(self, stop: int, like: Array) -> Array:
        # Adding a zero made from `like` marks the numbers as varying over a shard_map's devices if `like` does.
        return jnp.arange(stop, dtype=jnp.int32) + lax.full_like(like, 0, jnp.int32, ())

    def astype(self, array: Array, dtype: str) -> Array:
        return array.astype(_dtype(dtype))

    def reshape(self, array: Array, shape: Sequence[int]) -> Array:
        return jnp.reshape(array, tuple(shape))

    def moveaxis(self, array: Array, source: int, destination: int) -> Array:
        return jnp.moveaxis(array, source, destination)

    def broadcast_to(self, array: Array, shape: Sequence[int]) -> Array:
        return jnp.broadcast_to(array, tuple(shape))

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        return jnp.concatenate(arrays, axis)

    def take(self, array: Array, indices: Array) -> Array:
        array = jnp.asarray(array)
        spec = jax.typeof(array).sharding.spec
        if not spec or spec[0] is None:
            return array[indices]
        # The rows lie on explicit mesh axes, where JAX needs to know the sharding of the result.
        axes = spec[0] if isinstance(spec[0], tuple) else (spec[0],)
        shards = math.prod(jax.typeof(array).sharding.mesh.shape[axis] for axis in axes)
        rows = spec[0] if indices.shape[0] % shards == 0 else None
        where = PartitionSpec(rows, *[None] * (indices.ndim - 1), *spec[1:])
        return array.at[indices].get(out_sharding=where)

    def bitwise_left_shift(self, array: Array, bits: Any) -> Array:
        return array << bits

    def bitwise_right_shift(self, array: Array, bits: Any) -> Array:
        return array >> bits

    def where(self, condition: Array, if_true: Any, if_false: Any) -> Array:
        return jnp.where(condition, if_true, if_false)

    def sum(self, array: Array, axis: int | tuple[int, ...], keepdims: bool = False) -> Array:
        return array.sum(axis, keepdims=keepdims, dtype=array.dtype)

    def sqrt(self, array: Array) -> Array:
        return jnp.sqrt(array)

    def sign(self, array: Array) -> Array:
        return jnp.sign(lax.stop_gradient(array))

    def argmax(self, array: Array) -> Array:
        return lax.argmax(array, array.ndim - 1, jnp.int32)

    def argsort(self, array: Array) -> Array:
        return jnp.argsort(array, -1, stable=True).astype(jnp.int32)

    def cumulative_sum(self, array: Array) -> Array:
        return jnp.cumsum(array, -1)

    def softmax(self, array: Array) -> Array:
        return jax.nn.softmax(array)

    def log_softmax(self, array: Array) -> Array:
        return jax.nn.log_softmax(array)

    def sigmoid(self, array: Array) -> Array:
        return jax.nn.sigmoid(array)

    def softplus(self, array: Array) -> Array:
        return jax.nn.softplus(array)

    def eigvalsh(self, array: Array) -> Array:
        return jnp.linalg.eigvalsh(array)

    def matmul(self, left: Array, right: Array) -> Array:
        return jnp.matmul(left, right, precision=_HIGHEST)

    def vjp(self, fn: Model, x: Array) -> tuple[Array, Pullback]:
        outputs, pull = jax.vjp(fn, x)
        return outputs, lambda w: pull(_varying(w, outputs))[0]

    def vjp_with_aux(self, fn: Callable[[Array], tuple[Array, Any]], x: Array) -> tuple[Array, Any, Pullback]:
        carrier = Carrier()

        def run(x: Array) -> tuple[Array, Any]:
            outputs, aux = fn(x)
            return outputs, carrier.pack(aux)

        outputs, pull, aux = jax.vjp(run, x, has_aux=True)
        return outputs, carrier.unpack(aux), lambda w: pull(_varying(w, outputs))[0]

    def jvp(self, fn: Model, x: Array, v: Array) -> tuple[Array, Array]:
        return jax.jvp(fn, (x,), (v,))  # type: ignore[no-any-return]

    def flatten(self, structure: Any) -> tuple[Leaves, Rebuild]:
        return flatten(structure)

    def model_vjp(self, model: Any, apply: Apply, x: Array | None, pairs: Sequence[Pair]) -> ModelPass:
        pure, keep = functional(model)
        if not pairs:
            (outputs, returned), changes = pure(apply, x)
            keep(changes)
            return ModelPass(outputs, returned, {}, {})
        if x is not None and all(pair == (None, None) for pair in pairs):
            outputs, (returned, changes), pullback = self.vjp_with_aux(_changes_last(pure, apply), x)
            keep(changes)
            return ModelPass(outputs, returned, {(None, None): pullback}, {})
        return self._between_places(model, pure, keep, apply, x, pairs)

    def _between_places(
        self, model: Any, pure: Pure, keep: Keep, apply: Apply, x: Array | None, pairs: Sequence[Pair]
    ) -> ModelPass:
        """The pass for pairs with named places; at an activation h, J is with respect to d at d = 0 in h + d."""
        names, carrier = places_in(pairs), Carrier()

        def run(places: TracedPlaces, x: Any) -> Any:
            with places.watching():
                return pure(apply, x)

        places, types, inline = located(run, names, x)
        places.require_all(also=part_names(model) if len(types) < len(names) else ())
        require_order(places, pairs)
        ends, starts = (list(dict.fromkeys(places)) for places in zip(*pairs, strict=True))
        sources = [x if at is None else zeros(types[at]) for at in starts]

        def moved(points: list[Array]) -> tuple[list[Array], Any]:
            point = dict(zip(starts, points, strict=True))
            places = TracedPlaces(names, lambda key, value: value + point[key] if key in point else value, inline)
            (outputs, returned), changes = run(places, point.get(None, x))
            values = places.taken()
            results = [outputs if of is None else values[of] for of in ends]
            return results, carrier.pack((outputs, returned, changes, values))

        results, pull, aux = jax.vjp(moved, sources, has_aux=True)
        outputs, returned, changes, values = carrier.unpack(aux)
        keep(changes)

        def pullback(of: Place, at: Place) -> Pullback:
            end, start = ends.index(of), starts.index(at)
            w_of = [zeros(result) for result in results]
            return lambda w: pull([*w_of[:end], _varying(w, results[end]), *w_of[end + 1 :]])[0][start]

        if None in ends:
            outputs = results[ends.index(None)]
        return ModelPass(outputs, returned, {pair: pullback(*pair) for pair in pairs}, values)

    def model_jvp(self, model: Any, apply: Apply, x: Array, v: Array) -> tuple[Array, Any, Array]:
        pure, keep = functional(model)
        carrier = Carrier()

        def run(x: Array) -> tuple[Array, Any]:
            outputs, rest = _changes_last(pure, apply)(x)
            return outputs, carrier.pack(rest)

        outputs, tangent, aux = jax.jvp(run, (x,), (v,), has_aux=True)
        returned, changes = carrier.unpack(aux)
        keep(changes)
        return outputs, returned, tangent

    def call_twice(self, model: Any, apply: Apply, x: Array, moved: Array) -> tuple[Array, Any, Array]:
        pure, keep = functional(model)
        with suppress(jax.errors.ConcretizationTypeError):  # a model that reads values may raise
            # A hidden random state would draw new numbers in the second pass, so this raises.
            jax.eval_shape(lambda x: pure(apply, x)[0][0], x)
        ((outputs, returned), changes), ((other, _), _) = pure(apply, x), pure(apply, moved)
        keep(changes)
        return outputs, returned, other

    def call_along(
        self, model: Any, apply: Apply, x: Array, move: Callable[[Array, Any, Pullback], Array]
    ) -> tuple[Array, Any, Array]:
        (pure, _), point, carrier = functional(model), lax.stop_gradient(x), Carrier()

        def run(point: Array) -> tuple[Array, Any]:
            (outputs, returned), _ = pure(apply, point)
            return outputs, carrier.pack(returned)

        # JAX would differentiate the pullback even if nothing used it, so what the model closes over is a constant.
        fixed, closed_over = jax.closure_convert(run, point)
        constants = [lax.stop_gradient(array) for array in closed_over]
        outputs, pull, aux = jax.vjp(lambda point: fixed(point, *constants), point, has_aux=True)
        moved = move(outputs, carrier.unpack(aux), lambda w: pull(_varying(w, outputs))[0])
        return self.call_twice(model, apply, x, moved)

    def without_state_changes(self, model: Any) -> Model:
        return without_state_changes(model)

    def is_parameter(self, value: Any) -> bool:
        return holds_parameters(value)

    def pull_rows(self, pullback: Pullback, rows: Array) -> Array:
        on_cpu = jax.default_backend() == "cpu"
        if len(rows) > 1 and on_cpu and _is_traced_program():
            # A loop over the rows keeps the data in the processor's caches, and takes the memory of one row.
            pullback(rows[0])  # computes the values that the engine keeps, see `cond`
            if not _convolves(jax.make_jaxpr(pullback)(rows[0]).jaxpr):
                return lax.map(pullback, rows)
        if len(rows) == 1 or (len(rows) <= _FEW_ROWS and on_cpu):
            return jnp.stack([pullback(row) for row in rows])
        return jax.vmap(pullback)(rows)

    def stop_gradient(self, array: Array) -> Array:
        return lax.stop_gradient(array)

    def cond(self, predicate: Array, branch: Callable[[], Array]) -> Array:
        # The engine keeps what several terms share, so the branch is called here first: a value that was made inside a
        # traced branch could not be used again outside it. The compiler drops the rest of this call.
        value = branch()
        return lax.cond(predicate, branch, lambda: jnp.zeros_like(value))

    def static_int(self, value: Any) -> int | None:
        if isinstance(value, bool) or not _is_readable(value):
            return None
        try:
            return operator.index(value)
        except TypeError:
            return None

    def threefry2x32(self, key: tuple[Array, Array], counter: tuple[Array, Array]) -> tuple[Array, Array]:
        """The same words; for few words, by JAX's own primitive.

        The primitive makes a smaller program, which compiles in two thirds of the time. The CPU is slow for many.
        """
        words = (*key, *counter)
        if math.prod(jnp.broadcast_shapes(*(word.shape for word in words))) > _FEW_WORDS:
            return super().threefry2x32(key, counter)
        zero = sum(word * 0 for word in words)  # gives all four one shape and one sharding
        first, second = threefry2x32_p.bind(*(lax.bitcast_convert_type(word + zero, jnp.uint32) for word in words))
        # The primitive forgets over which devices of a shard_map its arguments vary; adding the zero again restores it.
        return lax.bitcast_convert_type(first, jnp.int32) + zero, lax.bitcast_convert_type(second, jnp.int32) + zero

    @contextmanager
    def enter(self, call: str, model: Any, arrays: Sequence[Array], batch_norm: str) -> Iterator[None]:
        with batch_norm_policy(call, batch_norm, batch_norms(model)):
            try:
                yield
            except Exception as error:
                explained = explain(call, error)
                if explained is None:
                    raise
                raise explained from error

    def prepared(self, array: Array) -> Array:
        return jnp.asarray(array)

    def smoothed(self, model: Any) -> AbstractContextManager[Any]:
        return nullcontext(smoothed(without_state_changes(model)))

    def repeatable(self, model: Any) -> AbstractContextManager[None]:
        return repeatable(model)

    def draws_numbers(self, run: Callable[[], Array]) -> bool:
        return draws_numbers(run)

    def objective(self, model: Any, fn: Scalar, reach: Scalar, x: Any, data: Sequence[Any]) -> Objective:
        return objective(self, model, fn, reach, x, data)

    def blame(self, error: Exception, model: Any, run: Callable[[Any], Any]) -> list[tuple[str, str]]:
        return blame(error)

    def how_it_runs(self, model: Any, arrays: Sequence[Any]) -> list[str]:
        return how_it_runs(model, arrays)

    def parameters(self, model: Any) -> list[Array] | None:
        tree = parameters(model)
        return None if tree is None else self.tree_leaves(tree)

    def tree_leaves(self, params: Any) -> list[Array]:
        leaves = jax.tree.leaves(params if (own := parameters(params)) is None else own)
        for leaf in leaves:
            if not (is_array(leaf) or isinstance(leaf, int | float | complex) or callable(leaf)):
                raise InputTypeError(f"params must be a pytree of arrays, but it holds {leaf!r}. {_PARAMS}")
        arrays = [jnp.asarray(leaf) for leaf in leaves if is_array(leaf) or isinstance(leaf, float)]
        if trained := [array for array in arrays if jnp.issubdtype(array.dtype, jnp.inexact)]:
            return trained
        raise InputTypeError(f"params holds no floating-point array, got {params!r}. {_PARAMS}")


def _varying(w: Array, like: Array) -> Array:
    """`w`, marked as varying over the devices of a shard_map if `like` is."""
    return w if jax.typeof(w) == jax.typeof(like) else w + jnp.zeros_like(like)


def _changes_last(pure: Pure, apply: Apply) -> Callable[[Array | None], tuple[Array, tuple[Any, Any]]]:
    """X -> (outputs, (what the model returned, its state's changes))."""

    def run(x: Array | None) -> tuple[Array, tuple[Any, Any]]:
        (outputs, returned), changes = pure(apply, x)
        return outputs, (returned, changes)

    return run


def _is_traced_program() -> bool:
    """Whether a program is being recorded (jit, scan): outside, each loop would be compiled again."""
    return isinstance(lax.full((), 0), jax.core.Tracer)


def _convolves(jaxpr: Any) -> bool:
    """Whether the program has a convolution of XLA's; these take two to three times as long in a loop on the CPU."""
    options = [leaf for equation in jaxpr.eqns for leaf in jax.tree.leaves(list(equation.params.values()))]
    programs = [getattr(option, "jaxpr", option) for option in options]
    return any(equation.primitive.name == "conv_general_dilated" for equation in jaxpr.eqns) or any(
        _convolves(program) for program in programs if hasattr(program, "eqns")
    )


def _is_readable(value: Any) -> bool:
    """Whether the value can be read at no cost: it is not a tracer, and is on the CPU."""
    if not isinstance(value, jax.Array):
        return True
    if isinstance(value, jax.core.Tracer) or not value.is_fully_addressable:
        return False
    return all(device.platform == "cpu" for device in value.devices())
