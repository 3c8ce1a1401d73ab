"""Commands that are wrong in one way each: the name is gradreg's own, and the target is not a command."""

from gradreg_core.plugins.hookspecs import CommandDescription, hookimpl


@hookimpl
def gradreg_commands():
    target = "gradreg_acme_broken.factories:nothing"
    return [
        CommandDescription(name=name, target=target, summary="Do nothing.", install="pip install gradreg-acme-broken")
        for name in ("doctor", "acme-nothing")
    ]
