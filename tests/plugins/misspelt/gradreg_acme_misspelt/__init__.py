"""The hook's name lacks its last letter."""

from gradreg_core.plugins.hookspecs import hookimpl


@hookimpl
def gradreg_backend():
    return []
