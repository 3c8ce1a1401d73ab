"""Refuses functions that have a second derivative outside torch.compile but none inside.

Dynamo traces the backward of a custom autograd.Function with gradients switched off. Behind torch.func.vjp the
cotangent then has no history, and the penalty's gradient would be silently wrong. gradreg looks for such functions in
the graph that Dynamo has recorded, and refuses them.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.fx import Graph, GraphModule, Node

from gradreg_core.errors import DoubleBackwardError, UnsupportedError
from gradreg_core.preflight.references import references

__all__ = ["require_no_hidden_statistics", "require_second_derivatives", "seen_to_require_grad"]

_DEEPEST = 6

_FUNCTION, _CHECKPOINT = "autograd_function_apply", "tag_activation_checkpoint"
_INPUT = "_wrap_for_grad"
"""The first function that torch.func.vjp applies to its input."""
_FRAME = re.compile(r'File "(.+)", line (\d+)')


def seen_to_require_grad(point: Tensor) -> Tensor:
    """The input of a torch.func.vjp, in a form that Dynamo treats as differentiated.

    Dynamo treats a custom function that is applied to the input itself as a function of a constant, and leaves out its
    backward, which may belong to another function, as in a straight-through estimator.
    """
    return point.view_as(point) if torch.compiler.is_compiling() else point


def require_second_derivatives() -> None:
    """Refuse functions without one behind the input of a torch.func.vjp, in a function that torch.compile traces.

    Raises:
        DoubleBackwardError: x passes through a custom autograd.Function or a checkpoint, as Dynamo traces them.
    """
    if torch.compiler.is_compiling():
        from torch._dynamo.comptime import comptime

        comptime(_refuse_once_differentiable)


def _refuse_once_differentiable(context: Any) -> None:
    """Dynamo calls this while it traces, with the graph so far."""
    root = context._i_will_not_complain_if_bc_breaks_InstructionTranslator().output.nn_modules
    for node in _behind_the_input(context.graph()):
        if node.target.__name__ == _CHECKPOINT:  # type: ignore[union-attr]
            raise DoubleBackwardError(
                f"torch.compile: the checkpoint {_place(node)} has no second derivative inside a compiled function. "
                f"Switch checkpointing off there, or call gradreg outside the compiled function."
            )
        raise DoubleBackwardError(
            f"torch.compile: {_function(node, root)}, applied {_place(node)}, has no second derivative inside a "
            f"compiled function: torch.compile traces its backward as a constant. Write it with ordinary operations, "
            f"or call gradreg outside the compiled function, or take side='input' with method='difference', or "
            f"give it a setup_context and call its apply from a function decorated with torch._dynamo.allow_in_graph."
        )


def require_no_hidden_statistics(model: Any) -> None:
    """Refuse batch normalisation in training mode behind a plain function that torch.compile traces.

    torch.func.vjp refuses writes to anything outside it, with a message that names neither the layer nor a remedy.

    Raises:
        UnsupportedError: there is such a layer.
    """
    from torch._dynamo.comptime import comptime

    comptime(_refuse_hidden_statistics)


def _refuse_hidden_statistics(context: Any) -> None:
    """Dynamo calls this while it traces `require_no_hidden_statistics`."""
    model = context.get_local("model")._i_will_not_complain_if_bc_breaks_VariableTracker()
    translator = context._i_will_not_complain_if_bc_breaks_InstructionTranslator()
    try:
        owners = list(_owners(model, translator, 0))
    except Exception:  # Dynamo has changed: PyTorch refuses the write itself
        return
    for owner in owners:
        for name, module in owner.named_modules() if isinstance(owner, nn.Module) else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training and module.track_running_stats:
                raise UnsupportedError(
                    f"torch.compile: the model is a plain function around {name or 'a layer'} "
                    f"({type(module).__name__}) in training mode, whose statistics could not be written inside a "
                    f"compiled function. Pass the module itself as the model, with gradreg.Inputs(...) for its "
                    f"arguments and outputs= for what it returns, or put it in eval mode."
                )


def _owners(tracker: Any, translator: Any, depth: int) -> Iterator[Any]:
    """The objects that a value traced by Dynamo refers to."""
    tracker = tracker.realize()
    if hasattr(tracker, "module_key"):
        yield translator.output.get_submodule(tracker.module_key)
    elif hasattr(tracker, "closure"):  # a function made inside the compiled one
        code = tracker.code.as_python_constant()
        yield from (tracker.f_globals[name] for name in code.co_names if name in tracker.f_globals)
        for cell in tracker.closure.items if tracker.closure is not None and depth < _DEEPEST else ():
            yield from _owners(translator.output.side_effects.load_cell(cell), translator, depth + 1)
    elif hasattr(tracker, "obj") or hasattr(tracker, "func"):  # a method, or a functools.partial
        yield from _owners(getattr(tracker, "obj", None) or tracker.func, translator, depth)
    else:
        value = getattr(tracker, "fn", getattr(tracker, "value", None))
        yield from (owner for _, owner in references(value))


def _behind_the_input(graph: Graph) -> Iterator[Node]:
    """The custom functions and checkpoints that depend on the input of a torch.func.vjp."""
    reached: set[Node] = set()
    for node in graph.nodes:
        name = getattr(node.target, "__name__", "")
        if name == _INPUT or not reached.isdisjoint(node.all_input_nodes):
            reached.add(node)
            if name in (_FUNCTION, _CHECKPOINT):
                yield node


def _frame(node: Node) -> tuple[str, int]:
    """File and line of the innermost call that recorded the node, calls of this package left out."""
    frames = _FRAME.findall(str(node.meta.get("stack_trace", "")))
    outside = [(file, int(line)) for file, line in frames if Path(file).parent != Path(__file__).parent]
    return outside[-1] if outside else ("unknown", 0)


def _place(node: Node) -> str:
    modules = [name for name, _ in node.meta.get("nn_module_stack", {}).values()]
    inside = f" in the module {modules[-1]}" if modules else ""
    return "at {}:{}".format(*_frame(node)) + inside


def _function(node: Node, root: dict[str, Any]) -> str:
    """The name of the class whose forward the node runs: the class defined around those lines."""
    bodies = [root.get(str(argument.target)) for argument in node.all_input_nodes if argument.op == "get_attr"]
    frames = {_frame(inner) for body in bodies if isinstance(body, GraphModule) for inner in body.graph.nodes}
    for kind in _subclasses(Function):
        code: Any = getattr(kind.forward, "__code__", None)
        lines = [] if code is None else [line for *_, line in code.co_lines() if line is not None]
        if any(file == code.co_filename and min(lines) <= line <= max(lines) for file, line in frames if lines):
            return f"the autograd.Function {kind.__qualname__}"
    return "an autograd.Function"


def _subclasses(kind: type) -> Iterator[Any]:
    child: Any
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)
