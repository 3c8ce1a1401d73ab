"""The demo's data: parts with no image in common, drawn by a seed, standardised by the training part."""

import numpy as np
import pytest

from gradreg_core.errors import InputError
from gradreg_experiments.data.digits import Part, draw, standardise


def test_the_parts_of_the_digits_have_no_image_in_common(digits):
    assert [len(part.y) for part in (digits.pool, digits.validation, digits.test)] == [597, 600, 600]
    parts = [{image.tobytes() for image in part.x} for part in (digits.pool, digits.validation, digits.test)]
    assert len(set.union(*parts)) == sum(map(len, parts))


def test_a_split_is_standardised_by_its_training_part_and_drawn_by_its_seed(digits):
    (train, test), (other, _), (again, _) = (
        standardise(draw(digits.pool, 80, seed), digits.test) for seed in (0, 1, 0)
    )
    assert train.x.dtype == np.float32
    assert train.x.shape == (80, 8, 8, 1)
    assert train.x.mean() == pytest.approx(0, abs=1e-6)
    assert train.x.std() == pytest.approx(1, abs=1e-6)
    assert abs(test.x.mean()) > 1e-6
    np.testing.assert_array_equal(train.x, again.x)
    assert not np.array_equal(train.y, other.y)
    np.testing.assert_array_equal(test.y, digits.test.y)
    with pytest.raises(InputError, match="every pixel of the training images is 0"):
        standardise(Part(np.zeros((2, 8, 8, 1), np.uint8), np.zeros(2, np.int64)))
