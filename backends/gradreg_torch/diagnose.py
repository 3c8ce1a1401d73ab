"""The part of `check` that needs PyTorch: it names modules without a second derivative, and what to use instead."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from gradreg_core.errors import DoubleBackwardError, GradregError, InputError, InputTypeError
from gradreg_core.preflight.references import references

__all__ = [
    "NESTED",
    "PACKED",
    "WRITES",
    "blame",
    "double_backward",
    "explain",
    "how_it_runs",
    "is_about_double_backward",
]

_MARKS = re.compile(
    r"[Dd]ouble backward|derivative for .* is not implemented|once_differentiable|differentiate twice|donated buffers"
    r"|checkpoint is incompatible with|selective activation checkpoint"
)
"""Parts of PyTorch's messages about operations that cannot be differentiated twice."""

_COMPILED = (
    "Give gradreg the module that torch.compile was given (compiled._orig_mod), and compile the function that calls "
    "gradreg, or compile with backend='eager', or use side='input' with method='difference'."
)
_REMEDIES = (
    (
        "scaled_dot_product",
        "Run it inside torch.nn.attention.sdpa_kernel(SDPBackend.MATH), or use side='input' with method='difference'.",
    ),
    ("cudnn_rnn", "Run it inside torch.backends.cudnn.flags(enabled=False)."),
    ("CuDNN RNN", "Run it inside torch.backends.cudnn.flags(enabled=False)."),
    ("aot_autograd", _COMPILED),
    ("donated buffers", _COMPILED),
    ("cdist", "Write the distances with broadcasting and sqrt."),
    ("embedding_bag", "Use nn.Embedding and a mean over its output."),
    ("ctc_loss", "Penalise the logits before the loss: SpectReg needs no labels."),
    ("selective", "Use torch.utils.checkpoint without context_fn."),
    ("checkpoint", "Use torch.utils.checkpoint with use_reentrant=False."),
    (
        "once_differentiable",
        "Remove @once_differentiable, and compute the backward pass with differentiable operations.",
    ),
)
WRITES = (
    "the model writes into its input, so the derivative would be taken at other values. Use inplace=False in "
    "its first layer, or copy the input: lambda x: model(x.clone())."
)
NESTED = (
    "It is a nested tensor, whose samples differ in shape. Pad it, torch.nested.to_padded_tensor(x, 0.0), and "
    "mask the padding with position_weight=."
)
PACKED = (
    "Its samples are concatenated, without a batch axis. As input, pass the padded sequences and their "
    "lengths, x = gradreg.Inputs(padded, lengths), and call pack_padded_sequence(padded, lengths, batch_first=True, "
    "enforce_sorted=False) inside the model; as output, take outputs=lambda packed: pad_packed_sequence(packed, "
    "batch_first=True)[0]."
)
_GENERAL_REMEDY = "Replace it with differentiable operations, or penalise an activation after it with at=."


def _remedy(message: str) -> str:
    return next((remedy for mark, remedy in _REMEDIES if mark in message), _GENERAL_REMEDY)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200]


def double_backward(call: str, error: RuntimeError) -> DoubleBackwardError:
    """The error for an operation that, as `error` says, cannot be differentiated twice, with a remedy."""
    return DoubleBackwardError(
        f"{call}: an operation of the model has no second derivative ({_first_line(error)}). {_remedy(str(error))} "
        f"check(model, x, y, reg) names the module. For the value alone call it under torch.no_grad()."
    )


def explain(call: str, error: RuntimeError) -> GradregError | None:
    """PyTorch's error as gradreg's, with a remedy; None if gradreg has nothing to add."""
    message = str(error)
    if is_about_double_backward(error):
        return double_backward(call, error)
    if "leaf Variable that requires grad" in message:
        return InputError(f"{call}: {WRITES}")
    if "Inference tensors" in message:
        return InputError(
            f"{call}: a parameter, label or other tensor was created in torch.inference_mode() and has no gradient "
            f"({_first_line(error)}). Create it outside, or pass tensor.clone(), called outside."
        )
    if "sparse" in message.lower():
        return InputTypeError(
            f"{call}: sparse tensors have no second derivative in PyTorch ({_first_line(error)}). Pass x.to_dense(); "
            f"the model may convert it back with x.to_sparse()."
        )
    return None


