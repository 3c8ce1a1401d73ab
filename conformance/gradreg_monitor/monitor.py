"""A monitor for training in any loop and any framework."""

import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from gradreg_core.errors import InputTypeError
from gradreg_core.inputs import Inputs
from gradreg_core.plugins.dispatch import backend_of, load_backend
from gradreg_core.scalars import integer_option
from gradreg_core.spec import Regularizer
from gradreg_core.structures import flatten, read_once
from gradreg_monitor.evaluating import undisturbed, unwrapped
from gradreg_monitor.values import Options, Subject, always_charged

__all__ = ["Monitor", "Writer"]

Writer = Callable[[int, dict[str, float]], Any]
"""write(step, values)."""


class Monitor:
    """Records what a regularizer does to a model, on a fixed batch, at every n-th step.

    ::

        monitor = Monitor(x_valid, y_valid, SpectReg(0.01), every=100, writers=[CsvWriter("watch.csv")])
        for step in range(5000):
            ...                                # one training step, as usual
            monitor(model, step)
        plot(monitor.records)

    ========================== =====================================================================================
    recorded                   meaning
    ========================== =====================================================================================
    ``loss``                   the mean loss, without penalties
    ``penalty``                all terms, weights included; with several terms also ``penalty/SpectReg`` and so on
    ``jacobian/frobenius``     mean_i ||J_i||_F, as in `measure`
    ``jacobian/spectral``      the mean over i of the largest singular value of J_i
    ``jacobian/loss_gradient`` mean_i ||dM_i/dx_i||, if the batch has a loss
    ``gradient/share``         ||p|| / ||t||, p the penalty's gradient for the parameters, t the whole gradient
    ``gradient/cosine``        the cosine of p and t
    ========================== =====================================================================================

    The penalties show the average effect of `reg`: ``every=`` and ``fraction=`` are ignored. The draws are
    the step's. The monitor restores the model's state (moving statistics, counters, generators) and its modes,
    and the global generators of the framework, NumPy and Python.

    A record costs a forward pass, the backward passes of `measure` (one per output, or `projections`) and two gradients
    for the parameters. In JAX the first record takes some seconds, for compiling; later ones do not.

    Args:
        x: the input of the batch, a few hundred validation samples on the device of the model; any input of `loss`.
        y: labels. Without `y` and `loss_fn` there is no loss, as for critics, and ``gradient/penalty`` is ||p||.
        reg: the regularizer of the training; None to watch a training without one.
        every: record at steps divisible by this number.
        writers: called as ``write(step, values)`` at every record.
        jacobian: whether to record the norms of the Jacobian. With integer inputs, name a place by `at`, or leave
            them out.
        at: measure the Jacobian at this place of the network instead of the input, such as ``"embeddings"``.
        projections: estimate the Jacobian's norms from this many directions; for models with many outputs.
        gradients: whether to record the share of the penalty in the gradient.
        evaluation: whether to record PyTorch's and Flax NNX's modules in evaluation mode, also those that a
            function refers to. False keeps their mode. Functions set their own mode.
        backend: the framework, such as "torch", if `x` is a NumPy array.
        seed, loss_fn, outputs, sample_weight, position_weight, ignore_index, class_axis, target, chunk_size: as in
            training, see :class:`gradreg_core.calls.Calls`.

    Raises:
        InputTypeError: an argument is of the wrong type.
        InputError: `every` or `projections` is less than 1.
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        reg: Regularizer | None = None,
        *,
        every: int = 1,
        writers: Sequence[Writer] = (),
        jacobian: bool = True,
        at: str | None = None,
        projections: int | None = None,
        gradients: bool = True,
        evaluation: bool = True,
        backend: str | None = None,
        seed: Any = None,
        loss_fn: Callable[[Any, Any], Any] | None = None,
        outputs: Any = None,
        sample_weight: Any = None,
        position_weight: Any = None,
        ignore_index: int | None = None,
        class_axis: int | None = None,
        target: Any = None,
        chunk_size: int | None = None,
    ) -> None:
        if reg is not None and not isinstance(reg, Regularizer):
            raise InputTypeError(f"Monitor: reg must be a regularizer such as SpectReg(0.01), or None, got {reg!r}.")
        writers = [writers] if callable(writers) else list(writers)
        for writer in writers:
            if not callable(writer):
                raise InputTypeError(f"Monitor: a writer is called as write(step, values), got {writer!r}.")
        count = integer_option("Monitor", "every", every, minimum=1)
        if count is None:
            raise InputTypeError("Monitor: every must be an integer, got None.")
        self.x, self.y, self.reg, self.every, self.writers = x, y, reg, count, writers
        self.jacobian, self.at, self.gradients, self.evaluation = jacobian, at, gradients, evaluation
        self.projections = integer_option("Monitor", "projections", projections, minimum=1)
        self.records: list[dict[str, float]] = []
        """A dict per record, with ``step``, the values, and ``seconds``, the duration of the record."""
        self.backend = backend or backend_of(x)
        self.is_writing = True
        """Whether records go to the writers; False on all processes but one."""
        self._charged = always_charged(reg)
        self._options = Options(
            seed=seed,
            loss_fn=loss_fn,
            outputs=outputs,
            sample_weight=sample_weight,
            position_weight=position_weight,
            ignore_index=ignore_index,
            class_axis=class_axis,
            target=target,
            chunk_size=chunk_size,
        )

    def __call__(self, model: Any, step: Any, *, params: Any = None) -> dict[str, float] | None:
        """Record if the step is divisible by `every`.

        Args:
            model: the current model: a module, or a function that closes over parameters.
            step: the step of training.
            params: in JAX, the parameters that `model` closes over, for the gradients. Without them
                these are all floating-point arrays that it closes over.

        Returns:
            The values, or None at other steps.

        Raises:
            InputTypeError: the step is not an integer, or a program is being traced; or as `loss` and `measure`.
            InputError: as `loss` and `measure`.
        """
        number = _integer(step)
        if number % self.every:
            return None
        return self.record(model, number, params=params)

    def record(self, model: Any, step: int, *, params: Any = None) -> dict[str, float]:
        """Record now, at any step."""
        start = time.perf_counter()
        model, backend = unwrapped(model), load_backend(self.backend)
        subject = Subject(backend, model, self.x, self.y, self._charged, step, read_once(params), self._options)
        with undisturbed(model, self.evaluation):
            values = subject.penalties()
            if self.jacobian:
                values |= subject.norms(self.at, self.projections)
            if self.gradients:
                values |= subject.shares()
        self.records.append({"step": step, **values, "seconds": time.perf_counter() - start})
        for write in self.writers if self.is_writing else ():
            write(step, dict(values))
        return values

    def move(self, convert: Callable[[Any], Any], backend: str | None = None) -> None:
        """Convert the arrays of the batch, for example to the model's device.

        Args:
            convert: called with every array of `x`, `y` and the weights.
            backend: the framework of the converted arrays; None if it is the same.
        """
        names = ("sample_weight", "position_weight")
        weights = {name: _converted(convert, getattr(self._options, name)) for name in names}
        self._options = replace(self._options, **weights)
        self.x, self.y = _converted(convert, self.x), _converted(convert, self.y)
        self.backend = backend or self.backend

    def use_loss(self, loss_fn: Callable[[Any, Any], Any]) -> None:
        """Set the loss function, unless there is one."""
        if self._options.loss_fn is None:
            self._options = replace(self._options, loss_fn=loss_fn)


def _converted(convert: Callable[[Any], Any], structure: Any) -> Any:
    if isinstance(structure, Inputs):
        args, kwargs = _converted(convert, list(structure.args)), _converted(convert, structure.kwargs)
        return Inputs(*args, wrt=structure.wrt, **kwargs)
    leaves, rebuild = flatten(structure, lambda part: hasattr(part, "shape"))
    return rebuild([convert(leaf) if hasattr(leaf, "shape") else leaf for _, leaf in leaves])


def _integer(step: Any) -> int:
    try:
        return operator.index(step)
    except Exception as error:  # a tracer raises its framework's own error
        raise InputTypeError(
            f"Monitor: step must be an integer that can be read, got {step!r}. Call the monitor between the steps, "
            f"outside jax.jit, tf.function and torch.compile."
        ) from error
