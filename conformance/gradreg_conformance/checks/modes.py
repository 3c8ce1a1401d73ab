"""L5: every way to run gives the same numbers: compiled, transformed, split over devices, without gradients.

The same as the plain way, which the earlier layers compare with the reference.
"""

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gradreg_conformance import reference
from gradreg_conformance.cases import Case
from gradreg_conformance.check import Disagreement, NotApplicable, check
from gradreg_conformance.forms import Form
from gradreg_conformance.harness import Arrays, Function
from gradreg_conformance.strategies import SMALL, cases
from gradreg_conformance.subject import Subject
from gradreg_core.portable.networks import (
    Activation,
    AvgPool,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    LayerNorm,
    MaxPool,
    Network,
)
from gradreg_core.presets import ConfidencePenalty, DataGrad, SpectReg
from gradreg_core.projections import direction
from gradreg_core.spec import JacobianPenalty, Regularizer

_CONVOLUTIONAL = Network(
    (4, 4, 1), (Conv2D(2, 3, "same"), Activation("tanh"), MaxPool(2), AvgPool(2), Flatten(), LayerNorm(0.1), Dense(3))
)


_DENSE = Network((3, 2), (Dropout(), Dense(2), Activation("tanh"), Dense(3)))
_TYPES = {"step": "int32", "seed": "int64"}
"""Of options that are arrays."""
_LEAVES = ((2,), (), (1, 3))
_WEIGHTS = ((0.5, 0.0, 2.0), (0.0, 0.0, 0.0), (1.0, 1.0, 0.25), (0.0, 3.0, 0.0))
_FORMS: tuple[tuple[Form, Regularizer, dict[str, Any]], ...] = (
    (
        Form("arguments", _LEAVES, wrt=(0, 2), counts="leaf", returns="path", taps="each"),
        DataGrad(1.0) + SpectReg(1.0, at="1") + SpectReg(1.0, of="2", at="0", seed=1) + ConfidencePenalty(1.0),
        {"position_weight": _WEIGHTS},
    ),
    (
        Form("dict", _LEAVES, counts="closure", returns="object", taps="shared"),
        SpectReg(1.0, at="2", fraction=0.5),
        {"ignore_index": -100},
    ),
)


def _passed(subject: Subject, case: Case, of: str = "total") -> tuple[Function, Arrays]:
    """Loss plus penalty of the case as a function of everything, labels, step and seed too; and its arguments."""
    calls, options = subject.harness.calls, subject.options(case)
    arrays = subject.arrays(case) | {"y": subject.labels(case), "step": subject.array(case.step, "int32")}

    def function(arrays: Arrays) -> Any:
        weights = {path: arrays[path] for path in case.network.weights()}
        chosen = options | {"params": weights, "step": arrays["step"]}
        if "seed" in arrays:
            chosen["seed"] = arrays["seed"]
        call = calls.penalty if of == "penalty" else calls.loss
        result = call(subject.model(case.network, arrays), arrays["x"], arrays["y"], case.reg, **chosen)
        return result if of == "penalty" else result[0]

    return function, arrays


def _numbers(subject: Subject, slopes: Mapping[str, Any], case: Case) -> dict[str, np.ndarray]:
    return {name: subject.numbers(slopes[name]) for name in (*case.network.weights(), "x")}


def _dtype(subject: Subject, mode: str) -> str:
    """The most precise of the dtypes that the mode is tested in."""
    return subject.harness.dtypes_of_mode.get(mode, subject.harness.dtypes)[0]


def _plain_value(subject: Subject, case: Case, of: str = "penalty") -> reference.Expected:
    """The result in the first mode, and the room that rounding has."""
    plain = subject.in_mode(subject.harness.modes[0])
    return replace(reference.expected_value(case, of), arrays={"value": plain.value(case, of)})


def _plain_gradient(subject: Subject, case: Case, of: str = "penalty") -> reference.Expected:
    plain = subject.in_mode(subject.harness.modes[0])
    return replace(reference.expected_gradient(case, of), arrays=plain.gradients(case, of)[1])


