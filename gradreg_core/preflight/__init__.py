"""The pre-flight check: finds problems of a training on one batch, before it starts."""

from gradreg_core.preflight.differences import AGREEMENT, compare
from gradreg_core.preflight.report import CheckReport, Finding
from gradreg_core.preflight.run import run_check
from gradreg_core.preflight.subject import smooth_terms

__all__ = ["AGREEMENT", "CheckReport", "Finding", "compare", "run_check", "smooth_terms"]
