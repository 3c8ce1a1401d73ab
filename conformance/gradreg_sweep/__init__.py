"""Sweep a framework's operations and layers for second derivatives that are wrong or missing."""
