"""Values of the penalty for every projection, against the reference; its options have checks of their own."""

from dataclasses import replace

from hypothesis import strategies as st

from gradreg_conformance.check import check
from gradreg_conformance.regularizers import seeds
from gradreg_conformance.strategies import SMALL, TINY, cases
from gradreg_conformance.subject import Subject
from gradreg_core.projections import (
    Projection,
    direction,
    exact,
    gaussian,
    onehot,
    orthonormal,
    rademacher,
    random_onehot,
    sphere,
    top_k,
)
from gradreg_core.spec import JacobianPenalty

_CLASSES = SMALL.output_shape[0]
_ROWS = st.integers(2, 3)


def _agree(
    subject: Subject, projections: st.SearchStrategy[Projection], directions: tuple[str | None, ...] = (None,)
) -> None:
    regs = st.builds(JacobianPenalty, st.just(1.0), projection=projections, seed=seeds)
    given = st.sampled_from(directions)

    @subject.given(cases(subject.harness, regs, st.just(SMALL), batch=(3, 3), directions=given), cost=2)
    def _(case):  # type: ignore[no-untyped-def]
        subject.agree_in_value(case)


@check("values")
def projection_exact(subject: Subject) -> None:
    """exact() gives the squared Frobenius norm of the whole Jacobian."""
    _agree(subject, st.just(exact()))


@check("values")
def projection_gaussian(subject: Subject) -> None:
    """gaussian(k): normal directions, divided by sqrt(k)."""
    _agree(subject, st.builds(gaussian, _ROWS))


@check("values")
def projection_rademacher(subject: Subject) -> None:
    """rademacher(k): random signs, divided by sqrt(k)."""
    _agree(subject, st.builds(rademacher, _ROWS))


@check("values")
def projection_sphere(subject: Subject) -> None:
    """sphere(k): unit vectors, divided by sqrt(k), times sqrt(m) if unbiased."""
    for unbiased in (False, True):
        _agree(subject, st.builds(sphere, _ROWS, st.just(unbiased)))


@check("values")
def projection_orthonormal(subject: Subject) -> None:
    """orthonormal(k): rows of a frame, divided by sqrt(k), times sqrt(m) if unbiased."""
    for unbiased in (False, True):
        _agree(subject, st.builds(orthonormal, _ROWS, st.just(unbiased)))


@check("values")
def projection_random_onehot(subject: Subject) -> None:
    """random_onehot(k): uniform over all classes, divided by sqrt(k), times sqrt(m) if unbiased."""
    for unbiased in (False, True):
        _agree(subject, st.builds(random_onehot, _ROWS, st.just(unbiased)))


@check("values")
def projection_onehot(subject: Subject) -> None:
    """onehot(): the logit of the true class."""
    _agree(subject, st.just(onehot()))


@check("values")
def projection_top_k(subject: Subject) -> None:
    """top_k(k): the sum of the k largest logits."""
    _agree(subject, st.builds(top_k, _ROWS))


@check("values")
def projection_direction(subject: Subject) -> None:
    """direction(v): one vector, or the rows of a matrix, as they are in the specification."""
    vector = st.tuples(*[st.sampled_from([-1.0, 0.25, 2.0])] * _CLASSES)
    for v in (vector, st.tuples(vector, vector)):
        _agree(subject, st.builds(direction, v))


@check("values")
def directions_of_the_call(subject: Subject) -> None:
    """directions= of shape (m,), (B, m) and (k, B, m)."""
    regs = st.just(JacobianPenalty(1.0, projection=direction()))
    for shape in ("shared", "sample", "rows"):
        given = st.just(shape)

        @subject.given(cases(subject.harness, regs, st.just(SMALL), batch=(3, 3), directions=given), cost=5)
        def _(case):  # type: ignore[no-untyped-def]
            subject.agree_in_value(case)
            subject.agree_in_gradients(replace(case, network=TINY))
