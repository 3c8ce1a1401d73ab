"""One side of a validation: a model in its framework, seen through NumPy arrays.

Every framework is imported when the first model of it is wrapped, never before. No model is left changed.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from gradreg_core.errors import InputError, InputTypeError, UnsupportedError
from gradreg_core.spec import Regularizer

if TYPE_CHECKING:
    from gradreg_core.frontend import Frontend

__all__ = ["DTYPES", "Evaluation", "Problem", "Side", "backend_of_model", "find_name", "make_side"]

DTYPES = ("float32", "float64")
Arrays = dict[str, np.ndarray]
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""What halves XLA's time to compile on the CPU, for a computation that runs a few times only."""
_LIBRARIES = {
    "torch": "torch",
    "flax": "jax",
    "equinox": "jax",
    "jax": "jax",
    "jaxlib": "jax",
    "tensorflow": "tensorflow",
}


@dataclass(frozen=True)
class Problem:
    """What is computed, the same for both models."""

    y: np.ndarray | None
    reg: Regularizer
    options: Mapping[str, Any] = field(default_factory=dict)
    """`step`, `class_axis` and `loss_fn` of the calls."""


@dataclass(frozen=True)
class Evaluation:
    """What one model gives on one batch."""

    outputs: np.ndarray
    loss: np.ndarray | None
    penalties: tuple[np.ndarray, ...]
    by_input: Arrays
    """Gradients with respect to the input, of "loss", "penalty" and "total"; without labels of "penalty" alone."""
    by_parameter: dict[str, Arrays]
    """Gradients with respect to the parameters by name, of "loss" and "penalty"."""


def backend_of_model(model: Any) -> str | None:
    """The name of the framework that `model` is a model of, by its type; None if it is a plain function."""
    if isinstance(model, tuple):
        return "jax"
    packages = [cls.__module__.partition(".")[0] for cls in type(model).__mro__]
    if "keras" in packages:
        return str(sys.modules["keras"].config.backend())
    return next((_LIBRARIES[package] for package in packages if package in _LIBRARIES), None)


def find_name(names: Sequence[str], wanted: str) -> str | None:
    """The one of `names` that is `wanted`, or ends in it after a separator; None if there is none or several."""
    if wanted in names:
        return wanted
    ending = "." + wanted.replace("/", ".")
    found = [name for name in names if ("." + name.replace("/", ".")).endswith(ending)]
    return found[0] if len(found) == 1 else None


def _unsupported(dtypes: Collection[str]) -> UnsupportedError:
    found = ", ".join(sorted(dtypes))
    return UnsupportedError(f"it has parameters of dtype {found}; validate compares float32 and float64 models.")


