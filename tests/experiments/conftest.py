"""Fixtures of the experiments: small images that tell their class, in MNIST's format, and the digits."""

from pathlib import Path

import numpy as np
import pytest
import torch

import gradreg_numpy
from gradreg_core.portable.networks import Activation, BatchNorm, Dense, Dropout, Network
from gradreg_core.presets import DataGrad, SpectReg, WeightDecay
from gradreg_experiments.data import mnist
from gradreg_experiments.data.digits import load_dataset
from gradreg_experiments.job import Job
from gradreg_experiments.paper.protocol import Protocol
from gradreg_experiments.plan import Plan

NETWORK = Network((4,), (Dense(5), BatchNorm(), Activation("tanh"), Dropout(), Dense(3)))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Arrays are small: threads inside an operation only get in each other's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes((0, 0, 8, array.ndim)) + b"".join(length.to_bytes(4, "big") for length in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blurred bars at places that tell the class, 120 to train and 60 to test with."""
    place = tmp_path_factory.mktemp("idx")
    rng = np.random.default_rng(0)
    for name, count in (("train", 120), ("t10k", 60)):
        labels = rng.integers(0, 10, count)
        images = rng.integers(0, 40, (count, 28, 28))
        for image, label in zip(images, labels, strict=True):
            image[4 + 2 * label : 7 + 2 * label, 5:23] += 200
        _write_idx(place / f"{name}-images-idx3-ubyte", images)
        _write_idx(place / f"{name}-labels-idx1-ubyte", labels)
    return place


@pytest.fixture(scope="session")
def files(folder: Path) -> mnist.Mnist:
    return mnist.load(folder, unverified=True)


@pytest.fixture(scope="session")
def digits():
    return load_dataset()


@pytest.fixture
def tiny() -> Protocol:
    """Four steps on 40 images."""
    return Protocol(train_size=40, steps=4, batch=10)


@pytest.fixture
def make_job(tiny):
    """A function that makes a job of the paper's, weight decay included."""

    def make(backend="torch", protocol=tiny, reg=None, seed=1, **fields):
        terms = WeightDecay(5e-4) if reg is None else reg + WeightDecay(5e-4)
        return Job(protocol, terms, seed, backend, "synthetic", **fields)

    return make


@pytest.fixture
def small_plan():
    """A function that makes a plan of five steps of a small network with statistics, dropout and scheduled terms."""

    def make(**changes):
        rng = np.random.default_rng(0)
        statistics = {"1.mean": rng.normal(size=5), "1.variance": rng.uniform(0.5, 2, 5)}
        fields = {
            "network": NETWORK,
            "params": gradreg_numpy.initialize(NETWORK, 1) | statistics,
            "x": rng.normal(size=(12, 4)),
            "y": rng.integers(0, 3, 12),
            "batches": rng.integers(0, 12, (5, 4)),
            "reg": DataGrad(0.5, every=2) + SpectReg(lambda step: 0.1 * (step % 3)) + WeightDecay(0.01),
            "learning_rate": lambda step: 0.05 / (1 + step),
            "masks": lambda step: {"3": 2.0 * np.random.default_rng(step).integers(0, 2, (4, 5))},
            "dtype": "float64",
            "chunk": 2,  # the state is carried over from one chunk to the next
        }
        return Plan(**fields | changes)

    return make
