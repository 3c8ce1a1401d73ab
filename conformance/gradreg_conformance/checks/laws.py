"""Laws where a comparison with the reference does not look: large batches, many outputs, extreme units, earlier calls.

The other statements of the paper, and the other usual laws, are implied by the comparisons: each feature has its own.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gradreg_conformance import reference
from gradreg_conformance.cases import Case
from gradreg_conformance.check import check
from gradreg_conformance.strategies import SMALL, cases
from gradreg_conformance.subject import Subject
from gradreg_core.portable.networks import Dense, Network
from gradreg_core.presets import ConfidencePenalty, DataGrad, FrobReg, JacReg, WeightDecay
from gradreg_core.projections import direction, exact, gaussian, top_singular
from gradreg_core.spec import JacobianPenalty, Regularizer

_RANDOM = JacobianPenalty(1.0, projection=gaussian())
_FEW_ROUNDINGS = 64
"""Relative, in units of roundoff, of sums of positive numbers in another order."""


def _small(subject: Subject, regs: st.SearchStrategy[Regularizer], **options: Any) -> Any:
    """The decorator for laws of SMALL with three samples."""
    return subject.given(cases(subject.harness, regs, st.just(SMALL), batch=(3, 3), **options), cost=2)


def _few_roundings(subject: Subject) -> float:
    return _FEW_ROUNDINGS * reference.UNIT_ROUNDOFF[subject.dtype]


def _number(subject: Subject, value: Any) -> float:
    return float(subject.numbers(value))


@check("laws")
def one_forward_pass(subject: Subject) -> None:
    """The model is called once for loss and all terms, which see the same dropout mask; once more for a part."""
    subject.need_any_callable()
    shared = _RANDOM + DataGrad(1.0) + JacobianPenalty(1.0, projection=top_singular(2)) + ConfidencePenalty(1.0)
    # Of five samples: no weight of the network has that length, which could belong to the samples.
    for reg, wanted in ((shared, [5]), (replace(_RANDOM, fraction=0.5), [3, 5])):

        @subject.given(cases(subject.harness, st.just(reg), st.just(SMALL), batch=(5, 5)), cost=5)
        def _(case, wanted=wanted):  # type: ignore[no-untyped-def]
            arrays, sizes = subject.arrays(case), []
            bare = subject.model(case.network, arrays)

            def model(x: Any) -> Any:
                sizes.append(x.shape[0])
                return bare(x)

            subject.harness.calls.loss(model, arrays["x"], subject.labels(case), case.reg, **subject.options(case))
            if sorted(sizes) != wanted:
                subject.disagree(case, f"loss called the model on batches of {sizes} samples, expected {wanted}")


@check("laws")
def calls_leave_no_trace(subject: Subject) -> None:
    """A call depends on its arguments and on the model's weights now, and not on earlier calls: equal bit for bit."""
    subject.need_any_callable()

    @_small(subject, st.sampled_from([_RANDOM, DataGrad(1.0)]))
    def _(case):  # type: ignore[no-untyped-def]
        x, y, options = subject.arrays(case)["x"], subject.labels(case), subject.options(case)
        first, second = subject.arrays(case), subject.arrays(replace(case, seed=case.seed + 1))
        now = dict(first)
        one = subject.harness.model(case.network, now)

        def penalty(model: Callable[[Any], Any]) -> float:
            return _number(subject, subject.harness.calls.penalty(model, x, y, case.reg, **options))

        penalties = [penalty(one)]
        now.update(second)
        penalties.append(penalty(one))
        now.update(first)
        penalties.append(penalty(one))
        wanted = [penalty(subject.model(case.network, arrays)) for arrays in (first, second, first)]
        if penalties != wanted:
            subject.disagree(case, f"three calls, the second with other weights: expected {wanted}, got {penalties}")


@check("laws")
def arguments_are_left_alone(subject: Subject) -> None:
    """No array that is passed in is written to."""
    given = {"ids": st.just((4, 5, 6)), "sample_weight": st.just((1.0, 0.5, 2.0)), "directions": st.just("sample")}
    regs = st.just(JacobianPenalty(1.0, projection=direction()) + DataGrad(1.0))

    @_small(subject, regs, **given)
    def _(case):  # type: ignore[no-untyped-def]
        arrays, y, options = subject.arrays(case), subject.labels(case), subject.options(case)
        passed = {**arrays, "y": y, **{name: options[name] for name in ("sample_ids", "sample_weight", "directions")}}

        def numbers() -> dict[str, np.ndarray]:
            return {name: np.array(subject.harness.numpy(array)) for name, array in passed.items()}

        before = numbers()
        subject.harness.calls.loss(subject.model(case.network, arrays), arrays["x"], y, case.reg, **options)
        written = [name for name, array in numbers().items() if not np.array_equal(array, before[name])]
        if written:
            subject.disagree(case, f"loss changed the caller's {', '.join(written)}")


