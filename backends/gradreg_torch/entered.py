"""The context of a call in eager mode: gradients are on, coupled samples are reported, errors get a remedy."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gradreg_torch.diagnose import explain
from gradreg_torch.model.batch_norm import batch_norm_policy, report_coupling
from gradreg_torch.shared_models import shared_models

__all__ = ["entered"]

_DISTRIBUTED = dist.is_available()
"""Whether this PyTorch has process groups."""


def entered(
    caller: Any, call: str, model: Any, arrays: Sequence[Tensor], batch_norm: str
) -> AbstractContextManager[None]:
    """The context of one call, outside compilers and transforms.

    Args:
        caller: thread-local; it holds `differentiates`, whether the caller may differentiate the result.
        call: the call's name, for messages.
        model: as the user passed it.
        arrays: the arrays of the input.
        batch_norm: the policy for batch normalisation.
    """
    keras = sys.modules.get("keras")  # its layers know their mode only when they are called
    plain = isinstance(model, nn.Module) and (keras is None or not isinstance(model, getattr(keras, "Layer", ())))
    plain = plain and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    if not plain or (_DISTRIBUTED and dist.GroupMember.WORLD is not None):
        return _entered(caller, call, model, arrays, batch_norm)
    return _Plain(caller, call, model, batch_norm)


class _Plain(AbstractContextManager[None]):
    """The same as `_entered` for a module in one process with gradients on: there is no mode to change."""

    __slots__ = ("batch_norm", "before", "call", "caller", "model")

    def __init__(self, caller: Any, call: str, model: nn.Module, batch_norm: str) -> None:
        self.caller, self.call, self.model, self.batch_norm = caller, call, model, batch_norm

    def __enter__(self) -> None:
        if self.batch_norm != "allow":
            report_coupling(self.call, self.model, self.batch_norm)
        self.before = getattr(self.caller, "differentiates", True)
        self.caller.differentiates = self.call != "measure"

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.caller.differentiates = self.before
        if isinstance(error, RuntimeError):
            _explain(self.call, error)


@contextmanager
def _entered(caller: Any, call: str, model: Any, arrays: Sequence[Tensor], batch_norm: str) -> Iterator[None]:
    before = getattr(caller, "differentiates", True)
    caller.differentiates = differentiates = call != "measure" and torch.is_grad_enabled()
    shared = shared_models(call, model, differentiates, arrays)
    try:
        with batch_norm_policy(call, model, batch_norm), shared, torch.inference_mode(False), torch.enable_grad():
            yield
    except RuntimeError as error:
        _explain(call, error)
        raise
    finally:
        caller.differentiates = before


def _explain(call: str, error: RuntimeError) -> None:
    """Raise gradreg's error in place of PyTorch's, if gradreg has something to add."""
    explained = explain(call, error)
    if explained is not None:
        raise explained from error
