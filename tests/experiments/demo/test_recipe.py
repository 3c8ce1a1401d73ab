"""The demo's plans and methods."""

import numpy as np
import pytest

from gradreg_core.presets import ConfidencePenalty, DataGrad, SpectReg, WeightDecay
from gradreg_experiments.data.digits import draw, standardise
from gradreg_experiments.demo.methods import METHODS
from gradreg_experiments.demo.recipe import Recipe, network_for


def test_the_methods_of_a_seed_differ_in_nothing_but_the_regularizer(digits):
    (part,) = standardise(draw(digits.pool, 60, seed=3))
    recipe = Recipe(steps=7)
    plain, penalised = (recipe.plan(part, reg, seed=3, dropout=0.5) for reg in (None, DataGrad(1.0)))
    weak, other = recipe.plan(part, None, seed=3, dropout=0.2), recipe.plan(part, None, seed=4, dropout=0.5)
    np.testing.assert_array_equal(plain.batches, penalised.batches)
    assert plain.batches.shape == (7, 50)
    assert all(len(set(batch)) == 50 for batch in plain.batches.tolist())
    assert not np.array_equal(plain.batches, other.batches)
    for path in plain.params:
        np.testing.assert_array_equal(plain.params[path], penalised.params[path])
    (mask,), (same,), (fewer,) = (plan.masks(5).values() for plan in (plain, penalised, weak))
    np.testing.assert_array_equal(mask, same)
    assert set(np.unique(mask)) == {0, 2}
    assert ((fewer > 0) >= (mask > 0)).all()
    rates = [plain.learning_rate(step) / recipe.learning_rate for step in (0, 3, 4, 5, 6)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_the_methods_are_what_their_names_say():
    made = {method.name: (method.make(0.5, 7), method.dropout(0.5)) for method in METHODS}
    assert made == {
        "none": (None, 0),
        "weight decay": (WeightDecay(0.5), 0),
        "confidence penalty": (ConfidencePenalty(0.5), 0),
        "dropout": (None, 0.5),
        "SpectReg": (SpectReg(0.5, seed=7), 0),
        "DataGrad": (DataGrad(0.5), 0),
        "dropout + DataGrad": (DataGrad(0.5), 0.5),
    }
    assert all(list(method.grid) == sorted(method.grid) for method in METHODS)


@pytest.mark.parametrize("shape", [(8, 8, 1), (15, 20, 1), (16, 16, 1), (28, 28, 1)])
def test_the_network_fits_the_images(shape):
    assert network_for(shape).output_shape == (10,)
