"""What only PyTorch can tell before training: which module lacks a second derivative, and what to use instead."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradreg_core.errors import DoubleBackwardError

__all__ = ["DOUBLE_BACKWARD_MARKS", "diagnose", "explain"]

DOUBLE_BACKWARD_MARKS = (
    "double backward",
    "Double backward",
    "is not implemented",
    "once_differentiable",
    "differentiate twice",
)
"""What PyTorch's messages say where an operation cannot be differentiated twice."""

_REMEDIES = (
    ("scaled_dot_product", "Run it inside torch.nn.attention.sdpa_kernel(SDPBackend.MATH)."),
    ("cudnn_rnn", "Run it inside torch.backends.cudnn.flags(enabled=False)."),
    ("CuDNN RNN", "Run it inside torch.backends.cudnn.flags(enabled=False)."),
    ("aot_autograd", "Give gradreg the module as it was, and compile the function that calls gradreg instead."),
    ("cdist", "Write the distances with broadcasting and sqrt."),
    ("embedding_bag", "Use nn.Embedding and a mean over its output."),
    ("ctc_loss", "Penalise the logits before the loss: SpectReg needs no labels."),
    ("checkpoint", "Use torch.utils.checkpoint with use_reentrant=False."),
)
_OTHERWISE = "Replace it by differentiable operations, or penalise an activation behind it with at=."

Rows = list[tuple[str, str, str]]


def _remedy(message: str) -> str:
    return next((remedy for mark, remedy in _REMEDIES if mark in message), _OTHERWISE)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200]


def explain(call: str, error: RuntimeError) -> DoubleBackwardError:
    """PyTorch's complaint as gradreg's, with a remedy."""
    return DoubleBackwardError(
        f"{call}: an operation of the model has no second derivative ({_first_line(error)}). {_remedy(str(error))} "
        f"check(model, x, y, reg) names the module."
    )


def _differentiates_twice(module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> RuntimeError | None:
    """The error that a second derivative through the module alone gives, if any."""

    def leaf(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.detach().requires_grad_()
        return value

    inputs = tuple(leaf(each) for each in inputs)
    keywords = {name: leaf(each) for name, each in keywords.items()}
    sources = [each for each in (*inputs, *keywords.values()) if isinstance(each, Tensor) and each.requires_grad]
    output = module(*inputs, **keywords)
    output = output[0] if isinstance(output, tuple | list) else output
    if not sources or not isinstance(output, Tensor) or not output.requires_grad:
        return None
    try:
        gradients = torch.autograd.grad(output.square().sum(), sources, create_graph=True, allow_unused=True)
        total = sum((each.square().sum() for each in gradients if each is not None), torch.zeros(()))
        if isinstance(total, Tensor) and total.requires_grad:
            parameters = [each for each in module.parameters() if each.requires_grad]
            torch.autograd.grad(total, [*sources, *parameters], allow_unused=True)
    except RuntimeError as error:
        return error if any(mark in str(error) for mark in DOUBLE_BACKWARD_MARKS) else None
    return None


@contextmanager
def _recorded_calls(model: nn.Module) -> Iterator[dict[str, tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]]:
    """The inputs of every module in the forward passes inside, by module name."""
    calls: dict[str, tuple[nn.Module, tuple[Any, ...], dict[str, Any]]] = {}
    hooks = []
    for name, module in model.named_modules():

        def record(owner: nn.Module, inputs: Any, keywords: Any, name: str = name) -> None:
            calls.setdefault(name, (owner, inputs, keywords))

        hooks.append(module.register_forward_pre_hook(record, with_kwargs=True))
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _culprits(model: Any, x: Tensor) -> list[tuple[str, RuntimeError]]:
    """The innermost modules that cannot be differentiated twice, with PyTorch's error."""
    if not isinstance(model, nn.Module):
        return []
    with _recorded_calls(model) as calls:
        model(x)
    failed: dict[str, RuntimeError] = {}
    for name, (module, inputs, keywords) in reversed(list(calls.items())):
        if any(other.startswith(f"{name}." if name else "") for other in failed):
            continue
        error = _differentiates_twice(module, inputs, keywords)
        if error is not None:
            failed[name] = error
    return [(f"{name or 'the model'} ({type(calls[name][0]).__name__})", error) for name, error in failed.items()]


def diagnose(calls: Any, model: Any, x: Tensor, y: Any, reg: Any, options: Any) -> tuple[Rows, bool]:
    """Differentiate the penalty with respect to the parameters once, and explain what goes wrong.

    Returns:
        (level, problem, remedy) for each finding, and whether the penalty cannot be differentiated at all.
    """
    found: Rows = []
    parameters = [each for each in model.parameters() if each.requires_grad] if isinstance(model, nn.Module) else []
    with calls.backend.repeatable(model), torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone()
        try:
            value = calls.penalty(model, x, y, reg, batch_norm="allow", **options)
            wanted = parameters or [each for each in _leaves(value) if each is not x]
            gradients = torch.autograd.grad(value, wanted, allow_unused=True) if value.requires_grad and wanted else []
        except (RuntimeError, DoubleBackwardError) as error:
            if not isinstance(error, DoubleBackwardError) and not any(m in str(error) for m in DOUBLE_BACKWARD_MARKS):
                raise
            named = _culprits(model, x) or [("an operation of the model", error)]
            for name, reason in named:
                problem = f"{name} has no second derivative: {_first_line(reason)}."
                found.append(("error", problem, _remedy(f"{reason} {name}")))
            return found, True
    reached = [each for each in gradients if each is not None]
    if not reached and float(value.detach()) != 0:
        problem = "the penalty's gradient is None for every parameter: training would not change the penalty."
        found.append(("error", problem, "Look for .detach(), .data or torch.no_grad() in the model."))
    elif any(not bool(each.isfinite().all()) for each in reached):
        found.append(("error", "the penalty's gradient is NaN or infinite.", "Look for sqrt, norm or log at 0."))
    return found, False


def _leaves(value: Tensor) -> list[Tensor]:
    """The leaf tensors that require a gradient and that `value` was computed from."""
    seen, todo, leaves = set(), [value.grad_fn], []
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        todo += [following for following, _ in node.next_functions]
    return leaves
