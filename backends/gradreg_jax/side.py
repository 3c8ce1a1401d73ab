"""One side of a validation in JAX."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gradreg_core.errors import InputTypeError
from gradreg_jax.recording import recorded_modules
from gradreg_validation.batch import Arrays
from gradreg_validation.keras_layers import called_with, is_keras, layers_of, recorded_layers
from gradreg_validation.models import Evaluation, Side, goals, joined
from gradreg_validation.recording import Recorder, Step

__all__ = ["JaxSide"]

_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Options that halve XLA's compile time on the CPU, for a computation that runs only a few times."""


class JaxSide(Side):
    """A pair (function, parameters), an NNX or Equinox module, or a plain function of x."""

    def _open(self) -> None:
        call, tree = self._functional()
        leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
        names = [_path_name(path) for path, _ in leaves]
        self.leaves = dict(zip(names, (leaf for _, leaf in leaves), strict=True))
        self.values = {name: np.array(leaf) for name, leaf in self.leaves.items() if self._is_floating(leaf)}

        def rebuilt(params: Mapping[str, Any]) -> Any:
            return jax.tree.unflatten(treedef, [params.get(name, leaf) for name, leaf in self.leaves.items()])

        self.rebuilt, self.call = rebuilt, call
        options = _QUICK if jax.default_backend() == "cpu" else None
        self.compiled = jax.jit(self._everything, compiler_options=options)

    equinox = False
    layers: Mapping[str, Any] = {}
    """Those of a Keras model."""
    merged: Callable[[Any], Any] | None = None
    """The structure that, with its state, makes an NNX module."""

    def _functional(self) -> tuple[Callable[..., Any], Any]:
        """A function of (parameters, x), and the parameters."""
        model, nnx = self.model, sys.modules.get("flax.nnx")
        if isinstance(model, tuple):
            if len(model) != 2 or not callable(model[0]):
                raise InputTypeError(f"a JAX model is a function of x or a pair (fn, params), got {model!r}.")
            return model
        if nnx is not None and isinstance(model, nnx.Module):
            graph, state = nnx.split(model)

            def merged(tree: Any) -> Any:
                return nnx.merge(graph, tree)

            self.merged = merged
            return lambda tree, *args, **kwargs: merged(tree)(*args, **kwargs), state
        if is_keras(model):
            self.layers = layers_of(model)
            self.layer_kinds = {name: type(layer).__name__ for name, layer in self.layers.items()}
            return lambda tree, *args, **kwargs: called_with(model, tree)(*args, **kwargs), {
                variable.path: variable.value for variable in model.variables
            }
        linen = sys.modules.get("flax.linen")
        if linen is not None and isinstance(model, linen.Module):
            raise InputTypeError("a Linen module has no parameters of its own; pass (model.apply, variables).")
        equinox = sys.modules.get("equinox")
        if equinox is not None and isinstance(model, equinox.Module):
            self.equinox = True
            return lambda tree, *args, **kwargs: tree(*args, **kwargs), model
        return lambda tree, *args, **kwargs: model(*args, **kwargs), ()

    def _is_floating(self, leaf: Any) -> bool:
        return isinstance(leaf, jax.Array | np.ndarray) and bool(jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating))

    def _native(self, array: np.ndarray) -> Any:
        return jax.numpy.asarray(array)

    def _host(self, array: Any) -> np.ndarray:
        return _without_vmap(array)[0]

    def _transpose(self, x: Any, axes: tuple[int, ...]) -> Any:
        return jax.numpy.transpose(x, axes)

    def _everything(self, params: Mapping[str, Any], moving: Mapping[str, Any], fixed: Mapping[str, Any]) -> Any:
        def scalars(params: Mapping[str, Any], moving: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Any, ...]]:
            tree = self.rebuilt(params)
            model = self._pass(lambda *args, **kwargs: self.call(tree, *args, **kwargs))
            natives = {path: moving[path] if path in moving else fixed[path] for path in self.problem.batch.arrays}
            results = self._forward(model, self._packed(natives), dict(params) or None)
            return goals(*results[1:]), results[:3]

        values, pull, results = jax.vjp(scalars, params, moving, has_aux=True)
        zeros = {name: value * 0 for name, value in values.items()}
        gradients = {name: pull({**zeros, name: zeros[name] + 1}) for name in values}
        return (*results, gradients)

    def evaluate(self, x: Arrays, changed: Arrays) -> Evaluation:
        params = {name: self._native(changed.get(name, value)) for name, value in self.values.items()}
        natives = {path: self._native(array) for path, array in x.items()}
        moving = {path: natives.pop(path) for path in self.problem.batch.floating}
        try:
            results = self.compiled(params, moving, natives)
        except jax.errors.JAXTypeError:  # the model reads values, so it cannot be traced
            results = self._everything(params, moving, natives)
        outputs, loss, penalties, gradients = jax.tree.map(np.asarray, results)
        by_input = {name: joined([of_x[path] for path in moving]) for name, (_, of_x) in gradients.items()}
        by_parameter = {name: of_params for name, (of_params, _) in gradients.items()}
        return Evaluation(outputs, loss, tuple(penalties), by_input, by_parameter)

    def record(self, x: Arrays, changed: Arrays) -> list[Step]:
        first: tuple[Any, ...] = ()
        tree: Any = ()
        if self.values:
            tree = self.rebuilt({name: self._native(array) for name, array in {**self.values, **changed}.items()})
            first = (tree if self.merged is None else self.merged(tree),)
        if self.stages is not None:
            return self._staged(x, first)
        recorder = Recorder(self._hosted)
        natives = {path: self._native(array) for path, array in x.items()}
        if self.merged is not None or self.equinox:
            module = first[0] if first else self.model
            call = module
        else:
            module, call = None, lambda *args, **kwargs: self.call(tree, *args, **kwargs)
        with (
            jax.disable_jit(),
            self._tapped(recorder),
            recorded_modules(module, recorder),
            recorded_layers(self.layers, recorder),
        ):
            self._pass(call)(self._packed_alone(natives))
        return recorder.steps


def _without_vmap(array: Any) -> tuple[np.ndarray, int]:
    """The values of an array for all samples of the vmaps around it, whose axes come first, and the number of those."""
    if type(array).__name__ != "BatchTracer":
        return np.asarray(array), 0
    values, outer = _without_vmap(array.val)
    return np.moveaxis(values, outer + int(array.batch_dim), outer), outer + 1


def _path_name(path: Sequence[Any]) -> str:
    """The name of a leaf: the keys on the way to it, joined by dots."""
    keys = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
    return ".".join(keys[:-1] if len(keys) > 1 and keys[-1] == "value" else keys)