def is_about_double_backward(error: BaseException) -> bool:
    """Whether the error says that an operation cannot be differentiated twice."""
    return isinstance(error, DoubleBackwardError) or _MARKS.search(str(error)) is not None


def _double_backward_error(module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> RuntimeError | None:
    """The error that a second derivative through the module alone raises, if any."""
    sources: list[Tensor] = []

    def leaf(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        sources.append(value.detach().requires_grad_())
        return sources[-1].clone()  # because a module may write into it

    try:
        output = module(*map(leaf, inputs), **{name: leaf(value) for name, value in keywords.items()})
        output = output[0] if isinstance(output, tuple | list) else output
        if not sources or not isinstance(output, Tensor) or not output.requires_grad:
            return None
        gradients = torch.autograd.grad(output.square().sum(), sources, create_graph=True, allow_unused=True)
        total = sum((gradient.square().sum() for gradient in gradients if gradient is not None), torch.zeros(()))
        if isinstance(total, Tensor) and total.requires_grad:
            parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
            torch.autograd.grad(total, [*sources, *parameters], allow_unused=True)
    except RuntimeError as error:
        return error if is_about_double_backward(error) else None
    return None


@contextmanager
def _recorded_calls(model: Any) -> Iterator[dict[str, tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]]:
    """The arguments of each module's first call, by name: modules of the model or of what it closes over."""
    calls: dict[str, tuple[nn.Module, tuple[Any, ...], dict[str, Any]]] = {}
    hooks = []
    owners = [(prefix, owner) for prefix, owner in references(model) if isinstance(owner, nn.Module)]
    named: dict[nn.Module, str] = {}
    for prefix, owner in owners:
        for name, module in owner.named_modules(prefix=prefix):
            named.setdefault(module, name)
    for module, name in named.items():

        def record(owner: nn.Module, inputs: Any, keywords: Any, name: str = name) -> None:
            calls.setdefault(name, (owner, inputs, keywords))

        hooks.append(module.register_forward_pre_hook(record, with_kwargs=True))
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _culprits(model: Any, run: Callable[[Any], Any]) -> list[tuple[str, RuntimeError]]:
    """The innermost modules without a second derivative, each with PyTorch's error."""
    with _recorded_calls(model) as calls:
        run(model)
    failed: dict[str, RuntimeError] = {}
    for name, (module, inputs, keywords) in reversed(list(calls.items())):
        if any(other.startswith(f"{name}." if name else "") for other in failed):
            continue
        error = _double_backward_error(module, inputs, keywords)
        if error is not None:
            failed[name] = error
    return [(f"{name or 'the model'} ({type(calls[name][0]).__name__})", error) for name, error in failed.items()]


def blame(error: Exception, model: Any, run: Callable[[Any], Any]) -> list[tuple[str, str]]:
    """The modules without a second derivative, each with a remedy; see :meth:`gradreg_core.backend.Backend.blame`."""
    if not is_about_double_backward(error):
        return []
    cause = error.__cause__ if isinstance(error, DoubleBackwardError) and error.__cause__ is not None else error
    culprits: list[tuple[str, BaseException]] = []
    with suppress(Exception):  # a compiled model may refuse to be called with hooks
        culprits += _culprits(model, run)
    return [
        (f"{name} has no second derivative: {_first_line(problem)}.", _remedy(f"{problem} {name}"))
        for name, problem in culprits or [("an operation of the model", cause)]
    ]


def how_it_runs(model: Any) -> list[str]:
    """Notes on what is compiled or replicated; see :meth:`gradreg_core.backend.Backend.how_it_runs`."""
    notes: list[str] = []
    owners = list(references(model))
    functions = [] if isinstance(model, nn.Module) else owners
    compiled = [name or "the model" for name, owner in functions if hasattr(owner, "_torchdynamo_orig_callable")]
    for prefix, owner in owners:
        for name, module in owner.named_modules(prefix=prefix) if isinstance(owner, nn.Module) else ():
            if "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None:
                compiled.append(name or "the model")
            if isinstance(module, nn.parallel.DistributedDataParallel):
                static = " with a static graph" if module.static_graph else ""
                size = torch.distributed.get_world_size(module.process_group)
                notes.append(f"DistributedDataParallel{static} over {size} processes; only this one was checked.")
    if compiled:
        names = ", ".join(dict.fromkeys(compiled))
        notes.append(
            f"torch.compile compiles {names}. To compile gradreg's call as well, compile the function around it."
        )
    return notes
