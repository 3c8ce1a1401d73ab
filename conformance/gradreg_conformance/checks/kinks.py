"""L3: the kinks, where frameworks disagree and gradreg has one convention (docs/mathematics.md).

Everything else keeps away from them. hinge(t) needs none: its derivative at t is 0.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from gradreg_conformance.cases import Case
from gradreg_conformance.check import Disagreement, check
from gradreg_conformance.subject import Subject
from gradreg_core.norms import hinge, target
from gradreg_core.portable.networks import Activation, Conv2D, Dense, Flatten, Layer, MaxPool, Network
from gradreg_core.projections import direction, exact
from gradreg_core.spec import JacobianPenalty

_LINEAR = Network((3,), (Dense(2),))
_SUM = direction((1.0, 1.0))


def _expect(
    subject: Subject, case: Case, label: str, given: dict[str, Any], value: float, gradients: dict[str, Any]
) -> None:
    """Compare value and gradients of a case whose arrays are partly `given`; all numbers are small and exact."""
    dtype = subject.harness.dtypes[0]
    subject.need_layers(case.network)
    data = {**case.data.params, "x": case.data.x, **given}
    arrays = {path: subject.array(np.asarray(array), dtype) for path, array in data.items()}
    total, pulled = subject.harness.value_and_gradients(subject.function(case), arrays, subject.mode)
    results = {"the value": (total, value)}
    results |= {f"the gradient with respect to {path}": (pulled[path], wanted) for path, wanted in gradients.items()}
    for name, (came, wanted) in results.items():
        number = subject.numbers(came)
        if not np.allclose(number, np.asarray(wanted, np.float64), rtol=1e-2, atol=1e-6):
            raise Disagreement(
                f"{label}: {name} is expected to be {np.asarray(wanted).tolist()}, got {number.tolist()}.\n"
                f"    {case!r} with "
                + ", ".join(f"{path} = {np.asarray(array).tolist()}" for path, array in given.items())
            )


@check("gradients")
def kink_of_the_l2_norm(subject: Subject) -> None:
    """The L2 norm of a zero gradient is 0 and has gradient 0, where sqrt alone would give NaN."""
    network = Network((2,), (Dense(2), Activation("tanh"), Dense(2)))
    given = {"0.weight": np.zeros((2, 2)), "2.weight": np.ones((2, 2))}
    zeros = {path: np.zeros(shape) for path, shape in network.weights().items()} | {"x": np.zeros((2, 2))}
    norm = JacobianPenalty(1.0, projection=exact(), squared=False)
    _expect(subject, Case(network, norm), "the L2 norm at 0", given, 0.0, zeros)
    aimed = JacobianPenalty(1.0, projection=exact(), squared=False, phi=target(1.0))
    _expect(subject, Case(network, aimed), "(n - 1)^2 of the L2 norm n at 0", given, 1.0, zeros)


@check("gradients")
def thresholds_of_phi(subject: Subject) -> None:
    """A norm up to the threshold of hinge(t) costs nothing, however near it is; the threshold may be 0."""
    weight = {"0.weight": np.array([[2.0, 0.0], [0.0, 1.0], [2.0, 0.0]])}
    norm = JacobianPenalty(1.0, projection=exact(), squared=False)
    up_to = replace(norm, phi=hinge(3.0)) + replace(norm, phi=hinge(3.0005))
    zeros = {"0.weight": np.zeros((3, 2))}
    _expect(subject, Case(_LINEAR, up_to), "hinge(3) and hinge(3.0005) of the norm 3", weight, 0.0, zeros)
    squares = replace(norm, phi=hinge(0.0)) + replace(norm, phi=target(0.0))
    wanted = {"0.weight": 4 * weight["0.weight"]}
    _expect(subject, Case(_LINEAR, squares), "hinge(0) and target(0), two squares, of the norm 3", weight, 18.0, wanted)


@check("gradients")
def kink_of_the_l1_norm(subject: Subject) -> None:
    """The derivative of |a| at 0 is 0."""
    reg = JacobianPenalty(1.0, projection=_SUM, norm="l1", squared=False)
    weight = {"0.weight": [[2.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]}
    wanted = {"0.weight": [[1.0, 1.0], [0.0, 0.0], [-1.0, -1.0]]}
    _expect(subject, Case(_LINEAR, reg), "the L1 norm of (3, 0, -2)", weight, 5.0, wanted)


@check("gradients")
def kink_of_the_linf_norm(subject: Subject) -> None:
    """Among equal maxima the first has the whole derivative, also where the rows come one at a time."""
    reg = JacobianPenalty(1.0, projection=_SUM, norm="linf", squared=False)
    weight = {"0.weight": [[0.5, 0.5], [-2.0, -1.0], [2.0, 1.0]]}
    wanted = {"0.weight": [[0.0, 0.0], [-1.0, -1.0], [0.0, 0.0]]}
    _expect(subject, Case(_LINEAR, reg), "the Linf norm of (1, -3, 3)", weight, 3.0, wanted)
    rows = JacobianPenalty(1.0, projection=exact(), norm="linf", squared=False)
    weight = {"0.weight": [[0.5, 4.0], [0.0, -1.0], [4.0, 1.0]]}
    wanted = {"0.weight": [[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]]}
    case = Case(_LINEAR, rows, chunk_size=1)
    _expect(subject, case, "the Linf norm of the rows (0.5, 0, 4) and (4, -1, 1)", weight, 4.0, wanted)


@check("gradients")
def kink_of_relu(subject: Subject) -> None:
    """The derivative of relu at 0 is 0."""
    network = Network((1,), (Dense(2), Activation("relu"), Dense(1)))
    given = {"0.weight": [[2.0, 3.0]], "0.bias": [0.0, 1.0], "2.weight": [[5.0], [0.5]], "x": [[0.0]]}
    wanted = {"0.weight": [[0.0, 1.5]], "2.weight": [[0.0], [9.0]]}
    case = Case(network, JacobianPenalty(1.0, projection=exact()), batch=1)
    _expect(subject, case, "relu at (0, 1)", given, 2.25, wanted)


@check("gradients")
def kink_of_max_pooling(subject: Subject) -> None:
    """Of equal values in a window the first has the whole derivative.

    The four values are 3, 1, 2, 3, and depend on their inputs by (1, 2, 0, 0), ..., (1, 1, 0, 1).
    """
    layers: tuple[Layer, ...] = (Conv2D(1, 3, "same"), MaxPool(2), Flatten(), Dense(1))
    kernel = np.array([[1.0, 1.0, -2.0], [0.0, 1.0, 2.0], [0.0, 0.0, 0.0]]).reshape(3, 3, 1, 1)
    given = {"0.weight": kernel, "0.bias": [0.0], "3.weight": [[1.0]], "x": np.ones((1, 2, 2, 1))}
    case = Case(Network((2, 2, 1), layers), JacobianPenalty(1.0, projection=exact()), batch=1)
    _expect(subject, case, "the maximum of (3, 1, 2, 3)", given, 5.0, {"3.weight": [[10.0]]})
