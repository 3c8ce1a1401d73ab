"""Everything that a printed counter-example needs: ``from gradreg_conformance.reproduce import *``.

The words of a specification, the layers of a portable network, :class:`Case`, and :func:`compare`, which computes a
case by a backend and by the reference. :func:`agreement` gives the same as numbers.
"""

from dataclasses import replace
from math import inf, nan

import numpy as np

from gradreg_conformance import reference
from gradreg_conformance.cases import Case
from gradreg_conformance.forms import Form
from gradreg_conformance.harness import Harness
from gradreg_conformance.regularizers import Ramp
from gradreg_conformance.runner import find_subject
from gradreg_conformance.subject import Subject
from gradreg_core import vocabulary
from gradreg_core.portable import networks
from gradreg_core.portable.networks import *  # noqa: F403
from gradreg_core.vocabulary import *  # noqa: F403

__all__ = ["Case", "Form", "Ramp", "agreement", "compare", "inf", "nan"]
__all__ += networks.__all__
__all__ += vocabulary.WORDS


def agreement(
    backend: str | Harness | Subject, case: Case, *, mode: str = "", device: str = "", of: str = "penalty"
) -> dict[str, reference.Comparison]:
    """A case by a backend beside the reference: the one way to compare the two.

    Args:
        backend: its name, ``"module:callable"`` of a harness, or a harness.
        case: network, batch, regularizer and options of the call.
        mode: one of the harness's modes; empty for its first.
        device: one of its devices; empty for its first.
        of: "penalty", or "total" for loss plus penalty.

    Returns:
        Comparisons of the "value", an array of that name, and of the "gradients", arrays by the paths of the weights
        and "x".
    """
    subject = find_subject(backend, device=device)
    subject = subject.in_mode(mode or subject.mode)
    with subject.session():
        value, gradients = subject.gradients(case, of)
    return {
        name: reference.Comparison(result, wanted, wanted.allowed(case.dtype, subject.harness.tolerance))
        for name, result, wanted in (
            ("value", {"value": value}, reference.expected_value(case, of)),
            ("gradients", gradients, reference.expected_gradient(case, of)),
        )
    }


def compare(
    backend: str | Harness | Subject, case: Case, *, mode: str = "", device: str = "", of: str = "penalty"
) -> dict[str, float]:
    """Print what :func:`agreement` gives; the same arguments.

    Returns:
        The errors of "value" and "gradients" as multiples of what rounding allows: more than 1 is wrong.
    """
    subject = find_subject(backend, device=device)
    subject = subject.in_mode(mode or subject.mode)
    comparisons = agreement(subject, case, of=of)
    with subject.session():  # as the checks of values compute it, where nothing is differentiated outside the call
        comparisons["value"] = replace(comparisons["value"], result={"value": subject.value(case, of)})
    print(f"{case!r}\n{subject.name}, mode {subject.mode}, device {subject.device}, {case.dtype}")
    for name, comparison in comparisons.items():
        verdict = "agree" if comparison.ratio <= 1 else "DIFFER"
        print(f"\n{name}: {verdict}, error {comparison.error:.1e}, {comparison.ratio:.3g} times what rounding allows")
        for path, expected in comparison.expected.arrays.items():
            array = comparison.result[path]
            distance = reference.distance({path: array}, {path: expected})
            print(f"  {path}: expected {_short(expected)}, got {_short(array)}, apart by {distance:.1e}")
    return {name: comparison.ratio for name, comparison in comparisons.items()}


def _short(array: object) -> str:
    text = np.array2string(np.asarray(array), precision=6, threshold=12, separator=", ", max_line_width=10_000)
    return text.replace("\n", "")
