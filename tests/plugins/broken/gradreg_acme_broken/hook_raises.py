"""Its hook fails."""

from gradreg_core.plugins.hookspecs import hookimpl


@hookimpl
def gradreg_backends():
    return [{}["no such key"]]
