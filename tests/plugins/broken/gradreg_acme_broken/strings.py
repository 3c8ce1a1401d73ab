"""Returns names in place of descriptions."""

from gradreg_core.plugins.hookspecs import hookimpl


@hookimpl
def gradreg_backends():
    return ["acme-strings"]
