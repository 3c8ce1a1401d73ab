"""Buffers that a forward pass writes into, inside torch.compile.

torch.func.vjp refuses writes to anything outside it. So the pass works on copies made inside and returns their values
with the outputs; the buffers get them afterwards.
"""

from typing import Any

import torch
from torch import Tensor, nn

from gradreg_core.backend import Apply
from gradreg_torch.compiled import require_no_hidden_statistics

__all__ = ["buffers_to_write", "with_buffers", "write_buffers"]


def buffers_to_write(model: Any) -> dict[str, Tensor]:
    """The buffers of a module in training mode, inside torch.compile; none elsewhere, where writes are allowed.

    Raises:
        UnsupportedError: the model is a plain function around batch normalisation in training mode.
    """
    if not torch.compiler.is_compiling():
        return {}
    if not isinstance(model, nn.Module):
        require_no_hidden_statistics(model)
        return {}
    training = any(module.training for module in model.modules())
    return dict(model.named_buffers()) if training else {}


def with_buffers(apply: Apply) -> Apply:
    """`apply` on copies; it also returns the copies' values."""

    def on_copies(model: Any, x: Any) -> tuple[Any, Any]:
        copies: dict[str, Tensor] = {}
        if not isinstance(model, nn.Module):  # already on copies
            outputs, returned = apply(model, x)
            return outputs, (returned, copies)
        copies = {name: buffer.clone() for name, buffer in model.named_buffers()}

        def functional(*args: Any, **kwargs: Any) -> Any:
            return torch.func.functional_call(model, copies, args, kwargs)

        outputs, returned = apply(functional, x)
        return outputs, (returned, copies)

    return on_copies


def write_buffers(buffers: dict[str, Tensor], returned: tuple[Any, dict[str, Tensor]]) -> Any:
    """Write the values from `with_buffers` to the buffers, and return the model's own result."""
    with torch.no_grad():
        for name, buffer in buffers.items():
            buffer.copy_(returned[1][name])
    return returned[0]
