"""Batch normalisation in training mode couples the samples of a batch: find it."""

import warnings
from typing import Any

from torch import nn

from gradreg_core.errors import BatchNormError, BatchNormWarning

__all__ = ["refuse_batch_norm"]


def refuse_batch_norm(call: str, model: Any, policy: str) -> None:
    """Raise or warn, as `policy` says, if the model normalises over the batch.

    Raises:
        BatchNormError: the policy is "error".
    """
    if not isinstance(model, nn.Module):
        return
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            message = (
                f"{call}: {name or 'the model'} ({type(module).__name__}) is in training mode and couples the samples "
                f"of a batch, so each sample's penalty also counts its effect on the others. Use GroupNorm or "
                f"LayerNorm, put the module in eval mode, or pass batch_norm='allow' if that is meant."
            )
            if policy == "error":
                raise BatchNormError(message)
            warnings.warn(message, BatchNormWarning, stacklevel=5)
            return
