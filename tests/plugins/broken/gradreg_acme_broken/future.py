"""Written for a protocol that this gradreg does not know; the name is one of gradreg's own."""

from gradreg_core.plugins.hookspecs import BackendDescription, hookimpl


@hookimpl
def gradreg_backends():
    return [BackendDescription(name="jax", factory="a:b", spec_version=99, install="pip install gradreg-acme-broken")]