class Side(ABC):
    """A model in its framework.

    Args:
        model: the model.
        frontend: gradreg's calls in the framework.
        problem: what is computed.
        axes: a permutation of the axes of x, or a function of the framework's own x, applied before the model.
        activations: stages or a function that gives the activations, where the framework has no names for them.
    """

    values: Arrays
    """Every array of the model by name; empty where they cannot be reached."""
    layer_kinds: dict[str, str]
    """The type of each named layer."""

    def __init__(self, model: Any, frontend: "Frontend", problem: Problem, axes: Any, activations: Any) -> None:
        self.model, self.frontend, self.problem, self.axes, self.stages = model, frontend, problem, axes, activations
        self.dtype = "float32"
        self.layer_kinds = {}
        self.values = {}
        self._open()
        dtypes = {str(value.dtype) for value in self.values.values()}
        if others := dtypes - set(DTYPES):
            raise _unsupported(others)
        if "float64" in dtypes:
            self.dtype = "float64"

    @abstractmethod
    def _open(self) -> None:
        """Find the arrays and the layers."""

    @abstractmethod
    def evaluate(self, x: np.ndarray, changed: Arrays) -> Evaluation:
        """Everything that is compared, with the arrays in `changed` instead of the model's own."""

    def activations(self, x: np.ndarray, changed: Arrays, names: Sequence[str]) -> Arrays:
        """The activations of those names, in the order in which they are computed."""
        return {name: value for name, value in self._staged(x, ()).items() if name in names}

    @cached_property
    def layer_names(self) -> list[str]:
        """The names of activations that can be asked for."""
        return list(self.layer_kinds)

    def warnings(self) -> list[str]:
        """What is seen of the model that makes a comparison doubtful."""
        return []

    @contextmanager
    def kept(self) -> Iterator[None]:
        """The model and the framework's generator are as before afterwards."""
        yield

    def _native(self, array: np.ndarray) -> Any:
        raise NotImplementedError

    def _transpose(self, x: Any, axes: tuple[int, ...]) -> Any:
        raise NotImplementedError

    def _arranged(self, x: Any) -> Any:
        """The input as the model takes it."""
        if self.axes is None:
            return x
        return self.axes(x) if callable(self.axes) else self._transpose(x, tuple(self.axes))

    def _staged(self, x: np.ndarray, first: tuple[Any, ...]) -> Arrays:
        """The activations that the caller's stages or function give; `first` comes before x in every call."""
        if self.stages is None:
            return {}
        value = self._arranged(self._native(x))
        if callable(self.stages):
            return {str(name): self._host(each) for name, each in self.stages(*first, value).items()}
        found = {}
        for name, stage in self.stages:
            value = stage(*first, value)
            found[str(name)] = self._host(value)
        return found

    def _host(self, array: Any) -> np.ndarray:
        return np.asarray(array)

    def _targets(self) -> Any:
        """The labels as an array of the framework."""
        y = self.problem.y
        if y is None:
            return None
        floating = np.issubdtype(y.dtype, np.floating)
        return self._native(y.astype(self.dtype if floating else np.int32))

    def _forward(self, model: Callable[[Any], Any], x: Any, params: Any) -> tuple[Any, Any, list[Any]]:
        """(outputs, loss or None, penalties) by gradreg's own calls."""
        options = {**self.problem.options, "params": params}
        reg, frontend = self.problem.reg, self.frontend
        if self.problem.y is not None:
            _, parts = frontend.loss(model, x, self._targets(), reg, batch_norm="allow", **options)
            return parts.outputs, parts.loss, list(parts.penalty)
        penalties = [frontend.penalty(model, x, None, term, batch_norm="allow", **options) for term in reg.terms]
        return model(x), None, penalties


def _goals(loss: Any, penalties: Sequence[Any]) -> dict[str, Any]:
    """The scalars whose gradients are compared."""
    penalty = sum(penalties[1:], penalties[0])
    return {"penalty": penalty} if loss is None else {"loss": loss, "penalty": penalty, "total": loss + penalty}


