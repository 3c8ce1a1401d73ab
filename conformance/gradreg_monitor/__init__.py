"""Monitors a training: norms of the Jacobian, penalties, and the share of the penalty in the gradient.

Importing this package imports no framework and no Matplotlib. Callbacks are in `gradreg_monitor.keras`,
`gradreg_monitor.lightning` and `gradreg_monitor.transformers`, which import their framework.
"""

from gradreg_monitor.figure import plot
from gradreg_monitor.live import LivePlot
from gradreg_monitor.monitor import Monitor
from gradreg_monitor.writers import CsvWriter, TensorBoardWriter, WandbWriter

__all__ = ["CsvWriter", "LivePlot", "Monitor", "TensorBoardWriter", "WandbWriter", "plot"]
