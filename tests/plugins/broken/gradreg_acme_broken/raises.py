"""Fails when it is imported."""

raise RuntimeError("the acme licence has expired\nsince Tuesday")
