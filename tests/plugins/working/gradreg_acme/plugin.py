"""Describes three backends; the framework of one is installed nowhere."""

from gradreg_core.plugins.hookspecs import BackendDescription, hookimpl


@hookimpl
def gradreg_backends():
    return [
        BackendDescription(
            name="acme",
            factory="gradreg_acme.backend:LinearBackend",
            modules=("numpy",),
            array_modules=("gradreg_acme",),
            capabilities=("linear_only",),
            spec_version=1,
            install="pip install gradreg-acme",
        ),
        BackendDescription(
            name="acme-absent",
            factory="gradreg_acme.absent:Backend",
            modules=("acme_absent_framework",),
            spec_version=1,
            install="pip install acme-absent-framework",
        ),
        BackendDescription(
            name="acme-primitives",
            factory="gradreg_acme.backend:Primitives",
            spec_version=1,
            install="pip install gradreg-acme",
        ),
    ]
