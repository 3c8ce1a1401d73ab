"""Describes three backends, of which the framework of one is installed nowhere, and two commands."""

from gradreg_core.plugins.hookspecs import BackendDescription, CommandDescription, hookimpl


@hookimpl
def gradreg_backends():
    return [
        BackendDescription(
            name="acme",
            title="Acme",
            factory="gradreg_acme.backend:LinearBackend",
            modules=("numpy",),
            array_modules=("gradreg_acme",),
            capabilities=("linear_only",),
            spec_version=1,
            install="pip install gradreg-acme",
            devices="gradreg_acme.backend:devices",
            trainer="gradreg_acme.backend:no_such_trainer",
            sweep="gradreg_acme.absent:SWEEP",
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


@hookimpl
def gradreg_commands():
    return [
        CommandDescription(
            name="acme",
            target="gradreg_acme.command:acme",
            summary="Repeat a word.",
            install="pip install gradreg-acme",
        ),
        CommandDescription(
            name="acme-plot",
            target="gradreg_acme.absent:plot",
            summary="Draw a figure.",
            install='pip install "gradreg-acme[plot]"',
        ),
    ]
