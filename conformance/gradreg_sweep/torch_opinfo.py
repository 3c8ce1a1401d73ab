"""PyTorch's own list of operations, with the samples of its tests, as operations of the sweep."""

import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from hypothesis import strategies as st

from gradreg_sweep.operation import Configuration, Operation, Program, Syntax
from gradreg_sweep.precision import rounded
from gradreg_sweep.torch_ops import OPERATIONS

__all__ = ["SampledOperation", "listed_operations", "operations"]

_SMALL, _LARGEST, _SAMPLES = 40, 1000, 6
"""Numbers in a sample's arrays, the same if an operation has no sample that small, and samples per operation."""
_UNSUITED = re.compile(
    r"(.*\.)?(normal|.*dropout.*|multi_head_attention_forward|ceil|floor|round|trunc|sign|sgn|as_strided.*|empty.*"
    r"|max_unpool.*|bfloat16|half|float|cfloat|chalf|native_.*|zero_|to_sparse)"
)
"""Names of operations whose samples cannot be judged by differences."""
_F = """def f({arguments}):
    torch.manual_seed(0)
    result = {call}
    parts = torch.utils._pytree.tree_leaves(result)
    parts = [torch.view_as_real(part) if part.is_complex() else part for part in parts if torch.is_tensor(part)]
    return {after}"""
_PARTS = "torch.cat([part.flatten() for part in parts if part.is_floating_point()])"


