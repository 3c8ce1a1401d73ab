"""The paper's experiments and this project's: one module each, with a record named ``EXPERIMENT``.

To add an experiment, add a module to this folder. The command and the page find it.
"""

import difflib
from importlib import import_module
from pkgutil import iter_modules

from gradreg_core.errors import InputError
from gradreg_experiments.paper.experiment import Experiment

__all__ = ["experiments", "find_experiment"]


def experiments() -> dict[str, Experiment]:
    """All experiments by name, in the order of the page."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    records: list[Experiment] = sorted((module.EXPERIMENT for module in modules), key=lambda record: record.place)
    return {record.name: record for record in records}


def find_experiment(name: str) -> Experiment:
    """The experiment of this name.

    Raises:
        InputError: there is no such experiment.
    """
    known = experiments()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        raise InputError(f"reproduce: there is no experiment {name!r}. {hint}There are: {', '.join(known)}, page.")
    return known[name]
