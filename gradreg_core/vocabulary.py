"""The words of a specification: the names that users write alike in all frameworks. None of them needs a framework."""

from gradreg_core import norms, presets, projections, spec
from gradreg_core.norms import *  # noqa: F403
from gradreg_core.outputs import *  # noqa: F403
from gradreg_core.presets import *  # noqa: F403
from gradreg_core.projections import *  # noqa: F403
from gradreg_core.spec import *  # noqa: F403

__all__ = ["OUTPUTS"]  # type checkers follow additions to a list of names
__all__ += norms.__all__
__all__ += presets.__all__
__all__ += projections.__all__
__all__ += spec.__all__
