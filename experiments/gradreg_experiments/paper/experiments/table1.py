"""Table 1: nine cells at 2,000 training images, with the weights of the authors' script."""

from collections.abc import Sequence
from dataclasses import replace

from gradreg_experiments.paper.cells import CellExperiment, datagrad, no_penalty, significant, spectreg
from gradreg_experiments.paper.experiment import text
from gradreg_experiments.paper.figures import draw_table
from gradreg_experiments.paper.protocol import Choices, Protocol
from gradreg_experiments.paper.summary import Cell, Make, Summary

__all__ = ["EXPERIMENT"]


def _cells(base: Protocol, choices: Choices) -> list[Cell]:
    paper = {
        "Baseline": ((96.99, 0.15), (97.59, 0.13), (97.56, 0.24)),
        "Batchnorm": ((96.89, 0.23), (96.94, 0.27), (96.89, 0.22)),
        "Dropout": ((97.29, 0.19), (97.65, 0.14), (97.98, 0.12)),
    }
    cells = []
    for row, before_last, weight_of_spectreg, weight_of_datagrad in (
        ("Dropout", "dropout", 0.01, 50.0),
        ("Baseline", "none", 0.01, 50.0),
        ("Batchnorm", "batchnorm", 0.001, 0.001),
    ):
        protocol = replace(base, before_last=before_last)
        methods: tuple[tuple[str, Make], ...] = (
            ("NoGR", no_penalty),
            ("SpectReg", spectreg(weight_of_spectreg, choices)),
            ("DataGrad", datagrad(weight_of_datagrad)),
        )
        for (column, make), numbers in zip(methods, paper[row], strict=True):
            cells.append(Cell(row, column, protocol, make, paper=numbers))
    return cells


def _verdicts(rows: Sequence[Summary]) -> str:
    """Whether each method beats the cell without it."""
    base = rows[0].cell.column
    return "\n".join(f"- {_verdict(row)}" for row in rows if row.cell.column != base and row.values)


def _verdict(row: Summary) -> str:
    if row.gain is None:
        return f"{row.cell.name}: no seed yet for which both it and NoGR were run."
    if row.p_gain is None and row.pairs > 1:
        return f"{row.cell.name}: {row.gain:+.2f} points over NoGR at each of {row.pairs} seeds."
    if row.p_gain is None:
        return f"{row.cell.name}: {row.gain:+.2f} points over NoGR at one seed, which decides nothing."
    better = "beats" if row.gain > 0 else "does not beat"
    sure = "significant at 5 %" if significant(row) else "not significant at 5 %"
    gain = f"{row.gain:+.2f} points over {row.pairs} seeds"
    return f"{row.cell.name} {better} NoGR: {gain}, {sure} (p {row.p_gain:.2g})."


EXPERIMENT = CellExperiment(
    name="table1",
    title="Table 1: MNIST, 2,000 training images",
    place=1,
    cells=_cells,
    draw=draw_table,
    verdict=_verdicts,
    remark=text("batchnorm"),
)
