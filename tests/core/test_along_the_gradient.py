"""Differences along a gradient's own direction: against the reference, without second derivatives, at kinks."""

from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch
from torch import nn

import gradreg_jax
import gradreg_numpy
import gradreg_tensorflow
import gradreg_torch
from cases import FLOAT64, network, problem
from gradreg_conformance import Case, agreement
from gradreg_core.errors import InputError, SpecError
from gradreg_core.presets import R1, DataGrad, GradientPenalty, JacReg, SpectReg
from gradreg_core.projections import exact, gaussian, ones
from gradreg_core.spec import JacobianPenalty, Regularizer
from gradreg_torch.networks import Module

BACKENDS = {"torch": "eager", "jax": "jit", "tensorflow": "eager"}
REGULARIZERS: list[tuple[str, Regularizer]] = [
    ("dense", DataGrad(2.0, method="difference")),
    ("critic", DataGrad(2.0, method="difference", h=0.3, fraction=0.5)),
    ("dense", DataGrad(2.0, method="difference", squared=False) + SpectReg(0.1) + DataGrad(1.0)),
    ("pooled", R1(10.0, method="difference", projection=ones(), h=0.1, every=2)),
    ("critic", R1(10.0, method="difference") + GradientPenalty(10.0, method="difference")),
    ("dense", GradientPenalty(1.0, projection=ones(), target=0.1, one_sided=True, method="difference", h=0.2)),
    ("batch_norm", DataGrad(1.0, method="difference", h=0.5)),
]


@pytest.mark.sample(10)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "reg"), REGULARIZERS, ids=[f"{name}-{reg}" for name, reg in REGULARIZERS])
def test_float64_equals_the_reference(name: str, reg: Regularizer, backend: str) -> None:
    weights = (1.0, 0.5, 0.0, 2.0)
    case = Case(network(name), reg, 4, step=2, sample_weight=weights)
    comparisons = agreement(backend, case, mode=BACKENDS[backend], of="total")
    # A difference of outputs of order 1 that is divided by h has their roundoff over h, the reference's too.
    smallest = min(term.lower().h for term in reg.terms)
    assert max(comparison.relative for comparison in comparisons.values()) <= FLOAT64 / smallest


def test_inside_transforms_of_pytorch() -> None:
    case = Case(network("critic"), R1(1.0, method="difference", h=0.5), 4)
    comparisons = agreement("torch", case, mode="func")
    assert max(comparison.relative for comparison in comparisons.values()) <= FLOAT64 / 0.5


@pytest.mark.slow
def test_compiled_equals_eager() -> None:
    model, x, y = problem("dense")
    module, inputs, labels = Module(model.network, model.params, torch.float64), torch.tensor(x), torch.tensor(y)
    reg = DataGrad(1.0, method="difference")

    def total() -> torch.Tensor:
        return gradreg_torch.loss(module, inputs, labels, reg)[0]

    torch._dynamo.reset()
    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    gradients = [torch.autograd.grad(function(), list(module.parameters())) for function in (total, compiled)]
    for eager, traced in zip(*gradients, strict=True):
        torch.testing.assert_close(traced, eager, rtol=1e-10, atol=1e-12)  # roundoff over h = 0.01


