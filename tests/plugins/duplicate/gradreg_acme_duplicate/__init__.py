"""Claims the name of a built-in backend."""

from gradreg_core.plugins.hookspecs import BackendDescription, hookimpl


@hookimpl
def gradreg_backends():
    return [BackendDescription(name="torch", factory="a:b", spec_version=1, install="pip install acme")]