class _TorchSide(Side):
    """An nn.Module, called functionally with copies of its arrays, or a plain function."""

    def _open(self) -> None:
        self.torch = import_module("torch")
        model = getattr(self.model, "_orig_mod", self.model)  # what torch.compile wraps
        self.module = model if isinstance(model, self.torch.nn.Module) else None
        self.device = "cpu"
        if self.module is None:
            return
        self.trained = dict(self.module.named_parameters())
        self.arrays = {**self.trained, **dict(self.module.named_buffers())}
        self.values = {name: self._host(each) for name, each in self.arrays.items() if each.is_floating_point()}
        self.layer_kinds = {name: type(each).__name__ for name, each in self.module.named_modules() if name}
        self.device = next((each.device for each in self.arrays.values()), self.device)

    def warnings(self) -> list[str]:
        modules = () if self.module is None else self.module.modules()
        kinds = {type(each).__name__ for each in modules if each.training}
        modes = sorted(kind for kind in kinds if kind.startswith(("BatchNorm", "Dropout", "InstanceNorm")))
        return [f"{', '.join(modes)} in training mode; call eval() unless the other model trains too"] if modes else []

    def _native(self, array: np.ndarray) -> Any:
        integer = np.issubdtype(array.dtype, np.integer)
        return self.torch.tensor(array, device=self.device, dtype=self.torch.int64 if integer else None)

    def _host(self, array: Any) -> np.ndarray:
        if array.dtype == self.torch.bfloat16:  # which NumPy does not have
            raise _unsupported(["bfloat16"])
        return np.array(array.detach().cpu().numpy())

    def _transpose(self, x: Any, axes: tuple[int, ...]) -> Any:
        return x.permute(axes)

    @contextmanager
    def kept(self) -> Iterator[None]:
        with self.torch.random.fork_rng(), self.torch.inference_mode(False), self.torch.enable_grad():
            yield

    def _copies(self, changed: Arrays) -> dict[str, Any]:
        if self.module is None:
            return {}
        return {
            name: self._native(changed[name]).to(each.dtype) if name in changed else each.detach().clone()
            for name, each in self.arrays.items()
        }

    def _bound(self, copies: dict[str, Any]) -> Callable[[Any], Any]:
        if self.module is None:
            return lambda x: self.model(self._arranged(x))
        call = self.torch.func.functional_call
        return lambda x: call(self.module, copies, (self._arranged(x),))

    def evaluate(self, x: np.ndarray, changed: Arrays) -> Evaluation:
        copies = self._copies(changed)
        leaves = {name: each.requires_grad_() for name, each in copies.items() if name in self.trained}
        native = self._native(x).requires_grad_()
        outputs, loss, penalties = self._forward(self._bound(copies), native, leaves if copies else None)
        by_input, by_parameter = {}, {}
        for name, goal in _goals(loss, penalties).items():
            found = self._gradients(goal, [native, *leaves.values()])
            by_input[name], by_parameter[name] = found[0], dict(zip(leaves, found[1:], strict=True))
        host_loss = None if loss is None else self._host(loss)
        return Evaluation(self._host(outputs), host_loss, tuple(map(self._host, penalties)), by_input, by_parameter)

    def _gradients(self, goal: Any, leaves: list[Any]) -> list[np.ndarray]:
        if not goal.requires_grad:
            return [np.zeros(tuple(each.shape)) for each in leaves]
        found = self.torch.autograd.grad(goal, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        return [self._host(each) for each in found]

    def activations(self, x: np.ndarray, changed: Arrays, names: Sequence[str]) -> Arrays:
        if self.module is None or self.stages is not None:
            return super().activations(x, changed, names)
        kept: Arrays = {}

        def keeper(name: str) -> Callable[..., None]:
            def keep(module: Any, inputs: Any, output: Any) -> None:
                if isinstance(output, self.torch.Tensor):
                    kept.setdefault(name, self._host(output))

            return keep

        modules = dict(self.module.named_modules())
        hooks = [modules[name].register_forward_hook(keeper(name)) for name in names]
        try:
            self._bound(self._copies(changed))(self._native(x))
        finally:
            for hook in hooks:
                hook.remove()
        return kept


class _JaxSide(Side):
    """A pair (function, parameters), an NNX or Equinox module, or a plain function of x."""

    def _open(self) -> None:
        self.jax = import_module("jax")
        call, tree = self._functional()
        leaves, treedef = self.jax.tree_util.tree_flatten_with_path(tree)
        names = [_path_name(path) for path, _ in leaves]
        self.leaves = dict(zip(names, (leaf for _, leaf in leaves), strict=True))
        self.values = {name: np.array(each) for name, each in self.leaves.items() if self._is_floating(each)}

        def rebuilt(params: Mapping[str, Any]) -> Any:
            return treedef.unflatten([params.get(name, leaf) for name, leaf in self.leaves.items()])

        self.rebuilt, self.call = rebuilt, call
        options = _QUICK if self.jax.default_backend() == "cpu" else None
        self.compiled = self.jax.jit(self._everything, compiler_options=options)

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
        jnp = self.jax.numpy
        return isinstance(leaf, self.jax.Array | np.ndarray) and bool(jnp.issubdtype(leaf.dtype, jnp.floating))

    def _native(self, array: np.ndarray) -> Any:
        return self.jax.numpy.asarray(array)

    def _transpose(self, x: Any, axes: tuple[int, ...]) -> Any:
        return self.jax.numpy.transpose(x, axes)

    def _everything(self, params: Mapping[str, Any], x: Any) -> tuple[Any, ...]:
        def goals(params: Mapping[str, Any], x: Any) -> tuple[dict[str, Any], tuple[Any, ...]]:
            tree = self.rebuilt(params)
            found = self._forward(lambda at: self.call(tree, self._arranged(at)), x, dict(params) or None)
            return _goals(found[1], found[2]), found

        values, pull, found = self.jax.vjp(goals, params, x, has_aux=True)
        zeros = {name: value * 0 for name, value in values.items()}
        gradients = {name: pull({**zeros, name: zeros[name] + 1}) for name in values}
        return (*found, gradients)

    def evaluate(self, x: np.ndarray, changed: Arrays) -> Evaluation:
        params = {name: self._native(changed.get(name, value)) for name, value in self.values.items()}
        try:
            found = self.compiled(params, self._native(x))
        except self.jax.errors.JAXTypeError:  # the model looks at values, so it cannot be traced
            found = self._everything(params, self._native(x))
        outputs, loss, penalties, gradients = self.jax.tree.map(np.asarray, found)
        by_input = {name: each[1] for name, each in gradients.items()}
        by_parameter = {name: each[0] for name, each in gradients.items()}
        return Evaluation(outputs, loss, tuple(penalties), by_input, by_parameter)

    @cached_property
    def layer_names(self) -> list[str]:
        if self.stages is None or callable(self.stages):
            return []
        return [str(name) for name, _ in self.stages]

    def activations(self, x: np.ndarray, changed: Arrays, names: Sequence[str]) -> Arrays:
        first: tuple[Any, ...] = ()
        if self.values:
            tree = self.rebuilt({name: self._native(each) for name, each in {**self.values, **changed}.items()})
            first = (tree if self.merged is None else self.merged(tree),)
        found = self._staged(x, first)
        return {name: value for name, value in found.items() if name in names}


def _path_name(path: Sequence[Any]) -> str:
    """The name of a leaf: the keys on the way to it, joined by dots."""
    keys = [str(getattr(each, "key", getattr(each, "idx", getattr(each, "name", each)))) for each in path]
    return ".".join(keys[:-1] if len(keys) > 1 and keys[-1] == "value" else keys)


class _TensorFlowSide(Side):
    """A Keras model or tf.Module, whose variables are restored afterwards, or a plain function."""

    def _open(self) -> None:
        self.tf = import_module("tensorflow")
        owner, keras = self.model, sys.modules.get("keras")
        self.keras_layers = keras is not None and isinstance(owner, keras.layers.Layer)
        self.variables = dict(self._named_variables())
        if self.keras_layers:
            self.layers = {each.name: each for each in owner._flatten_layers(include_self=False)}
            self.layer_kinds = {name: type(each).__name__ for name, each in self.layers.items()}
            if not all(each.built for each in (owner, *self.layers.values())):
                raise InputError(f"{type(owner).__name__} has no weights yet: call it once on a batch, or build it.")
        self.values = {
            name: np.array(each.numpy())
            for name, each in self.variables.items()
            if self.tf.as_dtype(each.dtype).is_floating
        }
        trained = {id(each) for each in getattr(owner, "trainable_variables", ())}
        self.trained = {name: each for name, each in self.variables.items() if id(each) in trained}

    def _named_variables(self) -> Iterator[tuple[str, Any]]:
        """The variables by their path in Keras, by their attribute in a tf.Module."""
        if self.keras_layers:
            yield from ((str(each.path), each) for each in self.model.variables)
        elif isinstance(self.model, self.tf.Module):
            kind = self.tf.Variable
            for path, each in self.model._flatten(predicate=lambda leaf: isinstance(leaf, kind), with_path=True):
                yield ".".join(map(str, path)), each

    def _native(self, array: np.ndarray) -> Any:
        return self.tf.convert_to_tensor(array)

    def _host(self, array: Any) -> np.ndarray:
        return np.array(self.tf.convert_to_tensor(array).numpy())

    def _transpose(self, x: Any, axes: tuple[int, ...]) -> Any:
        return self.tf.transpose(x, axes)

    @contextmanager
    def kept(self) -> Iterator[None]:
        before = {name: np.array(each.numpy()) for name, each in self.variables.items()}
        try:
            yield
        finally:
            for name, each in self.variables.items():
                each.assign(before[name])

    @contextmanager
    def _with(self, changed: Arrays) -> Iterator[None]:
        with self.kept():
            for name, value in changed.items():
                self.variables[name].assign(value)
            yield

    def evaluate(self, x: np.ndarray, changed: Arrays) -> Evaluation:
        native = self._native(x)
        with self._with(changed):
            variables = [each if isinstance(each, self.tf.Variable) else each.value for each in self.trained.values()]
            sources = [native, *variables]
            with self.tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
                for each in sources:
                    tape.watch(each)
                params = [self.tf.convert_to_tensor(each) for each in sources[1:]]
                outputs, loss, penalties = self._forward(
                    lambda at: self.model(self._arranged(at)), native, params or None
                )
                goals = _goals(loss, penalties)
            by_input, by_parameter = {}, {}
            for name, goal in goals.items():
                zero = self.tf.UnconnectedGradients.ZERO
                found = [self._host(each) for each in tape.gradient(goal, sources, unconnected_gradients=zero)]
                by_input[name], by_parameter[name] = found[0], dict(zip(self.trained, found[1:], strict=True))
        host_loss = None if loss is None else self._host(loss)
        return Evaluation(self._host(outputs), host_loss, tuple(map(self._host, penalties)), by_input, by_parameter)

    def activations(self, x: np.ndarray, changed: Arrays, names: Sequence[str]) -> Arrays:
        if not self.keras_layers or self.stages is not None:
            return super().activations(x, changed, names)
        kept: Arrays = {}

        def keeper(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
            def keep(*args: Any, **options: Any) -> Any:
                output = call(*args, **options)
                if self.tf.is_tensor(output):
                    kept.setdefault(name, self._host(output))
                return output

            return keep

        layers = [(name, self.layers[name]) for name in names]
        before = [vars(layer).get("call") for _, layer in layers]
        try:
            for name, layer in layers:
                vars(layer)["call"] = keeper(name, layer.call)
            with self._with(changed):
                self.model(self._arranged(self._native(x)))
        finally:
            for (_, layer), call in zip(layers, before, strict=True):
                if call is None:
                    vars(layer).pop("call", None)
                else:
                    vars(layer)["call"] = call
        return kept


_SIDES: dict[str, type[Side]] = {"torch": _TorchSide, "jax": _JaxSide, "tensorflow": _TensorFlowSide}


def make_side(
    model: Any, backend: str | None, problem: Problem, *, axes: Any = None, activations: Any = None
) -> tuple[str, Side]:
    """The name of the backend of `model`, and the model as a side.

    Raises:
        InputError: the backend is neither given nor seen in the model's type, or the model cannot be used yet.
        UnsupportedError: validate cannot look into models of this backend.
    """
    from gradreg_core.dispatch import load_backend

    if not callable(model) and not isinstance(model, tuple):
        raise InputTypeError(f"a model is a callable or a pair (fn, params), got {type(model).__name__}.")
    name = backend or backend_of_model(model)
    if name is None:
        raise InputError(
            f"which framework {getattr(model, '__name__', type(model).__name__)} belongs to cannot be seen; "
            f"name its backend: 'torch', 'jax' or 'tensorflow'."
        )
    if name not in _SIDES:
        raise UnsupportedError(f"validate compares models of torch, jax and tensorflow, not of {name!r}.")
    return name, _SIDES[name](model, load_backend(name), problem, axes, activations)
