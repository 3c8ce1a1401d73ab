"""The baselines compute what gradreg's regularizers compute, in every framework and over a harness alone."""

import jax
import numpy as np
import pytest

from gradreg_bench.harness_steps import HarnessSteps
from gradreg_bench.jax_steps import JaxSteps
from gradreg_bench.torch_steps import TorchSteps
from gradreg_bench.variants import PLAIN, Variant
from gradreg_core.portable import networks as nets
from gradreg_core.presets import DataGrad, FrobReg

SMALL = nets.Network(
    (6, 6, 1), (nets.Conv2D(3, 3, "same"), nets.Activation("tanh"), nets.MaxPool(2), nets.Flatten(), nets.Dense(4))
)
EXACT = {
    "torch": ("projection loop", "vmap(jacrev)", "backward per projection"),
    "jax": ("projection loop", "vmap(jacrev)"),
    "tensorflow": ("projection loop", "vmap(jacrev)"),
    "autograd": ("projection loop",),
}


def torch_gradients(variant):
    steps = TorchSteps.of_network("torch", SMALL, 3, "eager")
    steps.step(variant)(0)
    return [param.grad.numpy().copy() for param in steps.params]


def jax_gradients(variant):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(JaxSteps.of_network("jax", SMALL, 3, "jit").step(variant)(0))]


def tensorflow_gradients(variant):
    from gradreg_bench.tensorflow_steps import TensorFlowSteps

    return TensorFlowSteps.of_network("tensorflow", SMALL, 3, "function").step(variant)(0)


def harness_gradients(variant):
    gradients = HarnessSteps.of_network("autograd", SMALL, 3, "harness").step(variant)(0)[1]
    return [gradients[path] for path in sorted(gradients)]  # in JAX's order


@pytest.fixture(params=[torch_gradients, jax_gradients, tensorflow_gradients, harness_gradients], ids=EXACT)
def gradients(request):
    if request.param is harness_gradients:
        request.getfixturevalue("autograd_plugin")
    return request.param


def assert_equal(one, other):
    for first, second in zip(one, other, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-6)  # float32: tens of roundings of order 1


@pytest.mark.slow
def test_baselines_compute_the_same(gradients, request):
    wanted = gradients(Variant("FrobReg", FrobReg(0.01), None))
    plain = gradients(Variant(PLAIN, rows=0))
    assert any(np.abs(one - other).max() > 1e-3 for one, other in zip(wanted, plain, strict=True))
    for name in EXACT[request.node.callspec.id]:
        assert_equal(gradients(Variant(name, rows=None)), wanted)


@pytest.mark.parametrize("gradients", [torch_gradients, jax_gradients])
def test_recomputation_changes_no_gradient(gradients):
    assert_equal(gradients(Variant("DataGrad recomputed")), gradients(Variant("DataGrad", DataGrad(1.0))))


def test_the_same_numbers_over_a_harness_as_in_jax(autograd_plugin):
    for variant in (Variant(PLAIN, rows=0), Variant("DataGrad", DataGrad(1.0))):
        assert_equal(harness_gradients(variant), jax_gradients(variant))
