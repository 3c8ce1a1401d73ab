"""The authors' protocol and networks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import gradreg_torch
from gradreg_core.errors import InputError
from gradreg_core.presets import DataGrad, SpectReg, WeightDecay
from gradreg_experiments.paper.network import build, initialise, parameter_count
from gradreg_experiments.paper.protocol import Protocol, split
from gradreg_torch import networks


def test_networks_have_the_papers_sizes():
    assert parameter_count(build(Protocol())) == 61_706
    assert parameter_count(build(Protocol(network="lenettuned"))) == 255_230


def test_initial_weights_have_the_authors_deviations():
    params = initialise(build(Protocol(network="lenettuned")), 3)
    third = params["7.weight"]
    assert third.shape == (1600, 120)
    assert third.std() == pytest.approx(np.sqrt(4 / (1600 + 3000)), rel=0.02)
    assert params["9.weight"].std() == pytest.approx(np.sqrt(2 / (120 + 84)), rel=0.02)
    assert params["3.weight"].std() == pytest.approx(np.sqrt(4 / (25 * (32 + 64))), rel=0.02)
    assert all(not value.any() for path, value in params.items() if path.endswith("bias"))


def test_the_learning_rate_falls_after_5000_and_7500():
    rates = [Protocol().rate(step) for step in (0, 5000, 5001, 7500, 7501, 10_000)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])


def test_only_penalties_on_logits_go_apart_under_dropout(tiny):
    dropout = replace(tiny, before_last="dropout")
    reg = DataGrad(1.0) + SpectReg(0.1) + WeightDecay(0.5)
    shared, apart = split(dropout, reg)
    assert shared == DataGrad(1.0) + WeightDecay(0.5)
    assert apart is not None
    assert apart.terms == (SpectReg(0.1),)
    assert split(tiny, reg) == (reg, None)
    assert split(replace(dropout, penalty_pass="shared"), reg) == (reg, None)


@pytest.mark.parametrize("wrong", [{"network": "vgg"}, {"keep": 0.0}, {"steps": 0}, {"mixup": -1.0}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(InputError, match="Protocol"):
        Protocol(**wrong)


def test_spectreg_of_one_direction_penalises_nothing_before_batch_normalisation(tiny):
    """As the page says of Table 1: the projected sum over a batch does not depend on the images."""
    network = build(replace(tiny, before_last="batchnorm"))
    model = networks.Module(network, initialise(network, 1), torch.float64)
    x = torch.tensor(np.random.default_rng(0).normal(size=(8, 28, 28, 1)))

    def penalty(draw):
        return gradreg_torch.penalty(model, x, None, SpectReg(1.0, draw=draw), batch_norm="allow").item()

    assert penalty("per_batch") < 1e-20 * penalty("per_sample")  # squares of rounding errors of 1e-16
