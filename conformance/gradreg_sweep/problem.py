"""A program in a framework, as functions of NumPy arrays."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from gradreg_sweep.compositions import mixed
from gradreg_sweep.operation import Program

__all__ = ["Problem"]


class Problem(ABC):
    """A program in a framework, as functions of its arrays by name (NumPy, x first).

    Gradients of the penalty are computed in the problem's mode, values and first derivatives in eager mode.

    Args:
        program: the program, which is run once for its arrays, f and w.
        mode: one of the framework's.
        dtype: of the program's arrays.
    """

    def __init__(self, program: Program, mode: str, dtype: str) -> None:
        self.names, self.mode, self.dtype = program.names, mode, dtype
        with self.context():
            namespace = program.run(dtype)
            self.f, self.w = namespace["f"], namespace["w"]
            layer = namespace.get("layer")
            variables = () if layer is None else self.layer_variables(layer)
            self.variables = {f"layer.{index}": variable for index, variable in enumerate(variables)}
            arrays = {name: namespace[name] for name in self.names} | self.variables
            self.arrays: dict[str, np.ndarray] = {name: self.to_numpy(array) for name, array in arrays.items()}

    def value(self, arrays: Mapping[str, np.ndarray]) -> float:
        """<w, f>."""
        with self.context():
            return float(self.weighted(*self.native(arrays)))

    def output(self, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, str]:
        """f, and the name of its dtype."""
        with self.context():
            result = self.f(*self.native(arrays))
            name = getattr(result.dtype, "name", str(result.dtype).removeprefix("torch."))
            return self.to_numpy(result), name

    def gradient(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """The gradient g = J^T w, of the shape of x; None if the framework returns none."""
        with self.context():
            gradient = self.first(*self.native(arrays))
            return None if gradient is None else self.to_numpy(gradient)

    def penalty_gradients(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray | None]:
        """The gradient of Q = ||g||^2 with respect to each array."""
        with self.context():
            gradients = zip(self.arrays, self.second(*self.native(arrays)), strict=True)
            return {name: None if gradient is None else self.to_numpy(gradient) for name, gradient in gradients}

    def pairings(
        self, composition: str, arrays: Mapping[str, np.ndarray], directions: Mapping[str, np.ndarray]
    ) -> dict[str, float | None]:
        """The mixed derivatives of <w, f> along v and along the direction of each array, by a composition of modes.

        Those of a layer's variables are left out.
        """
        with self.context():
            constants = self.constants(directions)
            numbers = self.mixed(composition, self.native(arrays), constants)
            pairs = zip(self.names, numbers, strict=True)
            return {name: None if number is None else float(number) for name, number in pairs}

    def curvature(self, arrays: Mapping[str, np.ndarray], v: np.ndarray) -> float:
        """The second derivative of <w, f> along v, by reverse mode twice."""
        with self.context():
            native, (constant, *_) = self.native(arrays), self.constants(dict.fromkeys(self.names, v))

            def pulled(*arrays: Any) -> Any:
                return self.inner(self.reverse(self.weighted, arrays)[0], constant)

            gradient = self.reverse(pulled, native)[0]
            return 0.0 if gradient is None else float(self.inner(gradient, constant))

    def mixed(self, composition: str, arrays: Sequence[Any], directions: Sequence[Any]) -> Sequence[Any]:
        """See :func:`gradreg_sweep.compositions.mixed`."""
        return mixed(composition, self, self.weighted, arrays, directions)

    def context(self) -> AbstractContextManager[Any]:
        """The context of every computation."""
        return nullcontext()

    def layer_variables(self, layer: Any) -> Iterable[Any]:
        """The variables of the operation's layer that are differentiated too."""
        return ()

    def to_numpy(self, array: Any) -> np.ndarray:
        """An array of the framework in float64."""
        return np.array(array, np.float64)

    @abstractmethod
    def native(self, arrays: Mapping[str, np.ndarray]) -> list[Any]:
        """The program's arrays in the framework; the variables of a layer are assigned."""

    @abstractmethod
    def constants(self, arrays: Mapping[str, np.ndarray]) -> list[Any]:
        """The same arrays as constants, in the order of the program's."""

    @abstractmethod
    def reverse(self, function: Callable[..., Any], arrays: Sequence[Any]) -> Sequence[Any]:
        """See :class:`gradreg_sweep.compositions.Modes`, as for the next three."""

    @abstractmethod
    def forward(self, function: Callable[..., Any], arrays: Sequence[Any], tangents: Sequence[Any]) -> Any: ...

    @abstractmethod
    def inner(self, one: Any, other: Any) -> Any: ...

    @abstractmethod
    def zero(self, array: Any) -> Any: ...

    @abstractmethod
    def weighted(self, *arrays: Any) -> Any:
        """<w, f>."""

    @abstractmethod
    def first(self, *arrays: Any) -> Any:
        """The gradient of `weighted` with respect to x."""

    @abstractmethod
    def second(self, *arrays: Any) -> Sequence[Any]:
        """The gradients of the sum of squares of `first` with respect to the arrays and the variables."""
