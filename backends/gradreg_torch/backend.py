"""The primitives in PyTorch: eager by autograd.grad on the shared graph, compiled by torch.func.vjp."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils.rnn import PackedSequence

from gradreg_core import structures
from gradreg_core.backend import Apply, Backend, Model, ModelPass, Pair, Pullback
from gradreg_core.objective import Objective, Scalar
from gradreg_core.passes import places_in, require_order
from gradreg_core.structures import Leaves, Rebuild
from gradreg_torch.compiled import require_second_derivatives, seen_to_require_grad
from gradreg_torch.diagnose import NESTED, PACKED, blame, how_it_runs
from gradreg_torch.entered import entered
from gradreg_torch.function_modes import beneath
from gradreg_torch.kinks import Smoothed
from gradreg_torch.model.places import recorded_places
from gradreg_torch.model.replay import call_twice, repeatable, same_draws, without_state_changes
from gradreg_torch.model.written import buffers_to_write, with_buffers, write_buffers
from gradreg_torch.objective import TorchObjective, copied_weights
from gradreg_torch.pullbacks import (
    in_transform,
    joined_pullback,
    on_graph,
    pullback_of,
    transformed,
    unchanged,
    values_of,
)
from gradreg_torch.second_derivatives import require_trainable
from gradreg_torch.shared_models import joined, on_this_process, require_checkable
from gradreg_torch.third_order import ArithmeticNorms
from gradreg_torch.threefry import threefry2x32_cpu, threefry2x32_eager

__all__ = ["TorchBackend"]


def _is_leaf(value: Any) -> bool:
    return isinstance(value, Tensor | PackedSequence)


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


class TorchBackend(Backend):
    """See :class:`gradreg_core.backend.Backend`, which documents the methods.

    Args:
        eager: makes the primitives for calls in eager mode from this backend. Default: this backend serves them too.
    """

    name = "torch"

    def __init__(self, eager: Callable[["TorchBackend"], Backend] | None = None) -> None:
        self._caller = threading.local()
        """Whether the caller of the current call may differentiate its result."""
        self._eager: Backend = self if eager is None else eager(self)

    def for_call(self) -> Backend:
        if type(self) is not TorchBackend or torch.compiler.is_compiling():
            return self
        if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
            return self
        return self._eager

    def is_array(self, value: Any) -> bool:
        return isinstance(value, Tensor) and not value.is_nested

    def conversion(self, value: Any) -> str:
        if isinstance(value, PackedSequence):
            return PACKED
        return NESTED if isinstance(value, Tensor) else super().conversion(value)

    def asarray(self, value: Any, like: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() and isinstance(value, np.ndarray) and not value.flags.writeable:
            value = value.copy()  # PyTorch warns about a tensor that shares read-only memory
        tensor = torch.as_tensor(value, device=like.device)
        return tensor if torch.compiler.is_compiling() else self.prepared(tensor)

    def shape(self, array: Tensor) -> tuple[int, ...]:
        return tuple(array.shape)

    def dtype(self, array: Tensor) -> str:
        return str(array.dtype).removeprefix("torch.")

    def values_if_free(self, array: Tensor) -> np.ndarray | None:
        if torch.compiler.is_compiling() or array.device.type != "cpu" or in_transform():
            return None
        return values_of(array)

    def constant(self, values: Any, dtype: str, like: Tensor) -> Tensor:
        if isinstance(values, float):  # filled on the device: a copy would wait for it
            return torch.full((), values, dtype=_dtype(dtype), device=like.device)
        return torch.tensor(values, dtype=_dtype(dtype), device=like.device)

    def int32(self, value: Any, like: Tensor) -> Tensor:
        if isinstance(value, Tensor):
            return value.to(device=like.device, dtype=torch.int32)
        if torch.compiler.is_compiling():  # an int may be a symbol, which takes more than 32 bits
            return torch.full((), value, dtype=torch.int64, device=like.device).to(torch.int32)
        return torch.full((), value, dtype=torch.int32, device=like.device)

    def arange(self, stop: int, like: Tensor) -> Tensor:
        return torch.arange(stop, dtype=torch.int32, device=like.device)

    def astype(self, array: Tensor, dtype: str) -> Tensor:
        return array.to(_dtype(dtype))

    def reshape(self, array: Tensor, shape: Sequence[int]) -> Tensor:
        return array.reshape(tuple(shape))

    def moveaxis(self, array: Tensor, source: int, destination: int) -> Tensor:
        return array.movedim(source, destination)

    def broadcast_to(self, array: Tensor, shape: Sequence[int]) -> Tensor:
        return array.expand(tuple(shape))

    def concat(self, arrays: Sequence[Tensor], axis: int) -> Tensor:
        return torch.cat(tuple(arrays), axis)

    def take(self, array: Tensor, indices: Tensor) -> Tensor:
        return array[indices.long()]

    def bitwise_left_shift(self, array: Tensor, bits: Any) -> Tensor:
        return array << bits

    def bitwise_right_shift(self, array: Tensor, bits: Any) -> Tensor:
        return array >> bits

    def where(self, condition: Tensor, if_true: Any, if_false: Any) -> Tensor:
        return torch.where(condition, if_true, if_false)

    def sum(self, array: Tensor, axis: int | tuple[int, ...], keepdims: bool = False) -> Tensor:
        return array.sum(axis, keepdim=keepdims, dtype=array.dtype)

    def mean(self, array: Tensor) -> Tensor:
        return array.mean(0)

    def sqrt(self, array: Tensor) -> Tensor:
        return array.sqrt()

    def sign(self, array: Tensor) -> Tensor:
        return array.detach().sign()

    def argmax(self, array: Tensor) -> Tensor:
        return array.argmax(-1).int()

    def argsort(self, array: Tensor) -> Tensor:
        return torch.argsort(array, dim=-1, stable=True).int()

    def cumulative_sum(self, array: Tensor) -> Tensor:
        return array.cumsum(-1)

    def softmax(self, array: Tensor) -> Tensor:
        return array.softmax(-1)

    def log_softmax(self, array: Tensor) -> Tensor:
        return array.log_softmax(-1)

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        labels = labels.long()
        if logits.dim() == 2:
            return F.cross_entropy(logits, labels, reduction="none")
        losses = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), reduction="none")
        return losses.reshape(labels.shape)

    def sigmoid(self, array: Tensor) -> Tensor:
        return array.sigmoid()

    def softplus(self, array: Tensor) -> Tensor:
        return -F.logsigmoid(-array)

    def eigvalsh(self, array: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(array)

    def matmul(self, left: Tensor, right: Tensor) -> Tensor:
        return left @ right

    def threefry2x32(self, key: tuple[Tensor, Tensor], counter: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if key[0].device.type == "cpu" and not in_transform():
            rounds = threefry2x32_cpu if torch.compiler.is_compiling() else threefry2x32_eager
            return rounds(*key, *counter)
        return super().threefry2x32(key, counter)

    def vjp(self, fn: Model, x: Tensor) -> tuple[Tensor, Pullback]:
        if torch.compiler.is_compiling() or in_transform():
            outputs, pull = torch.func.vjp(lambda point: fn(seen_to_require_grad(point)), x)[:2]
            require_second_derivatives()
            return outputs, lambda w: pull(w)[0]
        if x.requires_grad:
            outputs = unchanged(x, fn)
            return outputs, pullback_of(outputs, x, "x")
        outputs, point, layer = on_graph(x, fn)
        return outputs, pullback_of(outputs, point, "x", layer)

    def vjp_with_aux(self, fn: Callable[[Tensor], tuple[Tensor, Any]], x: Tensor) -> tuple[Tensor, Any, Pullback]:
        if not (torch.compiler.is_compiling() or in_transform()):
            return super().vjp_with_aux(fn, x)
        return transformed(self.flatten, fn, x)

    def model_vjp(self, model: Any, apply: Apply, x: Tensor | None, pairs: Sequence[Pair]) -> ModelPass:
        if not pairs and not torch.compiler.is_compiling() and not getattr(self._caller, "differentiates", True):
            with torch.no_grad():
                return super().model_vjp(model, apply, x, pairs)
        written = buffers_to_write(model) if pairs else {}
        if written:
            passed = super().model_vjp(model, with_buffers(apply), x, pairs)
            return replace(passed, returned=write_buffers(written, passed.returned))
        passed = self._model_vjp(model, apply, x, pairs)
        leaves = partial(self.flatten, passed.returned)
        pullbacks = {pair: joined_pullback(pullback, leaves) for pair, pullback in passed.pullbacks.items()}
        return replace(passed, pullbacks=pullbacks)

    def _model_vjp(self, model: Any, apply: Apply, x: Tensor | None, pairs: Sequence[Pair]) -> ModelPass:
        names = places_in(pairs)
        if not names or torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
            return super().model_vjp(model, apply, x, pairs)
        if x is not None and not x.requires_grad and any(at is None for _, at in pairs):
            x = x.detach().requires_grad_()
        with recorded_places(names, [at for _, at in pairs if at is not None]) as places:
            outputs, returned = apply(model, x) if x is None else unchanged(x, lambda x: apply(model, x))
        places.require_all()
        require_order(places, pairs)
        pullbacks = {
            (of, at): pullback_of(
                outputs if of is None else places.sources[of],
                x if at is None else places.sources[at],
                "x" if at is None else f"at={at!r}",
            )
            for of, at in pairs
        }
        return ModelPass(outputs, returned, pullbacks, places.sources)

    def jvp(self, fn: Model, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(fn(x), J v), differentiable, by two reverse passes.

        PyTorch's forward mode cannot be differentiated again through softmax, and its result through det is wrong.
        """
        with beneath(ArithmeticNorms()):
            return super().jvp(fn, x, v)

    def model_jvp(self, model: Any, apply: Apply, x: Tensor, v: Tensor) -> tuple[Tensor, Any, Tensor]:
        written = buffers_to_write(model)
        with beneath(ArithmeticNorms()):
            outputs, returned, tangent = super().model_jvp(model, with_buffers(apply) if written else apply, x, v)
        if written:
            returned = write_buffers(written, returned)
        return outputs, returned, joined(tangent, partial(self.flatten, returned))

    def call_twice(self, model: Any, apply: Apply, x: Tensor, moved: Tensor) -> tuple[Tensor, Any, Tensor]:
        return call_twice(model, apply, x, moved)

    def call_along(
        self, model: Any, apply: Apply, x: Tensor, move: Callable[[Tensor, Any, Pullback], Tensor]
    ) -> tuple[Tensor, Any, Tensor]:
        with same_draws(x):
            stateless = without_state_changes(model)
            moved = move(*self.vjp_with_aux(lambda point: apply(stateless, point), x.detach()))
        return self.call_twice(model, apply, x, moved)

    def without_state_changes(self, model: Any) -> Model:
        return without_state_changes(model)

    def pull_rows(self, pullback: Pullback, rows: Tensor) -> Tensor:
        return pullback(rows[0])[None] if len(rows) == 1 else torch.stack([pullback(row) for row in rows])

    def stop_gradient(self, array: Tensor) -> Tensor:
        return array.detach()

    def cond(self, predicate: Tensor, branch: Callable[[], Tensor]) -> Tensor:
        value = branch()
        return self.where(predicate.to(value.device), value, 0.0)

    def static_int(self, value: Any) -> int | None:
        if torch.compiler.is_compiling():
            return None
        if not isinstance(value, Tensor):
            return super().static_int(value)
        fractional = value.is_floating_point() or value.is_complex() or value.dtype == torch.bool
        free = value.dim() == 0 and value.device.type == "cpu" and not in_transform()
        return int(value) if free and not fractional else None

    def enter(self, call: str, model: Any, arrays: Sequence[Tensor], batch_norm: str) -> AbstractContextManager[None]:
        if torch.compiler.is_compiling() or in_transform():
            return nullcontext()
        return entered(self._caller, call, model, arrays, batch_norm)

    def prepared(self, array: Tensor) -> Tensor:
        free = torch.compiler.is_compiling() or in_transform()
        return array if free or not array.is_inference() else array.clone()

    def flatten(self, structure: Any) -> tuple[Leaves, Rebuild]:
        return structures.flatten(structure, _is_leaf)

    def is_parameter(self, value: Any) -> bool:
        return isinstance(value, nn.Parameter)

    def holds_samples(self, model: Any, batch: int) -> bool:
        return torch.compiler.is_compiling() or super().holds_samples(model, batch)

    def require_gradient(self, call: str, model: Any, value: Tensor) -> None:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled() or in_transform():
            return
        require_trainable(call, model, value)

    def finish(self, value: Tensor) -> Tensor:
        return value if torch.is_grad_enabled() else value.detach()

    @contextmanager
    def smoothed(self, model: Any) -> Iterator[Any]:
        with beneath(Smoothed()):
            yield model

    def repeatable(self, model: Any) -> AbstractContextManager[None]:
        return repeatable(model)

    def copied(self, model: Any) -> AbstractContextManager[Any]:
        require_checkable(model)
        return nullcontext(copied_weights(model))

    def objective(self, model: Any, fn: Scalar, reach: Scalar, x: Tensor | None, data: Sequence[Tensor]) -> Objective:
        return TorchObjective(model, fn, reach, x)

    def blame(self, error: Exception, model: Any, run: Callable[[Any], Any]) -> list[tuple[str, str]]:
        return blame(error, model, run)

    def how_it_runs(self, model: Any, arrays: Sequence[Any]) -> list[str]:
        return how_it_runs(model)

    def parameters(self, model: Any) -> list[Tensor] | None:
        if not isinstance(model, nn.Module):
            return None
        return on_this_process(parameter for parameter in model.parameters() if parameter.requires_grad)

    def tree_leaves(self, params: Any) -> list[Tensor]:
        return on_this_process(super().tree_leaves(params))
