"""Buffers that a forward pass writes into, inside torch.compile.

torch.func.vjp refuses writes into what is outside of it. So the pass works on copies made inside, gives their values
back beside the outputs, and the buffers get them afterwards.
"""

from typing import Any

import torch
from torch import Tensor, nn

from gradreg_core.backend import Apply
from gradreg_torch.compiled import require_no_hidden_statistics

__all__ = ["buffers_to_write", "with_buffers", "write_buffers"]


def buffers_to_write(model: Any) -> dict[str, Tensor]:
    """The buffers of a module in training mode, inside torch.compile; elsewhere they are written as they are.

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
    """`apply` that works on copies, and returns their values beside what the model returned."""

    def on_copies(model: Any, x: Any) -> tuple[Any, Any]:
        copies: dict[str, Tensor] = {}
        if not isinstance(model, nn.Module):  # on copies already
            outputs, returned = apply(model, x)
            return outputs, (returned, copies)
        copies = {name: buffer.clone() for name, buffer in model.named_buffers()}

        def functional(*args: Any, **kwargs: Any) -> Any:
            return torch.func.functional_call(model, copies, args, kwargs)

        outputs, returned = apply(functional, x)
        return outputs, (returned, copies)

    return on_copies


def write_buffers(buffers: dict[str, Tensor], returned: tuple[Any, dict[str, Tensor]]) -> Any:
    """Put the values that `with_buffers` returned into the buffers; what the model returned itself."""
    with torch.no_grad():
        for name, buffer in buffers.items():
            buffer.copy_(returned[1][name])
    return returned[0]
