"""Its description is invalid: a string where a tuple is due."""

from gradreg_core.plugins.hookspecs import BackendDescription, hookimpl


@hookimpl
def gradreg_backends():
    return [BackendDescription(name="acme-invalid", factory="a:b", modules="torch", spec_version=1, install="pip")]
