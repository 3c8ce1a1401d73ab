"""The names that are the same in all frameworks: specifications, results and errors. None needs a framework."""

from typing import TYPE_CHECKING

from gradreg_core import errors, norms, outputs, presets, projections, spec
from gradreg_core.errors import *  # noqa: F403
from gradreg_core.inputs import Inputs as Inputs
from gradreg_core.norms import *  # noqa: F403
from gradreg_core.outputs import *  # noqa: F403
from gradreg_core.presets import *  # noqa: F403
from gradreg_core.projections import *  # noqa: F403
from gradreg_core.results import Measures as Measures
from gradreg_core.results import Parts as Parts
from gradreg_core.spec import *  # noqa: F403
from gradreg_core.taps import tap as tap

WORDS: list[str] = ["Inputs", "Measures", "Parts", "tap", *errors.__all__]
WORDS += [*norms.__all__, *outputs.__all__, *presets.__all__, *projections.__all__, *spec.__all__]

if not TYPE_CHECKING:  # type checkers cannot add up lists; without the name they take everything that is imported
    __all__ = WORDS
