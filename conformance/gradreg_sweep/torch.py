"""PyTorch under the sweep: `create_graph=True`, or `torch.func`, and nothing else."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch

from gradreg_sweep.operation import Operation, Program, Syntax
from gradreg_sweep.torch_ops import OPERATIONS
from gradreg_sweep.verdict import Verdict

__all__ = ["FRAMEWORK", "Torch"]


class Torch:
    """See :class:`gradreg_sweep.search.Framework`."""

    name = "torch"
    title = "PyTorch"
    modes = ("eager", "func", "compile")
    examples = 16
    slow = ("compile",)
    syntax = Syntax(
        imports="import numpy as np\nimport torch",
        array="torch.tensor({values}, dtype=torch.{dtype}, requires_grad=True)",
        before="torch.tanh(x @ A)",
        after="torch.sin({code})",
        weight="torch.tensor({values}, dtype=torch.{dtype})",
        seeded="_ = torch.manual_seed(0)",
    )
    operations: tuple[Operation, ...] = OPERATIONS

    def version(self) -> str:
        """PyTorch's."""
        return f"PyTorch {torch.__version__}"

    def problem(self, program: Program, mode: str, dtype: str) -> "TorchProblem":
        """The program, its second derivatives by `torch.func` in the modes "func" and "compile"."""
        return TorchProblem(program, mode, dtype)

    def ending(self, program: Program, mode: str, verdict: Verdict) -> str:
        """The gradient twice, and a central difference."""
        arguments = ", ".join(program.names)
        variable = verdict.array.startswith("layer.")
        target = verdict.array if not variable else f"[*layer.parameters()][{verdict.array.partition('.')[2]}]"
        first = f"torch.autograd.grad((w * f({arguments})).sum(), x, create_graph=True)[0]"
        if verdict.kind == "first derivative":
            if verdict.detail and verdict.detail != "NaN":
                return f"print({first})"
            at = ", ".join(name + (" + t * v" if name == "x" else "") for name in program.names)
            return "\n".join(
                [
                    f"g = {first}  # J^T w",
                    "v = torch.tensor(rng.normal(size=x.shape))",
                    f"ends = [(w * f({at})).sum().item() for t in (1e-4, -1e-4)]",
                    'print("PyTorch: ", (v * g).sum().item(), " differences:", (ends[0] - ends[1]) / 2e-4)',
                ]
            )
        if mode == "eager":
            lines = [
                f"def q({arguments}):  # ||J^T w||^2",
                f"    return ({first} ** 2).sum()",
                "",
                "",
                f"(second,) = torch.autograd.grad(q({arguments}), {target}, allow_unused=True)",
            ]
        else:
            wrap = "torch.compile({})" if mode == "compile" else "{}"
            inner = f"torch.func.grad(lambda {arguments}: (w * f({arguments})).sum())({arguments})"
            index = program.names.index(verdict.array)
            lines = [
                f"def q({arguments}):  # ||J^T w||^2",
                f"    return ({inner} ** 2).sum()",
                "",
                "",
                f"second = {wrap.format(f'torch.func.grad(q, {index})')}({arguments})",
            ]
        if verdict.kind in ("raises", "None", "NaN"):
            return "\n".join([*lines, "print(second)"])
        step = "1e-2" if verdict.single else "1e-4"
        lines.append(f"v = torch.tensor(rng.normal(size={target}.shape))")
        if variable:
            lines += [
                "ends = []",
                f"for t in ({step}, -{step}):",
                f"    {target}.data.add_(t * v)",
                f"    ends.append(q({arguments}).item())",
                f"    {target}.data.sub_(t * v)",
            ]
        else:
            wide = program.configuration["dtype"] == "float32"
            at = ", ".join(
                (f"{name}.double()" if wide else name) + (" + t * v" if name == target else "")
                for name in program.names
            )
            lines.append(f"ends = [q({at}).item() for t in ({step}, -{step})]")
        lines.append(
            f'print("PyTorch: ", (v * second).sum().item(), " differences:", (ends[0] - ends[1]) / {2 * float(step):g})'
        )
        return "\n".join(lines)


class TorchProblem:
    """See :class:`gradreg_sweep.verdict.Problem`."""

    def __init__(self, program: Program, mode: str, dtype: str) -> None:
        self.names, self.mode, self.dtype = program.names, mode, getattr(torch, dtype)
        namespace = program.run(dtype)
        self.f: Callable[..., Any] = namespace["f"]
        self.w = namespace["w"]
        layer = namespace.get("layer") if mode == "eager" else None
        self.variables = {} if layer is None else {f"layer.{i}": each for i, each in enumerate(layer.parameters())}
        self.arrays = {name: _numpy(namespace[name]) for name in self.names}
        self.arrays |= {name: _numpy(each) for name, each in self.variables.items()}

    def _tensors(self, arrays: Mapping[str, np.ndarray]) -> list[torch.Tensor]:
        with torch.no_grad():
            for name, variable in self.variables.items():
                variable.copy_(torch.as_tensor(arrays[name]))
        return [torch.tensor(arrays[name], dtype=self.dtype, requires_grad=True) for name in self.names]

    def _value(self, *tensors: torch.Tensor) -> torch.Tensor:
        return (self.w * self.f(*tensors)).sum()

    def value(self, arrays: Mapping[str, np.ndarray]) -> float:
        """<w, f>."""
        with torch.no_grad():
            return float(self._value(*self._tensors(arrays)))

    def gradient(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """J^T w by autograd."""
        tensors = self._tensors(arrays)
        (found,) = torch.autograd.grad(self._value(*tensors), tensors[0], allow_unused=True)
        return None if found is None else _numpy(found)

    def _square(self, *tensors: torch.Tensor) -> torch.Tensor:
        square: torch.Tensor = (torch.func.grad(self._value)(*tensors) ** 2).sum()
        return square

    @cached_property
    def _seconds(self) -> Callable[..., Any]:
        second = torch.func.grad(self._square, tuple(range(len(self.names))))
        return torch.compile(second) if self.mode == "compile" else second  # type: ignore[no-any-return]

    def penalty_gradients(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray | None]:
        """In the problem's mode."""
        tensors = self._tensors(arrays)
        if self.mode != "eager":
            found = self._seconds(*[each.detach() for each in tensors])
        else:
            (g,) = torch.autograd.grad(self._value(*tensors), tensors[0], create_graph=True)
            everything = [*tensors, *self.variables.values()]
            if not g.requires_grad:
                found = [None] * len(everything)
            else:
                found = torch.autograd.grad((g**2).sum(), everything, allow_unused=True)
        names = [*self.names, *self.variables]
        return {name: None if each is None else _numpy(each) for name, each in zip(names, found, strict=True)}


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return np.array(tensor.detach().numpy(), np.float64)


FRAMEWORK = Torch()