@dataclass(frozen=True)
class SampledOperation(Operation):
    """An operation with samples of its arguments in place of drawn shapes; see :class:`Operation`."""

    info: Any = None
    """PyTorch's record."""

    @cached_property
    def samples(self) -> list[Any]:
        """Small samples, spread over all that there are; the two smallest if there are none."""
        drawn = self.info.sample_inputs("cpu", torch.float64, requires_grad=True)
        suited = [sample for sample in drawn if _suited(sample)]
        small = [sample for sample in suited if _count(sample) <= _SMALL]
        step = max(1, -(-len(small) // _SAMPLES))
        return small[::step] or sorted(filter(lambda sample: _count(sample) <= _LARGEST, suited), key=_count)[:2]

    def configurations(self, mode: str) -> st.SearchStrategy[dict[str, Any]]:
        numbers = st.integers(0, max(0, len(self.samples) - 1))
        dtypes = st.sampled_from(self.dtypes.get(mode, ("float64",)))
        return st.fixed_dictionaries({"sample": numbers, "dtype": dtypes, "bare": st.just(True), "seed": st.just(0)})

    def usual(self, mode: str) -> dict[str, Any]:
        return {"sample": 0, "dtype": self.dtypes.get(mode, ("float64",))[0], "bare": True, "seed": 0}

    def input_shape(self, configuration: Configuration) -> tuple[int, ...]:
        return tuple(self.samples[configuration["sample"]].input.shape)

    def program(self, configuration: Configuration, syntax: Syntax) -> Program:
        return _SampledProgram(self, configuration, syntax)


@dataclass(frozen=True)
class _SampledProgram(Program):
    """A call with the arguments of one sample; all floating-point arrays that take a gradient are differentiated."""

    operation: SampledOperation

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._call("float64")[1])

    def _call(self, dtype: str) -> tuple[str, dict[str, str]]:
        """The call, and the arrays that are differentiated, in a dtype."""
        sample = self.operation.samples[self.configuration["sample"]]
        arrays: dict[str, str] = {}

        def literal(value: torch.Tensor) -> str:
            if not (self.low and value.is_floating_point()):
                return _literal(value, value.dtype)
            return _literal(torch.from_numpy(rounded(value.detach().numpy())), f"torch.{dtype}")

        def written(value: Any) -> str:
            if torch.is_tensor(value):
                if value.requires_grad and value.is_floating_point():
                    name = f"a{len(arrays)}" if arrays else "x"
                    arrays[name] = literal(value)
                    return name
                return literal(value)
            if isinstance(value, list | tuple) and type(value) in (list, tuple):
                parts = "".join(f"{written(part)}, " for part in value)
                return f"[{parts}]" if isinstance(value, list) else f"({parts})"
            return str(value) if isinstance(value, torch.dtype | torch.memory_format) else repr(value)

        arguments = [written(value) for value in (sample.input, *sample.args)]
        arguments += [f"{name}={written(value)}" for name, value in sample.kwargs.items()]
        return f"{self.operation.code}({', '.join(arguments)})", arrays

    def lines(self, dtype: str, after: str) -> str:
        call, arrays = self._call(dtype)
        lines = ["rng = np.random.default_rng(0)"]
        lines += [f"{name} = {array}.requires_grad_()" for name, array in arrays.items()]
        arguments = ", ".join(arrays)
        values = self._drawn(f"rng.normal(size=f({arguments}).shape)")
        weight = self.syntax.weight.format(values=values, dtype=dtype)
        return "\n".join(
            [
                *lines,
                "",
                "",
                _F.format(arguments=arguments, call=call, after=after.format(code=_PARTS)),
                "",
                "",
                f"w = {weight}",
            ]
        )


def _literal(array: torch.Tensor, dtype: Any) -> str:
    return f"torch.tensor({array.detach().tolist()!r}, dtype={dtype})"


def _leaves(sample: Any) -> list[Any]:
    return list(torch.utils._pytree.tree_leaves((sample.input, sample.args, sample.kwargs)))


def _count(sample: Any) -> int:
    """The numbers in a sample's arrays."""
    return sum(leaf.numel() for leaf in _leaves(sample) if torch.is_tensor(leaf))


def _suited(sample: Any) -> bool:
    """Whether a sample can be written down, and has an array to differentiate first."""
    leaves = _leaves(sample)
    arrays = [leaf for leaf in leaves if torch.is_tensor(leaf)]
    differentiated = [array for array in arrays if array.requires_grad and array.is_floating_point()]
    dense = all(array.layout == torch.strided for array in arrays)
    plain = all(not callable(leaf) and not isinstance(leaf, slice | torch.Generator) for leaf in leaves)
    return dense and plain and bool(differentiated) and differentiated[0].numel() > 0


def _named(name: str) -> str | None:
    """The name under which users call an operation: a function of torch, or a method of a tensor."""
    for owner, prefix in ((torch, "torch"), (torch.Tensor, "torch.Tensor")):
        value: Any = owner
        for part in name.split("."):
            value = getattr(value, part, None)
        if callable(value):
            return f"{prefix}.{name}"
    return None


@cache
def operations() -> tuple[Operation, ...]:
    """All operations of PyTorch's list; empty if its test modules are not installed."""
    try:
        from torch.testing._internal.common_methods_invocations import op_db
    except ImportError:
        return ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about samples that are not used
        return tuple(listed_operations(op_db))


def listed_operations(records: Iterable[Any]) -> Iterator[Operation]:
    """Operations of PyTorch's records that have no name of :data:`~gradreg_sweep.torch_ops.OPERATIONS`."""
    known = {operation.name for operation in OPERATIONS}
    for info in records:
        name = f"torch.{info.name}" + (f", {info.variant_test_name}" if info.variant_test_name else "")
        if name in known:
            continue
        known.add(name)
        code = _named(info.name)
        sampled = SampledOperation(name, code or "", borrowed=True, info=info)
        if code is None:
            yield Operation(name, "", untried="users do not call it by that name")
        elif not (info.supports_autograd and torch.float64 in info.supported_backward_dtypes("cpu")):
            yield Operation(name, "", untried="PyTorch lists it without a derivative in float64 on a CPU")
        elif info.gradcheck_wrapper.__name__ != "<lambda>":
            yield Operation(name, "", untried="PyTorch differentiates it for arguments of some structure only")
        elif _UNSUITED.fullmatch(info.name):
            yield Operation(name, "", untried="it is random, rounds, or depends on the layout of memory")
        elif not sampled.samples:
            yield Operation(name, "", untried="PyTorch's list has no small dense sample to differentiate")
        else:
            yield sampled