# --- what it is for ---------------------------------------------------------------------------------------------------
class Once(torch.autograd.Function):
    """tanh, whose backward cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (y,) = ctx.saved_tensors
        return gradient * (1 - y * y)


def test_layers_need_a_first_derivative_alone() -> None:
    torch.manual_seed(0)
    first, last = nn.Linear(4, 6).double(), nn.Linear(6, 3).double()
    x, y = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    gradients = []
    for activation in (Once.apply, torch.tanh):
        reg = DataGrad(1.0, method="difference")
        value = gradreg_torch.loss(lambda x, act=activation: last(act(first(x))), x, y, reg)[0]
        gradients.append(torch.autograd.grad(value, [first.weight, last.weight]))
    for once, twice in zip(*gradients, strict=True):
        torch.testing.assert_close(once, twice, rtol=1e-10, atol=1e-12)  # the same numbers, rounding over h = 0.01
    with pytest.raises(RuntimeError, match=r"once_differentiable|differentiate twice"):
        gradreg_torch.loss(lambda x: last(Once.apply(first(x))), x, y, DataGrad(1.0))[0].backward()


def test_jax_differentiates_nothing_twice_either() -> None:
    """A callback in the backward pass has no derivative, and JAX would look for one even if nothing used it."""

    def backward(y: Any, g: Any) -> tuple[Any]:
        def on_host(y: Any, g: Any) -> Any:
            return np.asarray(g) * (1 - np.asarray(y) ** 2)

        return (jax.pure_callback(on_host, jax.ShapeDtypeStruct(y.shape, y.dtype), y, g),)

    once = jax.custom_vjp(jnp.tanh)
    once.defvjp(lambda x: (jnp.tanh(x), jnp.tanh(x)), backward)
    rng = np.random.default_rng(0)
    weight, x = jnp.asarray(rng.normal(size=(4, 3)), "float32"), jnp.asarray(rng.normal(size=(5, 4)), "float32")

    def penalty(weight: Any, activation: Any) -> Any:
        reg = R1(1.0, method="difference", projection=ones(), h=0.5)
        return gradreg_jax.penalty(lambda x: activation(x @ weight), x, None, reg)

    gradients = [jax.jit(jax.grad(penalty), static_argnums=1)(weight, activation) for activation in (once, jnp.tanh)]
    np.testing.assert_allclose(*gradients, rtol=1e-4)  # float32, divided by h


def test_its_gradient_approaches_that_of_double_backpropagation_like_h() -> None:
    model, x, y = problem("dense")
    module = Module(model.network, model.params, torch.float64)

    def gradient(**chosen: Any) -> torch.Tensor:
        value = gradreg_torch.penalty(module, torch.tensor(x), torch.tensor(y), DataGrad(1.0, **chosen))
        return torch.cat([part.flatten() for part in torch.autograd.grad(value, list(module.parameters()))])

    twice = gradient()
    errors = [float((gradient(method="difference", h=h) - twice).norm() / twice.norm()) for h in (1e-2, 1e-3)]
    assert errors[0] < 0.1
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.1)


def test_at_a_kink_it_is_a_mean_of_the_slopes_on_both_sides() -> None:
    """u = max(0, x) + x / 2 at x = -0.004: slope 1/2, and 3/2 for the last 6 of the 10 parts of the way."""
    x = torch.tensor([[-0.004]], dtype=torch.float64)

    def critic(x: torch.Tensor) -> torch.Tensor:
        return x.relu() + x / 2

    value = gradreg_torch.penalty(critic, x, None, R1(2.0, method="difference", h=0.01))
    assert value.item() == pytest.approx((0.4 * 0.5 + 0.6 * 1.5) ** 2, rel=FLOAT64 / 0.01)


def test_where_the_gradient_is_zero_there_is_no_direction_and_no_penalty() -> None:
    x = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    value = gradreg_torch.penalty(lambda x: ((x - 1) ** 2).sum(1), x, None, R1(1.0, method="difference"))
    value.backward()
    assert value.item() == 0
    assert bool((x.grad == 0).all())


# --- masks and state --------------------------------------------------------------------------------------------------
def test_all_passes_have_the_mask_of_the_loss_in_torch() -> None:
    """With one mask this critic is linear, and the difference is exact; with two it would be of order 1 / h."""
    model = nn.Sequential(nn.Linear(5, 40), nn.Dropout(0.5), nn.Linear(40, 1)).double().train()
    x = torch.randn(6, 5, dtype=torch.float64)
    penalties = []
    for method in ("jvp", "difference"):
        torch.manual_seed(1)
        _, parts = gradreg_torch.loss(model, x, torch.zeros(6, dtype=torch.long), R1(2.0, method=method))
        after = torch.rand(1)
        torch.manual_seed(1)
        assert torch.equal(parts.outputs, model(x))
        assert torch.equal(after, torch.rand(1))  # the generator went on by one pass
        penalties.append(parts.penalty[0].item())
    assert penalties[1] == pytest.approx(penalties[0], rel=FLOAT64 / 0.01)


def test_moving_statistics_move_once() -> None:
    x, y = torch.randn(8, 5), torch.zeros(8, dtype=torch.long)
    plain, penalised = (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).train() for _ in range(2))
    penalised.load_state_dict(plain.state_dict())
    plain(x)
    gradreg_torch.loss(penalised, x, y, DataGrad(1.0, method="difference"), batch_norm="allow")
    for mine, wanted in zip(penalised.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, wanted)


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_keras_layers_draw_the_same_masks_and_move_once(norm: bool, in_graph: bool) -> None:
    layers, x = tf.keras.layers, tf.constant(np.random.default_rng(0).normal(size=(8, 5)), tf.float32)
    between = [layers.BatchNormalization] if norm else []

    def critic() -> Any:
        tf.keras.utils.set_random_seed(0)
        own = [kind() for kind in between]
        return tf.keras.Sequential([layers.Input((5,)), *own, layers.Dropout(0.5, seed=3), layers.Dense(1)])

    plain = critic()
    plain(x, training=True)
    penalties = []
    for method in ("jvp", "difference"):
        model = critic()

        def penalty(model: Any = model, method: str = method) -> Any:
            reg = R1(1.0, method=method)
            return gradreg_tensorflow.penalty(lambda x: model(x, training=True), x, None, reg, batch_norm="allow")

        penalties.append(float((tf.function(penalty) if in_graph else penalty)()))
        for mine, wanted in zip(model.non_trainable_variables, plain.non_trainable_variables, strict=True):
            np.testing.assert_array_equal(mine.numpy(), wanted.numpy())
    if not norm:  # linear with one mask; float32 over h = 0.01
        assert penalties[1] == pytest.approx(penalties[0], rel=1e-3)


def test_flax_layers_draw_the_same_masks_and_move_once() -> None:
    from flax import nnx

    x, penalties = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)), "float32"), []
    for method in ("jvp", "difference"):
        model = nnx.Sequential(nnx.Dropout(0.5, rngs=nnx.Rngs(0)), nnx.Linear(5, 1, rngs=nnx.Rngs(1)))
        penalties.append(float(gradreg_jax.penalty(model, x, None, R1(1.0, method=method))))
        assert int(model.layers[0].rngs.count[...]) == 1
    assert penalties[1] == pytest.approx(penalties[0], rel=1e-3)  # linear with one mask; float32 over h = 0.01


@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_other_frameworks_have_the_words_too(backend: str) -> None:
    assert import_module(f"gradreg_{backend}").R1(1.0, method="difference") == R1(1.0, method="difference")


# --- refusals ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpectReg(1.0, method="difference"), r"SpectReg: method='difference' on the output side .*gaussian"),
        (lambda: DataGrad(1.0, method="difference", norm="l1"), "DataGrad: method='difference' measures the slope"),
        (lambda: DataGrad(1.0, method="difference", at="h"), "DataGrad: at='h' does not go with method='difference'"),
        (lambda: R1(1.0, method="difference", of="h"), "R1: of='h' does not go with method='difference'"),
        (lambda: R1(1.0, h=0.5), "R1: h=0.5 is the step of method='difference'"),
        (lambda: R1(1.0, method="difference", projection=gaussian()), r"R1: .*the sum of the outputs"),
        (
            lambda: JacobianPenalty(1.0, method="difference", projection=exact(), output="probabilities"),
            "got output='probabilities'",
        ),
    ],
)
def test_specifications_that_make_no_sense(make: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make()


def test_terms_without_the_choice_do_not_take_it() -> None:
    with pytest.raises(TypeError, match="method"):
        JacReg(1.0, method="difference")  # type: ignore[call-arg]


def test_several_outputs_have_no_gradient_of_their_own() -> None:
    x = torch.randn(4, 5)
    with pytest.raises(InputError, match=r"follows the gradient of one number .* has 3 outputs; pass projection=ones"):
        gradreg_torch.penalty(nn.Linear(5, 3), x, None, R1(1.0, method="difference"))
    with pytest.raises(InputError, match="needs x in float32 or float64"):
        gradreg_torch.penalty(lambda x: x.float().sum(1), x.bfloat16(), None, R1(1.0, method="difference"))


def test_the_values_are_those_of_the_reference_on_the_sum_of_patches() -> None:
    model, x, _ = problem("conv")
    module = Module(model.network, model.params, torch.float64)
    for reg in (R1(1.0, projection=ones()), GradientPenalty(1.0, projection=ones())):
        value = gradreg_torch.penalty(module, torch.tensor(x), None, reg).item()
        assert value == pytest.approx(float(gradreg_numpy.penalty(model, x, None, reg)), rel=FLOAT64)
    outputs = module(torch.tensor(x, requires_grad=True))
    assert np.prod(outputs.shape[1:]) == 3
