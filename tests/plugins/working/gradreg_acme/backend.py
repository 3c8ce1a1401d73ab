"""The calls for a model that is a matrix W: outputs x W^T, Jacobian W for every sample."""

import numpy as np

from gradreg_core.backend import Backend


class Array(np.ndarray):
    """An array type of its own, so that calls can be dispatched to this backend."""


def devices():
    return ["anvil:0"]


class LinearBackend:
    def penalty(self, model, x, y, reg, **options):
        return float(reg.weight * np.sum(model * model))

    def loss(self, model, x, y, reg, **options):
        return float(np.mean((x @ model.T - y) ** 2)) + self.penalty(model, x, y, reg)

    def measure(self, model, x, y=None, **options):
        return np.full(len(x), np.linalg.norm(model))

    def check(self, model, x, y, reg, **options):
        return "linear: nothing to check"


class Primitives(Backend):
    """A backend that leaves the calls to gradreg."""

    name = "acme-primitives"


Primitives.__abstractmethods__ = frozenset()  # no call is made
