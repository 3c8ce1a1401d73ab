"""Compares a model with its port to another framework."""

from gradreg_validation.agreement import TOLERANCE, Agreement, Row, validate

__all__ = ["TOLERANCE", "Agreement", "Row", "validate"]
