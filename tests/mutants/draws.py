"""Mutants whose draws are wrong."""
