"""One side of a validation in JAX."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gradreg_core.errors import InputTypeError
from gradreg_validation.models import Arrays, Evaluation, Side, goals

__all__ = ["JaxSide"]

_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Options that halve XLA's time to compile on the CPU, for a computation that runs only a few times."""


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

    merged: Callable[[Any], Any] | None = None
    """What makes an NNX module of its state."""

    def _functional(self) -> tuple[Callable[[Any, Any], Any], Any]:
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
            return lambda tree, x: merged(tree)(x), state
        linen = sys.modules.get("flax.linen")
        if linen is not None and isinstance(model, linen.Module):
            raise InputTypeError("a Linen module has no parameters of its own; pass (model.apply, variables).")
        equinox = sys.modules.get("equinox")
        if equinox is not None and isinstance(model, equinox.Module):
            return lambda tree, x: tree(x), model
        return lambda tree, x: model(x), ()

    def _is_floating(self, leaf: Any) -> bool:
        return isinstance(leaf, jax.Array | np.ndarray) and bool(jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating))

    def _native(self, array: np.ndarray) -> Any:
        return jax.numpy.asarray(array)

    def _transpose(self, x: Any, axes: tuple[int, ...]) -> Any:
        return jax.numpy.transpose(x, axes)

    def _everything(self, params: Mapping[str, Any], x: Any) -> tuple[Any, ...]:
        def scalars(params: Mapping[str, Any], x: Any) -> tuple[dict[str, Any], tuple[Any, ...]]:
            tree = self.rebuilt(params)
            results = self._forward(lambda at: self.call(tree, self._arranged(at)), x, dict(params) or None)
            return goals(results[1], results[2]), results

        values, pull, results = jax.vjp(scalars, params, x, has_aux=True)
        zeros = {name: value * 0 for name, value in values.items()}
        gradients = {name: pull({**zeros, name: zeros[name] + 1}) for name in values}
        return (*results, gradients)

    def evaluate(self, x: np.ndarray, changed: Arrays) -> Evaluation:
        params = {name: self._native(changed.get(name, value)) for name, value in self.values.items()}
        try:
            results = self.compiled(params, self._native(x))
        except jax.errors.JAXTypeError:  # the model looks at values, so it cannot be traced
            results = self._everything(params, self._native(x))
        outputs, loss, penalties, gradients = jax.tree.map(np.asarray, results)
        by_input = {name: of_x for name, (_, of_x) in gradients.items()}
        by_parameter = {name: of_params for name, (of_params, _) in gradients.items()}
        return Evaluation(outputs, loss, tuple(penalties), by_input, by_parameter)

    def activations(self, x: np.ndarray, changed: Arrays, names: Sequence[str]) -> Arrays:
        first: tuple[Any, ...] = ()
        if self.values:
            tree = self.rebuilt({name: self._native(array) for name, array in {**self.values, **changed}.items()})
            first = (tree if self.merged is None else self.merged(tree),)
        return {name: value for name, value in self._staged(x, first).items() if name in names}


def _path_name(path: Sequence[Any]) -> str:
    """The name of a leaf: the keys on the way to it, joined by dots."""
    keys = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
    return ".".join(keys[:-1] if len(keys) > 1 and keys[-1] == "value" else keys)
