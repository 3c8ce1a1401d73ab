"""Places inside a model, by the names of the modules that compute them, kept in eager mode."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from gradreg_core import structures
from gradreg_core.errors import InputError
from gradreg_core.structures import Leaves, Rebuild
from gradreg_core.taps import Places

__all__ = ["recorded_places"]

_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""The attributes in which wrappers such as torch.compile keep a module. Names may omit them, and the first "module"."""


class _Recorded(Places):
    """The places of one pass on autograd's graph.

    Args:
        keys: the places.
        at: the places to differentiate with respect to.
    """

    def __init__(self, keys: Sequence[str], at: Sequence[str]) -> None:
        super().__init__(keys, self._record)
        self.at = frozenset(at)
        self.sources: dict[str, Tensor] = {}
        """The tensor of each place on the graph."""
        self.known: list[str] = []
        """The names of the modules called so far."""
        self.scripted = False
        """Whether the model is traced or scripted, which hides the calls of its modules."""

    def require_all(self, also: Iterable[str] = ()) -> None:
        try:
            super().require_all((*self.known, *also))
        except InputError as error:
            if not self.scripted:
                raise
            raise InputError(
                "the layers inside a traced or scripted module cannot be seen. Name a layer of the module that it "
                "was made from, or pass the head of the network as the model and the activation as x."
            ) from error

    def _record(self, key: str, value: Any) -> Tensor:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            got = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"{key!r}: a place must hold a tensor of a floating-point type, got {got}.")
        if torch._C._functorch.peek_interpreter_stack() is not None:
            if torch._C._functorch.peek_interpreter_stack().key() != torch._C._functorch.TransformType.Vmap:
                raise InputError(
                    f"the place {key!r} is inside a function that torch.func transforms, which its value cannot "
                    f"leave. Mark an input or an output of that function instead."
                )
            outside: Tensor = _Outside.apply(value, key, self._record)
            return outside
        if key in self.at and not value.requires_grad:  # after frozen parameters: nothing before it has a gradient
            value = value.detach().requires_grad_()
        self.sources[key] = value
        return value.clone()  # the next operation may work in place


class _Outside(Function):
    """The identity; it marks a place inside torch.func.vmap with the batch axis in front."""

    generate_vmap_rule = False

    @staticmethod
    def forward(value: Tensor, key: str, record: Callable[[str, Tensor], Tensor]) -> Tensor:
        return record(key, value)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def vmap(info: Any, in_dims: Any, value: Tensor, key: str, record: Callable[[str, Tensor], Tensor]) -> Any:
        whole = value.expand(info.batch_size, *value.shape) if in_dims[0] is None else value.movedim(in_dims[0], 0)
        return record(key, whole), 0


@contextmanager
def recorded_places(keys: Sequence[str], at: Sequence[str]) -> Iterator[_Recorded]:
    """Yield the taps and modules called `keys` in the forward pass inside, in this thread.

    A module's name is its path from the outermost module called. See :class:`_Recorded` for the arguments.
    """
    thread, depth, names = get_ident(), [0], dict[int, list[str]]()
    with _Recorded(keys, at) as places:

        def enter(module: nn.Module, inputs: Any) -> None:
            if get_ident() != thread or torch.compiler.is_compiling():
                return
            if depth[0] == 0:
                for name, part in module.named_modules(remove_duplicate=False):
                    own = names.setdefault(id(part), [])
                    own.extend(name for name in _short(name) if name not in own)
                places.scripted = places.scripted or isinstance(module, torch.jit.ScriptModule)
            depth[0] += 1

        def leave(module: nn.Module, inputs: Any, output: Any) -> Any:
            if get_ident() != thread or torch.compiler.is_compiling():
                return None
            depth[0] -= 1
            places.known.extend(filter(None, names.get(id(module), [])[:1]))
            before = output
            for name in names.get(id(module), ()):
                if name and places.wants(name):
                    output = places.visit(name, output, _floating_leaves)
            return None if output is before else output

        hooks = register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)
        try:
            yield places
        finally:
            for hook in hooks:
                hook.remove()


def _short(name: str) -> list[str]:
    """The name without the names of wrappers, and the full name."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    short = ".".join(parts[1:] if parts[:1] == ["module"] else parts)
    return [short, name] if short != name else [name]


def _floating_leaves(output: Any) -> tuple[Leaves, Rebuild]:
    """The floating-point tensors in a module's output."""
    leaves, rebuild = structures.flatten(output, lambda value: isinstance(value, Tensor))
    return structures.restricted(leaves, rebuild, lambda leaf: isinstance(leaf, Tensor) and leaf.is_floating_point())
