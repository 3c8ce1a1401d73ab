"""PyTorch under the sweep: `create_graph=True`, or `torch.func`, and nothing else."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad

from gradreg_sweep.compositions import THIRD
from gradreg_sweep.framework import Framework
from gradreg_sweep.operation import Syntax
from gradreg_sweep.problem import Problem
from gradreg_sweep.torch_opinfo import operations
from gradreg_sweep.torch_ops import OPERATIONS

__all__ = ["FRAMEWORK"]


class _TorchProblem(Problem):
    """The second derivatives are those of `torch.func` in the modes "func" and "compile"."""

    def layer_variables(self, layer: Any) -> Sequence[torch.Tensor]:
        return tuple(layer.parameters()) if self.mode == "eager" else ()

    def to_numpy(self, array: torch.Tensor) -> np.ndarray:
        return np.array(array.detach().double().numpy())

    def native(self, arrays: Mapping[str, np.ndarray]) -> list[torch.Tensor]:
        with torch.no_grad():
            for name, variable in self.variables.items():
                variable.copy_(torch.as_tensor(arrays[name]))
        dtype = getattr(torch, self.dtype)
        return [torch.tensor(arrays[name], dtype=dtype, requires_grad=True) for name in self.names]

    def constants(self, arrays: Mapping[str, np.ndarray]) -> list[torch.Tensor]:
        return [torch.tensor(arrays[name], dtype=getattr(torch, self.dtype)) for name in self.names]

    def reverse(self, function: Callable[..., Any], arrays: Sequence[Any]) -> Sequence[Any]:
        if self.mode != "eager":
            return torch.func.grad(function, tuple(range(len(arrays))))(*arrays)
        value = function(*arrays)
        if not value.requires_grad:
            return [None] * len(arrays)
        return torch.autograd.grad(value, arrays, create_graph=True, allow_unused=True)

    def forward(self, function: Callable[..., Any], arrays: Sequence[Any], tangents: Sequence[Any]) -> Any:
        if self.mode != "eager":
            return torch.func.jvp(function, tuple(arrays), tuple(tangents))[1]
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(array, tangent) for array, tangent in zip(arrays, tangents, strict=True)]
            tangent = forward_ad.unpack_dual(function(*duals)).tangent
        return torch.zeros(()) if tangent is None else tangent

    def inner(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return (one * other).sum()

    def zero(self, array: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(array)

    def mixed(self, composition: str, arrays: Sequence[Any], directions: Sequence[Any]) -> Sequence[Any]:
        if self.mode == "eager":
            return super().mixed(composition, arrays, directions)
        arrays = [array.detach() for array in arrays]

        def compute(*arrays: torch.Tensor) -> Sequence[Any]:
            return super(_TorchProblem, self).mixed(composition, arrays, directions)

        return (torch.compile(compute) if self.mode == "compile" else compute)(*arrays)

    def weighted(self, *arrays: torch.Tensor) -> torch.Tensor:
        return (self.w * self.f(*arrays)).sum()

    def first(self, *arrays: torch.Tensor) -> torch.Tensor | None:
        return torch.autograd.grad(self.weighted(*arrays), arrays[0], allow_unused=True)[0]

    def second(self, *arrays: torch.Tensor) -> Sequence[torch.Tensor | None]:
        if self.mode != "eager":
            return self._transformed(*[array.detach() for array in arrays])
        (g,) = torch.autograd.grad(self.weighted(*arrays), arrays[0], create_graph=True)
        sources = [*arrays, *self.variables.values()]
        return (
            torch.autograd.grad((g**2).sum(), sources, allow_unused=True) if g.requires_grad else [None] * len(sources)
        )

    @cached_property
    def _transformed(self) -> Callable[..., Sequence[torch.Tensor]]:
        def square(*arrays: torch.Tensor) -> torch.Tensor:
            return (torch.func.grad(self.weighted)(*arrays) ** 2).sum()

        second = torch.func.grad(square, tuple(range(len(self.names))))
        return torch.compile(second) if self.mode == "compile" else second


_ENDING = """\
{% set graph = "" if first else ", create_graph=True" %}
{% set g = "torch.autograd.grad((w * f(" ~ arguments ~ ")).sum(), x" ~ graph ~ ")[0]" %}
{% if first and not numbers %}
print({{ g }})
{% elif first %}
g = {{ g }}  # J^T w
v = torch.tensor(rng.normal(size=x.shape))
ends = [(w * f({{ moved }})).sum().item() for t in (1e-4, -1e-4)]
print("PyTorch: ", (v * g).sum().item(), " differences:", (ends[0] - ends[1]) / 2e-4)
{% else %}
def q({{ arguments }}):  # ||J^T w||^2
{% if mode == "eager" %}
    return ({{ g }} ** 2).sum()


