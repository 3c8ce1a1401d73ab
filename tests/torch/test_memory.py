"""Memory that a step keeps for its backward pass, counted by PyTorch's hooks for saved tensors."""

import pytest
import torch

import gradreg_torch as gradreg
from gradreg_bench.networks import NETWORKS
from gradreg_bench.torch_steps import TorchSteps


def kept(steps, reg):
    """Bytes of the arrays that are kept, parameters and the batch left out."""
    own = {array.untyped_storage().data_ptr() for array in (*steps.params, steps.x, steps.y)}
    sizes, arrays = {}, []

    def pack(array):
        storage = array.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            arrays.append(array)  # so that no address is used twice
        return array

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda array: array):
        gradreg.loss(steps.model, steps.x, steps.y, reg, step=0)
    return sum(sizes.values())


@pytest.mark.parametrize("name", ["lenet-valid", "resnet-batchnorm", "resnet-groupnorm", "transformer"])
@pytest.mark.parametrize("reg", [gradreg.DataGrad(1.0), gradreg.SpectReg(1.0)], ids=["DataGrad", "SpectReg"])
def test_a_penalised_step_keeps_activations_and_cotangents_once(name, reg):
    """Twice what a plain step keeps, and a twentieth for the few arrays of statistics and directions."""
    steps = TorchSteps.of_network("torch", NETWORKS[name], 8, "eager")
    assert kept(steps, reg) < 2.1 * kept(steps, None)


def test_a_step_that_is_not_due_keeps_what_a_plain_one_does():
    steps = TorchSteps.of_network("torch", NETWORKS["transformer"], 8, "eager")
    assert kept(steps, gradreg.DataGrad(1.0).due(0)) > kept(steps, None)
    assert kept(steps, gradreg.DataGrad(1.0, every=2).due(1)) == kept(steps, None)
