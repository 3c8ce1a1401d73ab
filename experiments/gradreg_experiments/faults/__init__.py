"""Injects faults into real commands and counts what came of them: ``python -m gradreg_experiments.faults``."""
