"""The same run in every framework, step by step: how long the losses agree."""

from collections.abc import Sequence
from dataclasses import dataclass

from gradreg_core.presets import DataGrad, SpectReg, WeightDecay
from gradreg_experiments.curves import DTYPES, Curves, curve_table, draw_curves, recorded_curves
from gradreg_experiments.job import Job
from gradreg_experiments.paper import tables
from gradreg_experiments.paper.experiment import Experiment, Page, Report, Settings, text
from gradreg_experiments.paper.protocol import Protocol
from gradreg_experiments.paper.run import run_curves
from gradreg_experiments.results import Results
from gradreg_experiments.trainers import trainable

__all__ = ["EXPERIMENT", "STEPS"]

STEPS = 300
_SEED = 1


@dataclass(frozen=True, kw_only=True)
class _FrameworksExperiment(Experiment):
    """The first steps of two runs, in two arithmetics, in every framework."""

    def jobs(self, settings: Settings) -> list[Job]:
        return _jobs(settings.data, trainable(), settings.steps or STEPS)

    def report(self, settings: Settings, report: Report) -> None:
        if curves := _curves(self.jobs(settings), report.results):
            path = report.write(self.name, self.title, tables.markdown(*curve_table(curves)))
            report.wrote([report.out / f"{self.name}.md", *draw_curves(path, curves)])

    def section(self, page: Page) -> list[str]:
        curves = _curves(_jobs(Settings.data, page.backends, STEPS), page.results)
        if not curves:
            return []
        return [
            "The relative difference of the total loss at the first step, and the first step (from 0) at which it "
            f"exceeds each limit, in the first {STEPS} steps:",
            tables.markdown(*curve_table(curves)),
            page.picture(self.name, "Losses of the frameworks"),
            text("apart"),
        ]


def _jobs(data: str, backends: Sequence[str], steps: int) -> list[Job]:
    """DataGrad with dropout and SpectReg without; the first steps only."""
    return [
        Job(
            Protocol(before_last=before_last, steps=steps, dtype=dtype),
            reg + WeightDecay(5e-4),
            _SEED,
            backend,
            data,
            kind="curve",
        )
        for before_last, reg in (
            ("dropout", DataGrad(50.0)),
            ("none", SpectReg(0.01, seed=_SEED, draw="per_batch")),
        )
        for dtype in DTYPES
        for backend in backends
    ]


def _curves(jobs: Sequence[Job], results: Results) -> list[Curves]:
    def name(job: Job) -> str:
        assert job.regularizer is not None
        term = type(job.regularizer.terms[0]).__name__
        return f"{term}, {'dropout' if job.protocol.before_last == 'dropout' else 'no dropout'}"

    return recorded_curves(jobs, results, name)


EXPERIMENT = _FrameworksExperiment(
    name="frameworks",
    title="The same run in every framework",
    place=7,
    run_jobs=run_curves,
)