@check("laws")
def a_large_batch_is_the_sum_of_its_parts(subject: Subject) -> None:
    """Uneven parts, with their samples' numbers and the whole's normalizer, add up to the whole."""
    sizes = (1, 200, 399)  # more than 512 together

    @subject.given(st.integers(0, 99), st.sampled_from([_RANDOM, DataGrad(1.0)]), cost=2)
    def _(seed, reg):  # type: ignore[no-untyped-def]
        case = Case(SMALL, reg, sum(sizes), seed, dtype=subject.dtype)
        data, harness = case.data, subject.harness
        labels = np.asarray(data.y)
        arrays = subject.arrays(case)

        def penalty(start: int, stop: int, **options: Any) -> float:
            x, y = subject.array(data.x[start:stop], subject.dtype), subject.array(labels[start:stop], "int64")

            def function(given: Any) -> Any:
                return harness.calls.penalty(subject.model(SMALL, given), given["x"], y, reg, **options)

            return _number(subject, harness.value(function, {**arrays, "x": x}, subject.mode))

        total, start = 0.0, 0
        for size in sizes:
            ids = subject.array(np.arange(start, start + size), "int64")
            total += penalty(start, start + size, sample_ids=ids, normalizer=float(case.batch))
            start += size
        subject.close(
            case, "the whole, and the sum of its parts", penalty(0, start), total, _few_roundings(subject) * total
        )


@check("laws")
def units_of_the_input(subject: Subject) -> None:
    """With x = s u the gradient with respect to u is s times as long, however small or large s is."""
    subject.need_any_callable()
    for reg in (_RANDOM, replace(_RANDOM, squared=False), DataGrad(1.0)):

        @_small(subject, st.just(reg))
        def _(case):  # type: ignore[no-untyped-def]
            arrays, y, options = subject.arrays(case), subject.labels(case), subject.options(case)
            bare, calls = subject.model(case.network, arrays), subject.harness.calls
            plain = _number(subject, calls.penalty(bare, arrays["x"], y, case.reg, **options))
            for s in (2.0**-60, 2.0**60):
                u = subject.array(case.data.x / s, case.dtype)
                result = _number(subject, calls.penalty(lambda u, s=s: bare(u * s), u, y, case.reg, **options))
                wanted = plain * s ** (2 if case.reg.lower().squared else 1)
                subject.close(case, f"the penalty in units of {s}", result, wanted, _few_roundings(subject) * wanted)


@check("laws")
def a_linear_layer_gives_weight_decay(subject: Subject) -> None:
    """FrobReg(w) of a linear layer is WeightDecay(2 w) with its gradients: zero, and not missing, for x and bias."""
    network = Network((2,), (Dense(3),))

    @subject.given(cases(subject.harness, st.just(FrobReg(1.0)), st.just(network), batch=(2, 2)), cost=2)
    def _(case):  # type: ignore[no-untyped-def]
        decay = replace(case, reg=WeightDecay(2.0))
        value, gradients = subject.gradients(case)
        subject.compare(case, "the penalty", {"value": value}, reference.expected_value(decay))
        subject.compare(case, "the gradients of the penalty", gradients, reference.expected_gradient(decay))


@check("laws")
def logits_far_apart(subject: Subject) -> None:
    """Probabilities of exactly 0 and 1 make no NaN: a linear layer with biases of 1000, 0 and -1000."""
    network = Network((2,), (Dense(3),))
    case = Case(network, DataGrad(1.0), 2, dtype=subject.dtype)
    arrays, weight = subject.arrays(case), case.data.params["0.weight"]
    arrays["0.bias"] = subject.array([1000.0, 0.0, -1000.0], subject.dtype)
    y = subject.array([1, 2], "int64")
    apart = np.linalg.norm(weight - weight[:, :1], axis=0) ** 2
    regs = {
        DataGrad(1.0): (apart[1] + apart[2]) / 2,  # f = e_0: ||W (e_0 - y)||^2
        JacReg(1.0): 0.0,
        JacobianPenalty(1.0, projection=exact(), output="log_probabilities"): apart.sum(),
        ConfidencePenalty(1.0): 0.0,
    }
    for reg, wanted in regs.items():

        def function(free: Any, reg: Regularizer = reg) -> Any:
            return subject.harness.calls.penalty(subject.model(network, free), free["x"], y, reg)

        subject.measured.examples += 1
        value, gradients = subject.harness.value_and_gradients(function, arrays, subject.mode)
        one = replace(case, reg=reg)
        allowed = _few_roundings(subject) * apart.sum()
        subject.close(one, "with logits far apart, the penalty", _number(subject, value), wanted, allowed)
        lost = [name for name, array in gradients.items() if not np.isfinite(subject.harness.numpy(array)).all()]
        if lost:
            subject.disagree(
                one, f"with logits far apart, the gradients with respect to {', '.join(lost)} are not finite"
            )
