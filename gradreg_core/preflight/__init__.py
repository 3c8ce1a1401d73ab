"""The pre-flight check: finds on one batch, before training, what would go wrong in it."""

from gradreg_core.preflight.differences import AGREEMENT, compare
from gradreg_core.preflight.report import CheckReport, Finding
from gradreg_core.preflight.run import run_check
from gradreg_core.preflight.subject import smooth_terms

__all__ = ["AGREEMENT", "CheckReport", "Finding", "compare", "run_check", "smooth_terms"]
