"""Calls leave nothing behind: no gradient, no history where none is kept, no place that another call sees."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

from gradreg_conformance.cases import Case
from gradreg_conformance.check import Disagreement, NotApplicable, check
from gradreg_conformance.strategies import SMALL
from gradreg_conformance.subject import Subject
from gradreg_core.presets import DataGrad, SpectReg
from gradreg_core.projections import gaussian
from gradreg_core.spec import JacobianPenalty
from gradreg_core.taps import tap

_REGS = (
    DataGrad(1.0) + SpectReg(1.0, fraction=0.5),
    SpectReg(1.0, side="input", projections=2),
    SpectReg(1.0, side="input", method="difference", h=1.0),
)


class _BrokenModelError(Exception):
    """Raised by a model."""


_SECONDS = 60.0
"""More than a call takes, on a machine that does much else."""


@check("laws")
def calls_leave_no_gradient_behind(subject: Subject) -> None:
    """No call leaves a gradient or a history on the arrays that it is given."""
    subject.need_any_callable()
    traces, calls = subject.harness.traces, subject.harness.calls
    if traces(subject.array(1.0, subject.dtype)) is None:
        raise NotApplicable("arrays of the framework carry neither gradients nor a history")
    for reg in _REGS:
        case = Case(SMALL, reg, 5, dtype=subject.dtype, sample_weight=(1.0, 0.5, 2.0, 1.0, 0.25))
        arrays, y, options = subject.arrays(case), subject.labels(case), subject.options(case)
        trained = {path: subject.harness.parameter(arrays[path]) for path in SMALL.weights()}
        model, x = subject.model(SMALL, trained), arrays["x"]
        given = {**trained, "x": x, "y": y, "sample_weight": options["sample_weight"]}
        before = {name: traces(array) for name, array in given.items()}
        calls_of = _all_calls(calls, model, x, y, reg, options)
        for name, call in calls_of.items() if reg is _REGS[0] else [("loss", calls_of["loss"])]:
            call()
            left = [key for key, array in given.items() if traces(array) != before[key]]
            if left:
                subject.disagree(case, f"{name} left a gradient or a history on the caller's {', '.join(left)}")


def _all_calls(
    calls: Any, model: Any, x: Any, y: Any, reg: Any, options: dict[str, Any]
) -> dict[str, Callable[[], Any]]:
    return {
        "loss": lambda: calls.loss(model, x, y, reg, **options),
        "penalty": lambda: calls.penalty(model, x, y, reg, **options),
        "measure": lambda: calls.measure(model, x, y),
        "check": lambda: calls.check(model, x, y, reg),
    }


@check("laws")
def results_without_history(subject: Subject) -> None:
    """Where nothing is differentiated no result has a history; the norms of measure have none anywhere."""
    traces, calls, case = subject.harness.traces, subject.harness.calls, Case(SMALL, _REGS[0], 5, dtype=subject.dtype)
    arrays, y = subject.arrays(case), subject.labels(case)
    plain = traces(arrays["x"])
    if plain is None:
        raise NotApplicable("arrays of the framework carry neither gradients nor a history")
    trained = {path: subject.harness.parameter(arrays[path]) for path in SMALL.weights()}
    model, x = subject.model(SMALL, trained), arrays["x"]
    for projections in (None, 2):
        measures = calls.measure(model, x, y, projections=projections)._asdict()
        _without(subject, case, {f"{name} of measure": norms for name, norms in measures.items()}, plain)
    context = subject.harness.no_gradient()
    if context is None:
        return
    with context:
        total, parts = calls.loss(model, x, y, case.reg)
        penalty = calls.penalty(model, x, y, case.reg)
    named = {"the total": total, "parts.loss": parts.loss, "parts.outputs": parts.outputs, "the penalty": penalty}
    named |= {f"parts.penalty[{index}]": one for index, one in enumerate(parts.penalty)}
    _without(subject, case, named, plain)


def _without(subject: Subject, case: Case, results: dict[str, Any], plain: Any) -> None:
    kept = [name for name, array in results.items() if array is not None and subject.harness.traces(array) != plain]
    if kept:
        subject.disagree(case, f"where nothing is differentiated, {', '.join(kept)} carries a history")


@check("laws")
def calls_after_an_error(subject: Subject) -> None:
    """A call that raises inside of the model leaves nothing set: no place, no mode, no state of its own."""
    subject.need_any_callable()
    case = Case(SMALL, SpectReg(1.0, at="place") + DataGrad(1.0), 5, dtype=subject.dtype)
    arrays, y, calls = subject.arrays(case), subject.labels(case), subject.harness.calls
    bare, plain = subject.model(SMALL, arrays), subject.harness.traces(arrays["x"])

    def model(x: Any) -> Any:
        return bare(tap("place", x))

    def broken(x: Any) -> Any:
        raise _BrokenModelError(model(x))

    def penalty() -> Any:
        return calls.penalty(model, arrays["x"], y, case.reg)

    before = float(subject.numbers(penalty()))
    with subject.harness.no_gradient() or nullcontext():
        for name, call in _all_calls(calls, broken, arrays["x"], y, case.reg, {}).items():
            try:
                call()
            except _BrokenModelError:
                pass
            else:
                if name != "check":
                    raise Disagreement(f"{name} of a model that raises: expected its own exception, got a result")
            if tap("place", arrays["x"]) is not arrays["x"]:
                raise Disagreement(
                    f"after {name} of a model that raises, a tap outside of a call is not the value itself"
                )
        after = penalty()
        if subject.harness.no_gradient() is not None:
            _without(subject, case, {"the penalty after an error": after}, plain)
    if float(subject.numbers(after)) != before:
        raise Disagreement(f"the penalty after an error: expected {before}, as before, got {subject.numbers(after)}")


@check("laws")
def calls_in_threads(subject: Subject) -> None:
    """Two threads that are inside of their calls at the same time get what each gets alone, bit for bit."""
    subject.need_any_callable()
    marked = JacobianPenalty(1.0, projection=gaussian(), seed=3, at="input")
    first = Case(SMALL, marked, 5, dtype=subject.dtype)
    second = Case(SMALL, DataGrad(2.0, fraction=0.5) + first.reg, 4, seed=1, step=7, dtype=subject.dtype)
    alone = [_penalty(subject, case, lambda: None) for case in (first, second)]
    meeting = threading.Barrier(2, timeout=_SECONDS)
    entered = threading.local()

    def meet() -> None:
        """Before and after the place that the first pass of each call marks, until both calls are there."""
        entered.times = getattr(entered, "times", 0) + 1
        if entered.times <= 2:
            meeting.wait()

    def run(case: Case) -> float:
        try:
            return _penalty(subject, case, meet)
        except BaseException:
            meeting.abort()
            raise

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run, case) for case in (first, second)]
        together = [one.result() for one in runs]
    if together != alone:
        raise Disagreement(f"two calls at the same time: expected {alone}, as one after the other, got {together}")


def _penalty(subject: Subject, case: Case, meet: Callable[[], None]) -> float:
    with subject.session():
        arrays, options = subject.arrays(case), subject.options(case)
        bare = subject.model(SMALL, arrays)

        def model(x: Any) -> Any:
            meet()
            marked = tap("input", x)
            meet()
            return bare(marked)

        value = subject.harness.calls.penalty(model, arrays["x"], subject.labels(case), case.reg, **options)
        return float(subject.numbers(value))
