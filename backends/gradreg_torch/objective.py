"""A scalar of a model as a function of its parameters too, for `check`: tensors change in place and are restored."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gradreg_core.copies import copied
from gradreg_core.objective import Gradients, Objective, Scalar
from gradreg_core.preflight.references import references
from gradreg_torch.model.module_calls import module_calls

__all__ = ["TorchObjective", "copied_weights", "leaves_of"]

_MODULE_OF = ("torch.nn.parallel", "torch.distributed", "torch._dynamo", "torch.jit")
"""Modules of PyTorch that share or compile what they hold, so that a copy would behave differently."""


def copied_weights(model: Any) -> Any:
    """The model on copies of its modules and parameters; the model itself if one of them cannot be copied."""
    try:
        return copied(model, _holds_weights)
    except Exception:  # deepcopy may raise anything
        return model


def _holds_weights(value: Any) -> bool:
    """Whether a value is a module, or a tensor that is trained.

    Raises:
        TypeError: a module inside it is distributed or compiled.
    """
    if isinstance(value, nn.Module):
        for module in value.modules():
            if any(cls.__module__.startswith(_MODULE_OF) for cls in type(module).__mro__):
                raise TypeError(f"{type(module).__name__} has no copy of its own")
    return isinstance(value, nn.Module) or (isinstance(value, Tensor) and value.is_leaf and value.requires_grad)


class TorchObjective(Objective):
    """See :class:`gradreg_core.objective.Objective`. The weights are the leaf tensors that require a gradient.

    A tensor that the model closes over counts as a weight even if it was computed from others, as in an inner training
    step; the others are then not moved, since nothing that the model computes would change with them.

    The search covers the model, the modules that it calls, what it closes over, and the graph of the
    outputs: the graph alone would miss weights behind a detach. `at` writes through ``.data``, which leaves the
    version counters of live graphs as they are.
    """

    def __init__(self, model: Any, fn: Scalar, reach: Scalar, x: Tensor | None) -> None:
        self.fn = fn
        called: list[nn.Module] = []
        x = None if x is None else x.detach().requires_grad_()
        before = {weight: weight._version for _, weight in _named(model, (), ())}
        # PyTorch warns if global hooks meet a compiled module; the modules inside it are known already.
        with nullcontext() if _compiles(model) else module_calls(called.append):
            outputs = reach(x)
        in_graph = leaves_of(outputs)
        computed = [value for _, value in _named(model, (), ()) if not value.is_leaf]
        behind = {id(leaf) for leaf in in_graph} - {id(leaf) for leaf in leaves_of(outputs, computed)}
        # A weight that the pass itself rewrites has its gradient at the new value, which differences cannot show.
        named = [
            (name, weight)
            for name, weight in _named(model, called, in_graph)
            if weight is not x and id(weight) not in behind and before.get(weight, weight._version) == weight._version
        ]
        self.weights = [weight for _, weight in named]
        self.names = [name for name, _ in named]
        reached = {id(leaf) for leaf in (*in_graph, *computed)}
        self._reached = [id(weight) in reached for weight in self.weights]
        self._padding = _padding_rows([*(owner for _, owner in references(model)), *called])

    def gradients(self, x: Tensor | None, scale: float = 1.0) -> Gradients:
        x = None if x is None else x.detach().requires_grad_()
        value = self.fn(x)
        sources = [*self.weights, *([] if x is None else [x])]
        if not value.requires_grad or not sources:
            return value.detach(), [None] * len(self.weights), None
        gradients = list(torch.autograd.grad(value * scale, sources, allow_unused=True))
        of_input = None if x is None else gradients.pop()
        return value.detach(), gradients, of_input

    def at(self, weights: Sequence[Tensor], x: Tensor | None) -> Tensor:
        values = [self._with_padding(own, value) for own, value in zip(self.weights, weights, strict=True)]
        with _moved(self.weights, values):
            return self.fn(x).detach()

    def _with_padding(self, own: Tensor, value: Tensor) -> Tensor:
        """`value` without the row of padding, which has no gradient on purpose."""
        row = self._padding.get(id(own))
        if row is None or value is own:
            return value
        kept = value.detach().clone()
        kept[row] = own.detach()[row]
        return kept

    def reached(self) -> Sequence[bool]:
        return self._reached


def _compiles(model: Any) -> bool:
    """Whether the model holds a module wrapped by torch.compile."""
    owners = [owner for _, owner in references(model) if isinstance(owner, nn.Module)]
    return any("_orig_mod" in module._modules for owner in owners for module in owner.modules())


def _padding_rows(owners: Sequence[Any]) -> dict[int, int]:
    """The row that each table of embeddings keeps for padding, by the identity of its weight."""
    modules = {module for owner in owners if isinstance(owner, nn.Module) for module in owner.modules()}
    tables = [module for module in modules if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    return {id(table.weight): table.padding_idx for table in tables if table.padding_idx is not None}


@contextmanager
def _moved(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
    """A context in which the tensors hold other values."""
    changed = [(tensor, value) for tensor, value in zip(tensors, values, strict=True) if tensor is not value]
    before = [tensor.detach().clone() for tensor, _ in changed]
    try:
        for tensor, value in changed:
            tensor.data.copy_(value)
        torch.clear_autocast_cache()  # autocast keeps the parameters that it has converted
        yield
    finally:
        for (tensor, _), value in zip(changed, before, strict=True):
            tensor.data.copy_(value)
        torch.clear_autocast_cache()


def _named(model: Any, called: Sequence[nn.Module], in_graph: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
    """The tensors that require a gradient, each once, under its first name."""
    named: dict[int, tuple[str, Tensor]] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, Tensor) and value.requires_grad and value.is_floating_point():
            named.setdefault(id(value), (name or f"a tensor of shape {tuple(value.shape)}", value))

    for prefix, owner in [*references(model), *(("", module) for module in called)]:
        if isinstance(owner, nn.Module):
            for name, parameter in owner.named_parameters(prefix):
                add(name, parameter)
        elif isinstance(owner, list | tuple):
            for index, value in enumerate(owner):
                add(f"{prefix}[{index}]", value)
        elif isinstance(owner, dict):
            for name, value in owner.items():
                add(f"{prefix}[{name!r}]", value)
        else:
            add(prefix, owner)
    for leaf in in_graph:
        add("", leaf)
    return list(named.values())


def leaves_of(value: Tensor, without: Sequence[Tensor] = ()) -> list[Tensor]:
    """The leaf tensors that require a gradient in the graph of `value`, the graphs of `without` left out."""
    seen: set[Any] = {tensor.grad_fn for tensor in without}
    todo, leaves = [value.grad_fn], []
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        todo += [following for following, _ in node.next_functions]
    return leaves