@check("modes")
def every_mode_equals_the_first(subject: Subject) -> None:
    """Loss plus penalty and its gradients are in every further mode what they are in the first, on two networks."""
    further = subject.harness.modes[1:]
    if not further:
        raise NotApplicable(f"there is one mode only, {subject.mode!r}")
    networks: list[tuple[Network, Regularizer]] = [(SMALL, SpectReg(0.3, seed=1)), (SMALL, SpectReg(0.3, side="input"))]
    if {type(layer) for layer in _CONVOLUTIONAL.layers} <= subject.harness.layers:
        networks.append((_CONVOLUTIONAL, DataGrad(1.5)))
    for network, reg in networks:
        # An even batch, which can be split over two devices.
        @subject.given(cases(subject.harness, st.just(reg), st.just(network), batch=(2, 2)), cost=5)
        def _(case):  # type: ignore[no-untyped-def]
            for mode in further:
                one, chosen = subject.in_mode(mode), replace(case, dtype=_dtype(subject, mode))
                function, arrays = _passed(one, chosen)
                value, slopes = subject.harness.value_and_gradients(function, arrays, mode)
                one.compare(
                    chosen, "the total", {"value": subject.numbers(value)}, _plain_value(subject, chosen, "total")
                )
                wanted = _plain_gradient(subject, chosen, "total")
                one.compare(chosen, "the gradients of the total", _numbers(one, slopes, case), wanted)


@check("modes")
def forms_in_every_mode(subject: Subject) -> None:
    """Nested inputs, selected outputs, places and weights of positions, all in one call, are right in every mode."""
    further = subject.harness.modes[1:]
    if not further:
        raise NotApplicable(f"there is one mode only, {subject.mode!r}")

    @subject.given(cases(subject.harness, st.just(_FORMS[0][1]), st.just(_DENSE), batch=(4, 4)), st.booleans(), cost=5)
    def _(case, swapped):  # type: ignore[no-untyped-def]
        for index, mode in enumerate(further):
            form, reg, options = _FORMS[(index + swapped) % 2]  # one for each mode, since compilers take their time
            chosen = replace(case, form=form, reg=reg, class_axis=-1, dtype=_dtype(subject, mode), **options)
            subject.in_mode(mode).agree_in_total(chosen)


def _as_arrays(subject: Subject, reg: Regularizer, option: str, values: tuple[int, ...]) -> None:
    """Compare the penalty at `values` of an option, passed as arrays, with that at the same numbers, in every mode.

    In compiled modes the function is compiled once for all values.
    """

    @subject.given(cases(subject.harness, st.just(reg), st.just(SMALL), batch=(2, 2)), cost=5)
    def _(case):  # type: ignore[no-untyped-def]
        for mode in subject.harness.modes:
            one = subject.in_mode(mode)
            _in_one_mode(one, replace(case, dtype=_dtype(one, mode)), option, values)


def _in_one_mode(subject: Subject, case: Case, option: str, values: tuple[int, ...]) -> None:
    function, arrays = _passed(subject, case, "penalty")
    ready = subject.harness.compiled(function, subject.mode)
    for value in values:
        given = {**arrays, option: subject.array(value, _TYPES[option])}
        result = subject.harness.value(function, given, subject.mode) if ready is None else ready[0](given)
        wanted = replace(case, step=value) if option == "step" else replace(case, draw_seed=value)
        label = f"the penalty, its {option} an array,"
        subject.compare(wanted, label, {"value": subject.numbers(result)}, _plain_value(subject, wanted))
    if ready is not None and (count := ready[1]()) != 1:
        raise Disagreement(
            f"in mode {subject.mode!r} the penalty was compiled {count} times for {option} = {values}, which came as "
            f"arrays: their values should not matter to the compiler.{subject.reproduce(case)}"
        )


@check("modes")
def draws_at_a_traced_step(subject: Subject) -> None:
    """A step that is an array gives the draws of the int, in every mode, from one compilation for all steps."""
    _as_arrays(subject, SpectReg(1.0, seed=2), "step", (0, 1, 2**31 - 1))


@check("modes")
def draws_of_a_traced_seed(subject: Subject) -> None:
    """seed= that is an array gives the draws of the int, in every mode, from one compilation for all seeds."""
    _as_arrays(subject, SpectReg(1.0, fraction=0.5), "seed", (0, 1, 2**40 + 3))


