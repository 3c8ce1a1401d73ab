"""Versions of what is installed."""

from importlib import metadata

from gradreg_core.cli import versions


def test_a_modules_version_is_that_of_the_distribution_that_brings_it(monkeypatch):
    def version(name):
        if name != "acme-cpu":
            raise metadata.PackageNotFoundError(name)
        return "3.1"

    monkeypatch.setattr(versions, "_providers", lambda: {"acme": ["acme-docs", "acme-cpu"]})
    monkeypatch.setattr(metadata, "version", version)
    assert versions.module_version("acme") == "3.1"
    assert versions.module_version("acme-cpu") == "3.1"
    assert versions.module_version("other") is None
