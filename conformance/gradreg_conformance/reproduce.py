"""Everything that a printed counter-example needs: ``from gradreg_conformance.reproduce import *``.

The words of a specification, the layers of a portable network, :class:`Case`, and :func:`compare`, which computes a
case by a backend and by the reference. :func:`agreement` gives the same as numbers.
"""

from math import inf, nan

import numpy as np

from gradreg_conformance import reference
from gradreg_conformance.cases import Case
from gradreg_conformance.harness import Harness
from gradreg_conformance.regularizers import Ramp
from gradreg_conformance.runner import find_subject
from gradreg_conformance.subject import Subject
from gradreg_core import vocabulary
from gradreg_core.portable import networks
from gradreg_core.portable.networks import *  # noqa: F403
from gradreg_core.vocabulary import *  # noqa: F403

__all__ = ["Case", "Ramp", "agreement", "compare", "inf", "nan"]
__all__ += networks.__all__
__all__ += vocabulary.__all__


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
        Two comparisons: "value", whose arrays are {"value": ...}, and "gradients", whose arrays are those of every
        weight by path and of the input ("x").
    """
    subject = find_subject(backend, device=device)
    subject = subject.in_mode(mode or subject.mode)
    with subject.session():
        results = {"value": {"value": subject.value(case, of)}, "gradients": subject.gradients(case, of)[1]}
    wanted = {"value": reference.expected_value(case, of), "gradients": reference.expected_gradient(case, of)}
    return {
        name: reference.Comparison(results[name], one, one.allowed(case.dtype, subject.harness.tolerance))
        for name, one in wanted.items()
    }


def compare(
    backend: str | Harness | Subject, case: Case, *, mode: str = "", device: str = "", of: str = "penalty"
) -> dict[str, float]:
    """Print what :func:`agreement` gives, with its arguments.

    Returns:
        The errors of "value" and "gradients" as multiples of what rounding allows: more than 1 is wrong.
    """
    subject = find_subject(backend, device=device)
    comparisons = agreement(subject, case, mode=mode, of=of)
    print(f"{case!r}\n{subject.name}, mode {mode or subject.mode}, device {subject.device}, {case.dtype}")
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
