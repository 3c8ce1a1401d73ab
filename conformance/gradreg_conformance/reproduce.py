"""Everything that a printed counter-example needs: ``from gradreg_conformance.reproduce import *``.

The words of a specification, the layers of a portable network, :class:`Case`, and :func:`compare`, which computes a
case by a backend and by the reference.
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

__all__ = ["Case", "Ramp", "compare", "inf", "nan"]
__all__ += networks.__all__
__all__ += vocabulary.__all__


def compare(
    backend: str | Harness | Subject, case: Case, *, mode: str = "", device: str = "", of: str = "penalty"
) -> dict[str, float]:
    """Compute a case by a backend and by the reference, print both, and how far apart they are.

    Args:
        backend: its name, ``"module:callable"`` of a harness, or a harness.
        case: network, batch, regularizer and options of the call.
        mode: one of the harness's modes; empty for its first.
        device: one of its devices; empty for its first.
        of: "penalty", or "total" for loss plus penalty.

    Returns:
        The errors of "value" and "gradients" as multiples of what rounding allows: more than 1 is wrong.
    """
    subject = find_subject(backend, device=device)
    subject = subject.in_mode(mode or subject.mode)
    with subject.session():
        value = {"value": subject.value(case, of)}
        _, gradients = subject.gradients(case, of)
    print(f"{case!r}\n{subject.name}, mode {subject.mode}, device {subject.device}, {case.dtype}")
    wanted_value, wanted_gradients = reference.expected_value(case, of), reference.expected_gradient(case, of)
    errors = {}
    for name, found, wanted in (("value", value, wanted_value), ("gradients", gradients, wanted_gradients)):
        error = reference.distance(found, wanted.arrays)
        allowed = wanted.allowed(case.dtype, subject.harness.tolerance)
        errors[name] = error / allowed if allowed else (inf if error else 0.0)
        verdict = "agree" if errors[name] <= 1 else "DIFFER"
        print(f"\n{name}: {verdict}, error {error:.1e}, {errors[name]:.3g} times what rounding allows")
        for path, expected in wanted.arrays.items():
            distance = reference.distance({path: found[path]}, {path: expected})
            print(f"  {path}: expected {_short(expected)}, got {_short(found[path])}, apart by {distance:.1e}")
    return errors


def _short(array: object) -> str:
    text = np.array2string(np.asarray(array), precision=6, threshold=12, separator=", ", max_line_width=10_000)
    return text.replace("\n", "")
