"""Descriptions that are in order, of backends that are not."""

from gradreg_core.plugins.hookspecs import BackendDescription, hookimpl


def nothing():
    return None


def fails():
    raise OSError("libacme.so.1: cannot open shared object file")


def _describe(name, factory, *modules):
    return BackendDescription(name=name, factory=factory, modules=modules, spec_version=1, install="pip install acme")


@hookimpl
def gradreg_backends():
    return [
        _describe("acme-nothing", "gradreg_acme_broken.factories:nothing"),
        _describe("acme-fails", "gradreg_acme_broken.factories:fails"),
        _describe("acme-nowhere", "gradreg_acme_broken.factories:no_such_name"),
        _describe("acme-crashing", "gradreg_acme_broken.factories:nothing", "acme_crashing"),
        _describe("acme-hanging", "gradreg_acme_broken.factories:nothing", "acme_hanging"),
    ]