@check("modes")
def every_at_a_traced_step(subject: Subject) -> None:
    """every=n holds for a step that is an array, in every mode: the penalty is 0 where it is not due."""
    _as_arrays(subject, DataGrad(1.0, every=3), "step", (3, 4))


@check("modes")
def schedules_at_a_traced_step(subject: Subject) -> None:
    """A schedule that is made of the framework's operations gets the step that is an array, in every mode."""
    ops = subject.ops

    def schedule(step: Any) -> Any:
        return 0.5 * ops.astype(step, "float32") + 1.0 if ops.is_array(step) else 0.5 * step + 1.0

    _as_arrays(subject, DataGrad(schedule), "step", (0, 5))


@check("modes")
def arguments_that_are_read_only(subject: Subject) -> None:
    """Labels, sample numbers, weights and directions may be NumPy arrays that cannot be written to."""
    given = {"ids": st.just((4, 5)), "sample_weight": st.just((1.0, 0.5)), "directions": st.just("sample")}
    regs = st.just(JacobianPenalty(1.0, projection=direction()) + DataGrad(1.0))

    @subject.given(
        cases(subject.harness, regs, st.just(SMALL), batch=(2, 2), labels=st.just("distribution"), **given), cost=2
    )
    def _(case):  # type: ignore[no-untyped-def]
        options = subject.options(case)
        fixed = {
            "sample_ids": np.array(case.ids),
            "sample_weight": np.array(case.sample_weight, case.dtype),
            "directions": np.array(case.data.directions, case.dtype),
            "y": np.array(case.data.y, case.dtype),
        }
        for array in fixed.values():
            array.setflags(write=False)

        def function(arrays: Arrays) -> Any:
            model = subject.model(case.network, arrays)
            return subject.harness.calls.penalty(model, arrays["x"], reg=case.reg, **(options | fixed))

        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            result = subject.harness.value(function, subject.arrays(case), subject.mode)
        numbers = {"value": subject.numbers(result)}
        subject.compare(case, "the penalty with read-only arguments", numbers, _plain_value(subject, case))


@check("modes")
def inputs_in_any_order_of_memory(subject: Subject) -> None:
    """An input whose axes lie in memory in another order gives the same penalty and gradients."""
    ops = subject.ops

    @subject.given(cases(subject.harness, st.just(DataGrad(1.0)), st.just(SMALL), batch=(2, 2)), cost=2)
    def _(case):  # type: ignore[no-untyped-def]
        function = subject.function(case)
        arrays = subject.arrays(case) | {
            "x": subject.array(np.ascontiguousarray(np.moveaxis(case.data.x, 0, -1)), case.dtype)
        }

        def moved(arrays: Arrays) -> Any:
            return function({**arrays, "x": ops.moveaxis(arrays["x"], -1, 0)})

        _, slopes = subject.harness.value_and_gradients(moved, arrays, subject.mode)
        numbers = _numbers(subject, slopes, case)
        numbers["x"] = np.moveaxis(numbers["x"], -1, 0)
        wanted = _plain_gradient(subject, case)
        subject.compare(case, "the gradients with respect to a transposed input", numbers, wanted)


@check("modes")
def values_where_nothing_is_differentiated(subject: Subject) -> None:
    """The loss with its penalty has its value, and measure works, in the framework's mode without gradients."""
    if subject.harness.no_gradient() is None:
        raise NotApplicable("the harness has no mode without gradients")

    @subject.given(cases(subject.harness, st.just(DataGrad(1.0)), st.just(SMALL), batch=(2, 2)), cost=2)
    def _(case):  # type: ignore[no-untyped-def]
        arrays, y = subject.arrays(case), subject.labels(case)

        def measured() -> dict[str, np.ndarray]:
            measures = subject.harness.calls.measure(subject.model(case.network, arrays), arrays["x"], y)
            return {name: subject.numbers(norms) for name, norms in measures._asdict().items() if norms is not None}

        with subject.harness.no_gradient() or nullcontext():
            value, norms = subject.value(case, "total"), measured()
        subject.compare(case, "the total", {"value": value}, _plain_value(subject, case, "total"))
        wanted = replace(reference.expected_measures(case), arrays=measured())
        subject.compare(case, "the norms of measure", norms, wanted)
