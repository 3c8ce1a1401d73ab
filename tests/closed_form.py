"""Small networks whose Jacobians are written out by hand, and helpers of the NumPy oracle's tests."""

import math

import numpy as np

import gradreg_numpy as gradreg
from gradreg_core.portable.networks import Activation, BatchNorm, Dense, Network
from gradreg_core.random import STREAM_DIRECTION
from gradreg_core.spec import JacobianPenalty
from gradreg_numpy.draws import draws
from gradreg_numpy.networks import initialize

TANH = Activation("tanh")
EXACT = 1e-13  # relative: the same numbers by sums in another order, some hundred roundings of 1e-16
STEP = 1e-30
B, D, M = 4, 3, 3


class Hand:
    """z = tanh(x U + a) V + b with its closed-form Jacobian J_i = V^T diag(1 - h_i^2) U^T, for a batch."""

    def __init__(self, classes: int = M, batch: int = B, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.U, self.a = rng.normal(size=(D, 5)), rng.normal(size=5)
        self.V, self.b = rng.normal(size=(5, classes)), rng.normal(size=classes)
        self.x, self.y = rng.normal(size=(batch, D)), rng.integers(0, max(classes, 2), batch)
        params = {"0.weight": self.U, "0.bias": self.a, "2.weight": self.V, "2.bias": self.b}
        self.model = gradreg.Model(Network((D,), (Dense(5), TANH, Dense(classes))), params)
        h = np.tanh(self.x @ self.U + self.a)
        self.z = h @ self.V + self.b
        self.J = [self.V.T @ np.diag(1 - row**2) @ self.U.T for row in h]
        self.f = [np.exp(row) / np.exp(row).sum() for row in self.z]
        self.e = np.eye(max(classes, 2))[self.y]
        self.samples = range(batch)

    def mean(self, value):
        return sum(value(i) for i in self.samples) / len(self.samples)


def square(v):
    return float((v**2).sum())


def length(v):
    return math.sqrt((v**2).sum())


def normals(k, m=M, batch=B, *, seed=0, step=0, stream=STREAM_DIRECTION):
    return draws(seed, step, np.arange(batch)).gaussians(stream, range(k), m).astype(np.float64)


def general(projection, **chosen):
    return JacobianPenalty(1.0, projection=projection, **chosen)


def frobenius(n):
    return n.mean(lambda i: square(n.J[i]))


def data_grad(n):
    return n.mean(lambda i: square(n.J[i].T @ (n.f[i] - n.e[i])))


def sequence(seed=0):
    """z[i, p, q] = tanh(x[i, p] . U[:, q]), two axes of outputs after the batch; J[i][p, q] over x flattened."""
    rng = np.random.default_rng(seed)
    U, x = rng.normal(size=(2, 3)), rng.normal(size=(B, 4, 2))
    model = gradreg.Model(Network((4, 2), (Dense(3, bias=False), TANH)), {"0.weight": U})
    z = np.tanh(x @ U)
    J = np.zeros((B, 4, 3, 4, 2))
    for i, p, q in np.ndindex(B, 4, 3):
        J[i, p, q, p] = (1 - z[i, p, q] ** 2) * U[:, q]
    return model, x, z, J.reshape(B, 4, 3, 8)


def coupled_model(seed=0):
    network = Network((3,), (Dense(4), TANH, BatchNorm(training=True), Dense(3)))
    rng = np.random.default_rng(seed)
    return gradreg.Model(network, gradreg.initialize(network, seed)), rng.normal(size=(B, 3)), rng.integers(0, 3, B)


def scene(network: Network, batch: int = 3, seed: int = 0):
    """Random parameters without any 0 or 1 in them, inputs and dropout masks."""
    rng = np.random.default_rng(seed)
    params = {path: value + 0.3 * rng.uniform(0.1, 1, value.shape) for path, value in initialize(network, seed).items()}
    masks = {path: 2.0 * rng.integers(0, 2, (batch, *shape)) for path, shape in network.masks().items()}
    return params, rng.normal(size=(batch, *network.input_shape)), masks


def assert_equal(value, expected, tolerance=EXACT):
    assert value.shape == expected.shape
    assert np.abs(value - expected).max() <= tolerance * np.abs(expected).max()
