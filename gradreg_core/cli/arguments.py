"""Arguments of commands that stand for objects: "module:name", a regularizer in words, a JSON file."""

import ast
import inspect
import sys
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

from gradreg_core import vocabulary
from gradreg_core.cli.arrays import read_json_file
from gradreg_core.cli.foreign import TIMEOUT, call, one_line, within
from gradreg_core.errors import DataFileError, GradregError, InputError
from gradreg_core.schema import from_dict
from gradreg_core.spec import Regularizer

__all__ = ["made", "parse_regularizer", "read_json", "resolve"]


def resolve(target: str, command: str = "validate", seconds: float = TIMEOUT) -> Any:
    """The object that "module:name" names, with the current directory on the path.

    Args:
        target: such as ``"models:network"``.
        command: the command that asks, for messages.
        seconds: that importing may take.

    Raises:
        InputError: the module cannot be imported, or has no such name.
    """
    module, colon, name = target.partition(":")
    if not (module and colon and name):
        raise InputError(f"{command}: expected module:name, such as models:network, got {target!r}.")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        with within(seconds, f"{command}: importing {module}"):
            return attrgetter(name)(import_module(module))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may exit, too
        raise InputError(
            f"{command}: {target!r} cannot be loaded: {one_line(error)}. Names are looked for from the "
            "current directory."
        ) from error


def read_json(path: str) -> Any:
    """The dict or list in a JSON file.

    Raises:
        DataFileError: it cannot be read, or holds something else.
    """
    names = read_json_file(path)
    if not isinstance(names, dict | list):
        raise DataFileError(f"{path}: expected a dict of names or a list of pairs, got {type(names).__name__}.")
    return names


def made(target: str, command: str, seconds: float = TIMEOUT) -> Any:
    """The object that `target` names, made if it names a class or a function without arguments.

    Args:
        target: "module:name".
        command: the command that asks, for messages.
        seconds: that importing and calling may take each.

    Raises:
        InputError: it cannot be loaded, or raises.
    """
    value = resolve(target, command, seconds)
    if not inspect.isclass(value) and not (inspect.isfunction(value) and not inspect.signature(value).parameters):
        return value
    return call(command, target, value, seconds)


def parse_regularizer(text: str, command: str = "validate") -> Regularizer:
    """A regularizer from its short form, such as ``DataGrad(0.1) + SpectReg(0.01, seed=3)``, or from a JSON file.

    Nothing is evaluated but calls of the names in :mod:`gradreg_core.vocabulary` with literal arguments.

    Args:
        text: the short form, or a path that ends in ``.json``.
        command: the command that asks, for messages.

    Raises:
        InputError: it is neither.
        SpecError: an argument of the regularizer is wrong.
    """
    if text.endswith(".json"):
        try:
            return from_dict(read_json(text))
        except RecursionError as error:
            raise DataFileError(f"{text}: the regularizer is nested too deeply.") from error
    try:
        reg = _build(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        if isinstance(error, GradregError):
            raise
        raise InputError(f"{command}: {text!r} is not a regularizer: {error}") from error
    if not isinstance(reg, Regularizer):
        raise InputError(f"{command}: {text!r} is not a regularizer such as SpectReg(0.01).")
    return reg


def _build(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _build(node.left) + _build(node.right)
    if not isinstance(node, ast.Call):
        return ast.literal_eval(node)
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    kind = getattr(vocabulary, name) if name in vocabulary.WORDS else None
    if not callable(kind):
        raise ValueError(f"{ast.unparse(node.func)} is not one of gradreg's words")
    named = {word.arg: _build(word.value) for word in node.keywords if word.arg is not None}
    if len(named) < len(node.keywords):
        raise ValueError("** is not allowed")
    return kind(*map(_build, node.args), **named)
