"""The checks as pytest tests; see :mod:`gradreg_conformance.plugin`."""
