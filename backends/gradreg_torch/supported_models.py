"""Refuses settings of a transformers Trainer under which a model has no second derivative or a wrong penalty."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from gradreg_core.errors import UnsupportedError

__all__ = ["innermost", "require_supported", "uncompiled"]

_ATTENTION = (None, "eager", "sdpa")
"""The implementations with a second derivative; of sdpa, its math kernel."""


def uncompiled(model: nn.Module) -> nn.Module:
    """The module passed to torch.compile or to accelerate's compilation of regions."""
    while (original := model.__dict__.get("_orig_mod", model._modules.get("_orig_mod"))) is not None:
        model = original
    return model


def innermost(model: nn.Module) -> Any:
    """The model inside the wrappers of compilation, of processes and of peft."""
    from torch.nn.parallel import DistributedDataParallel

    model = uncompiled(model)
    while isinstance(model, DistributedDataParallel):
        model = uncompiled(model.module)
    base = getattr(model, "get_base_model", None)
    return model if base is None else base()


def require_supported(trainer: Any, model: nn.Module, exact: bool) -> None:
    """Refuse settings under which a penalty would be wrong, or fail without a clear message.

    Args:
        trainer: the Trainer.
        model: the model as called.
        exact: whether a second derivative is needed.

    Raises:
        UnsupportedError: a message for each obstacle, with its remedy.
    """
    obstacles = [*_of_processes(trainer), *(_of_model(trainer, model) if exact else ())]
    if obstacles:
        raise UnsupportedError(f"{type(trainer).__name__}: " + " ".join(obstacles))


def _of_processes(trainer: Any) -> Iterator[str]:
    if trainer.args.n_gpu > 1:
        yield (
            f"DataParallel over {trainer.args.n_gpu} GPUs splits a batch over threads. Start one process per GPU: "
            f"torchrun --nproc-per-node {trainer.args.n_gpu}; or make one GPU visible: CUDA_VISIBLE_DEVICES=0."
        )
    if getattr(trainer, "is_deepspeed_enabled", False):
        yield "DeepSpeed treats the inner backward pass as the whole. Use DistributedDataParallel."
    sizes = {kind: getattr(trainer, f"get_{kind}_size", lambda: 1)() for kind in ("tp", "cp", "sp")}
    if any(size > 1 for size in sizes.values()):
        yield (
            f"tensor, context and sequence parallelism ({sizes}) split a sample between processes. Split the batch: "
            f"DistributedDataParallel."
        )


def _of_model(trainer: Any, model: nn.Module) -> Iterator[str]:
    if getattr(trainer.args, "use_liger_kernel", False):
        yield "Liger kernels have no second derivative. Set use_liger_kernel=False."
    if getattr(innermost(model), "use_kernels", False):
        yield "kernels from the Hub have no second derivative. Set use_kernels=False."
    modules = dict(model.named_modules())
    attention = {
        getattr(getattr(module, "config", None), "_attn_implementation", None) for module in modules.values()
    } - set(_ATTENTION)
    if attention:
        yield (
            f"attn_implementation={sorted(map(str, attention))[0]!r} has no second derivative. Load the model with "
            f"attn_implementation='sdpa' (its math kernel is chosen in steps with a penalty) or 'eager'."
        )
    if any(map(_recomputes_reentrantly, modules.values())):
        current = hasattr(trainer.args, "activation_checkpointing_kwargs")
        yield (
            f"checkpointing with use_reentrant=True has no second derivative. Pass TrainingArguments("
            f"{'activation' if current else 'gradient'}_checkpointing_kwargs={{'use_reentrant': False}})."
        )
    compiled = [
        name
        for name, module in modules.items()
        if "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None
    ]
    if compiled:
        yield (
            f"{compiled[0] or 'the model'} is compiled, and compiled modules have no second derivative. Pass the model "
            f"uncompiled, and set TrainingArguments(torch_compile=True): steps with a penalty then run uncompiled."
        )


def _recomputes_reentrantly(module: nn.Module) -> bool:
    checkpoint = getattr(module, "_gradient_checkpointing_func", None)
    if checkpoint is None or not getattr(module, "gradient_checkpointing", False):
        return False
    return getattr(checkpoint, "keywords", {}).get("use_reentrant", True) is not False
