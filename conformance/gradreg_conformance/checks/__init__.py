"""The checks, one family a module; importing this registers them all."""

from gradreg_conformance.checks import gradients

__all__ = ["gradients"]
