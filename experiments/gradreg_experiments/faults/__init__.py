"""Injects faults into real commands and counts the outcomes: ``python -m gradreg_experiments.faults``."""
