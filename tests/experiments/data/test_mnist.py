"""MNIST as the authors split and scaled it."""

import numpy as np
import pytest

from gradreg_core.errors import DataFileError, InputError
from gradreg_experiments.data import mnist


def test_the_subset_is_the_authors_permutation(files):
    split = mnist.split_files(files, 40, seed=7)
    chosen = np.random.RandomState(7).permutation(100)[:40]
    assert np.array_equal(split.train.y, files.train_labels[chosen])
    assert np.array_equal(split.held_out.y, files.train_labels[-20:])
    for part in split:
        assert part.x.mean() == pytest.approx(0, abs=1e-5)
        assert part.x.std() == pytest.approx(1, abs=1e-5)
    shared = mnist.split_files(files, 40, seed=7, shared=True)
    assert shared.official.mean == shared.train.mean


def test_other_content_than_mnists_is_refused(folder):
    with pytest.raises(DataFileError, match=r"train images are not the original MNIST's.*--unverified-data"):
        mnist.load(folder)


def test_too_large_a_subset_is_refused(files):
    with pytest.raises(InputError, match="train_size is 101, but there are only 100"):
        mnist.split_files(files, 101, 1)


def test_a_malformed_file_is_refused(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataFileError, match="after the header"):
        mnist.load(tmp_path, unverified=True)
