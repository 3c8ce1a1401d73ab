"""The report as one HTML page that stands alone."""
from collections.abc import Sequence
from gradreg_conformance.report import Report
__all__ = ["to_html"]
def to_html(reports: Sequence[Report]) -> str:
    """x."""
    return ""
