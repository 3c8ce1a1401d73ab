"""Labels of every kind, and losses, for every layout of the outputs: values and all gradients, also those through f."""

from typing import Any

from gradreg_conformance.cases import Case
from gradreg_conformance.check import check
from gradreg_conformance.strategies import POSITIONS, SINGLE_LOGIT, TINY
from gradreg_conformance.subject import Subject
from gradreg_core.portable.networks import Activation, Dense, Network
from gradreg_core.presets import ConfidencePenalty, DataGrad, JacReg
from gradreg_core.projections import gaussian
from gradreg_core.spec import JacobianPenalty

_MANY = Network((2,), (Dense(2), Activation("tanh"), Dense(300)))
_LAYOUTS: tuple[tuple[Network, dict[str, Any]], ...] = (
    (TINY, {}),
    (SINGLE_LOGIT, {}),
    (POSITIONS, {"class_axis": -1}),
    (POSITIONS, {"class_axis": 1}),
)
_REG = DataGrad(1.0) + JacobianPenalty(0.5, projection=gaussian(), output="log_probabilities") + ConfidencePenalty(2.0)
_BATCH = 5


def _agree(subject: Subject, network: Network, reg: Any = _REG, of: str = "parts", **options: Any) -> None:
    subject.measured.examples += 1
    subject.agree_in_slopes(Case(network, reg, _BATCH, dtype=subject.dtype, **options), of, room=4.0)


@check("gradients", general=True)
def labels_of_every_kind(subject: Subject) -> None:
    """Class numbers of every integer type, probabilities and losses of the caller's, in every layout of the outputs."""
    for network, options in _LAYOUTS:
        for labels, dtype in (("classes", "int64"), ("distribution", "int64")):
            _agree(subject, network, labels=labels, label_dtype=dtype, **options)
        _agree(subject, network, DataGrad(1.0) + JacReg(1.0), loss="squared", **options)
    if subject.backend is not None:  # whose operations such a loss is made of
        _agree(subject, POSITIONS, DataGrad(1.0), loss="squared_per_position", class_axis=-1)
    _agree(subject, POSITIONS, DataGrad(1.0, side="input"), labels="distribution", class_axis=1)
    for dtype in ("int8", "uint8", "int16", "int32"):
        network = _MANY if dtype in ("int16", "int32") else TINY
        _agree(subject, network, DataGrad(1.0), label_dtype=dtype)