(second,) = torch.autograd.grad(q({{ arguments }}), {{ target }}, allow_unused=True)
{% else %}
    return (torch.func.grad(lambda {{ arguments }}: (w * f({{ arguments }})).sum())({{ arguments }}) ** 2).sum()


{% set second = "torch.func.grad(q, %s)" % index %}
second = {{ "torch.compile(%s)" % second if mode == "compile" else second }}({{ arguments }})
{% endif %}
{% if not numbers %}
print(second)
{% else %}
v = torch.tensor(rng.normal(size={{ target }}.shape))
{% if variable %}
ends = []
for t in ({{ step }}, -{{ step }}):
    {{ target }}.data.add_(t * v)
    ends.append(q({{ arguments }}).item())
    {{ target }}.data.sub_(t * v)
{% else %}
ends = [q({{ moved }}).item() for t in ({{ step }}, -{{ step }})]
{% endif %}
print("PyTorch: ", (v * second).sum().item(), " differences:", (ends[0] - ends[1]) / {{ twice }})
{% endif %}
{% endif %}"""

_DERIVATIVES = """\
{% set label = "PyTorch" %}
{% macro constant(values) %}torch.tensor({{ values }}){% endmacro %}
{% macro typed(values) %}torch.tensor({{ values }}, dtype=dtype){% endmacro %}
{% macro total(array) %}({{ array }}).sum(){% endmacro %}
{% macro plain(number) %}{{ number }}.item(){% endmacro %}
{% macro compiled(function) %}
{{- "torch.compile(%s)" % function if mode == "compile" else function }}
{%- endmacro %}
{% set forward %}
{% if mode == "eager" %}
    with torch.autograd.forward_ad.dual_level():
        moved = function(torch.autograd.forward_ad.make_dual(array, tangent))
        tangent = torch.autograd.forward_ad.unpack_dual(moved).tangent
        return torch.zeros(()) if tangent is None else tangent
{% else %}
    return torch.func.jvp(function, (array,), (tangent,))[1]
{% endif %}
{% endset %}
{% set reverse %}
{% if mode == "eager" %}
    value = function(array)
    known = value.requires_grad
    return torch.autograd.grad(value, array, create_graph=True, allow_unused=True)[0] if known else None
{% else %}
    return torch.func.grad(function)(array)
{% endif %}
{% endset %}
"""

FRAMEWORK = Framework(
    name="torch",
    version=f"PyTorch {torch.__version__}",
    modes=("eager", "func", "compile"),
    slow=("compile",),
    examples=16,
    syntax=Syntax(
        imports="import numpy as np\nimport torch",
        array="torch.tensor({values}, dtype=torch.{dtype}, requires_grad=True)",
        before="torch.tanh(x @ A)",
        after="torch.sin({code})",
        weight="torch.tensor({values}, dtype=torch.{dtype})",
        dtype="torch.{dtype}",
        same="state = layer.state_dict() if dtype == {first} else state\n_ = layer.load_state_dict(state)",
        seeded="_ = torch.manual_seed(0)",
        variable="[*layer.parameters()][{index}]",
    ),
    operations=OPERATIONS,
    problem=_TorchProblem,
    ending=_ENDING,
    derivatives=_DERIVATIVES,
    missing={"eager": ("forward-forward", THIRD[0])},  # dual levels do not nest
    enumerated=operations,
)
