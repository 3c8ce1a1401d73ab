"""The counted work of a network agrees with PyTorch's counter."""

import pytest
from torch.utils.flop_counter import FlopCounterMode

from gradreg_bench.networks import NETWORKS, first_share, layer_work, limit
from gradreg_bench.torch_steps import TorchSteps


@pytest.mark.parametrize("name", NETWORKS)
def test_the_work_is_what_pytorch_counts(name):
    steps = TorchSteps.of_network("torch", NETWORKS[name], 2, "eager")
    with FlopCounterMode(display=False) as counter:
        steps.forward(steps.x)
    # PyTorch counts a multiplication and an addition, for each of two samples.
    assert 4 * sum(work for _, work in layer_work(NETWORKS[name])) == counter.get_total_flops()


@pytest.mark.parametrize("name", ["mlp", "lenet", "resnet-groupnorm"])
def test_the_first_share_follows_from_pytorchs_count_of_a_step(name):
    steps = TorchSteps.of_network("torch", NETWORKS[name], 2, "eager")
    assert steps.first_share() == pytest.approx(first_share(NETWORKS[name]), abs=1e-12)


def test_limits():
    assert limit(0.0, 1) == 2.0
    assert limit(0.0, 10) == 11.0
    assert limit(first_share(NETWORKS["mlp"]), 1) == pytest.approx(2.25, abs=0.005)
