"""The primitives for one call in eager mode: PyTorch's own functions, without checks for compilers and transforms."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradreg_core.backend import Apply, ModelPass, Pair
from gradreg_torch.backend import TorchBackend
from gradreg_torch.entered import entered
from gradreg_torch.pullbacks import joined_pullback, on_graph, pullback_of, values_of
from gradreg_torch.second_derivatives import require_trainable
from gradreg_torch.shared_models import is_shared

__all__ = ["EagerBackend"]

_NAMES = {dtype: str(dtype).removeprefix("torch.") for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
_WHOLE = ((None, None),)
_MOST_FROM_HOST = 2**14
"""Up to this many logits the host draws for a device too, in one copy. The device would take 160 operations."""


class EagerBackend(TorchBackend):
    """The primitives for a call in eager mode, which need not check for a compiler or a transform again.

    Most are PyTorch's own functions, without a Python call around them: on small models the calls on the host decide
    how long a step takes.

    Args:
        whole: the backend that it replaces.
    """

    def __init__(self, whole: TorchBackend) -> None:
        self._caller = whole._caller

    reshape = staticmethod(torch.reshape)  # type: ignore[assignment]
    moveaxis = staticmethod(torch.movedim)  # type: ignore[assignment]
    broadcast_to = staticmethod(torch.broadcast_to)  # type: ignore[assignment]
    concat = staticmethod(torch.cat)  # type: ignore[assignment]
    where = staticmethod(torch.where)  # type: ignore[assignment]
    sqrt = staticmethod(torch.sqrt)  # type: ignore[assignment]
    sigmoid = staticmethod(torch.sigmoid)  # type: ignore[assignment]
    matmul = staticmethod(torch.matmul)  # type: ignore[assignment]
    softmax = staticmethod(partial(torch.softmax, dim=-1))  # type: ignore[assignment]
    log_softmax = staticmethod(partial(torch.log_softmax, dim=-1))  # type: ignore[assignment]
    stop_gradient = staticmethod(torch.detach)  # type: ignore[assignment]

    def dtype(self, array: Tensor) -> str:
        return _NAMES[array.dtype]

    def asarray(self, value: Any, like: Tensor) -> Tensor:
        if isinstance(value, Tensor) and value.device == like.device and not value.is_inference():
            return value
        if type(value) is np.ndarray and value.dtype in (np.float32, np.int32):  # draws
            tensor = torch.from_numpy(value if value.flags.writeable else value.copy())
            # From pinned memory the host does not wait for a GPU.
            return (
                tensor
                if like.is_cpu
                else (tensor.pin_memory() if like.is_cuda else tensor).to(like.device, non_blocking=like.is_cuda)
            )
        return super().asarray(value, like)

    def values_if_free(self, array: Tensor) -> np.ndarray | None:
        return values_of(array) if array.is_cpu else None

    def draws_on_host(self, like: Tensor) -> bool:
        if like.is_cpu or like.numel() > _MOST_FROM_HOST:
            return like.is_cpu
        return not (like.is_cuda and torch.cuda.is_current_stream_capturing())  # a CUDA graph would keep the draws

    def astype(self, array: Tensor, dtype: str) -> Tensor:
        return array.to(getattr(torch, dtype))

    def static_int(self, value: Any) -> int | None:
        return value if type(value) is int else super().static_int(value)

    def prepared(self, array: Tensor) -> Tensor:
        return array.clone() if array.is_inference() else array

    def enter(self, call: str, model: Any, arrays: Sequence[Tensor], batch_norm: str) -> AbstractContextManager[None]:
        return entered(self._caller, call, model, arrays, batch_norm)

    def require_gradient(self, call: str, model: Any, value: Tensor) -> None:
        if torch.is_grad_enabled():
            require_trainable(call, model, value)

    def finish(self, value: Tensor) -> Tensor:
        return value if torch.is_grad_enabled() else value.detach()

    def pull_rows(self, pullback: Any, rows: Tensor) -> Tensor:
        return pullback(rows[0])[None] if rows.shape[0] == 1 else super().pull_rows(pullback, rows)

    def model_vjp(self, model: Any, apply: Apply, x: Tensor | None, pairs: Sequence[Pair]) -> ModelPass:
        if not pairs and self._caller.differentiates:
            return ModelPass(*apply(model, x), {}, {})
        # If the caller's function has compiled parts, Dynamo may trace this one separately, so it checks again.
        if pairs != _WHOLE or x is None or x.requires_grad or torch.compiler.is_compiling():
            return super().model_vjp(model, apply, x, pairs)
        (outputs, returned), point, layer = on_graph(x, partial(apply, model))
        pullback = pullback_of(outputs, point, "x", layer)
        if is_shared():
            pullback = joined_pullback(pullback, partial(self.flatten, returned))
        return ModelPass(outputs, returned, {(None, None): pullback}, {})
