"""Directions in the space of the input, against the reference, in all frameworks and modes."""

from importlib import import_module
from typing import Any

import jax
import numpy as np
import pytest
import tensorflow as tf
import torch
from torch import nn

import gradreg_jax
import gradreg_numpy
import gradreg_tensorflow
import gradreg_torch
from cases import FLOAT64, named, network, problem
from gradreg_conformance import Case, agreement
from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.norms import hinge, target
from gradreg_core.presets import ConfidencePenalty, DataGrad, FrobReg, SpectReg
from gradreg_core.projections import direction, exact, orthonormal, rademacher, random_onehot, sphere
from gradreg_core.spec import JacobianPenalty, Regularizer
from gradreg_jax.versions import enable_x64
from gradreg_torch.networks import Module

REGULARIZERS: list[Regularizer] = [
    SpectReg(0.3, side="input", seed=3),
    SpectReg(0.3, side="input", spherical=True, projections=2),
    DataGrad(2.0, side="input", seed=1),
    JacobianPenalty(1.0, side="input", projection=exact(), output="probabilities"),
    JacobianPenalty(1.0, side="input", projection=rademacher(2), output="log_probabilities", norm="l1", squared=False),
    JacobianPenalty(1.0, side="input", projection=orthonormal(2, unbiased=True), norm="linf", draw="per_batch"),
    JacobianPenalty(1.0, side="input", projection=random_onehot(), phi=target(0.5), squared=False),
    JacobianPenalty(1.0, side="input", projection=sphere(unbiased=True), output="loss", phi=hinge(0.01)),
    SpectReg(0.3, side="input", method="difference"),
    SpectReg(0.3, side="input", method="difference", h=0.5, projections=2),
    DataGrad(2.0, side="input", method="difference", h=0.1),
    JacobianPenalty(1.0, side="input", projection=rademacher(), output="probabilities", method="difference"),
    JacobianPenalty(1.0, side="input", projection=rademacher(), output="log_probabilities", method="difference"),
    SpectReg(0.3, side="input", fraction=0.5) + ConfidencePenalty(0.1),
    SpectReg(0.3, side="input") + DataGrad(1.0) + DataGrad(0.5, side="input", method="difference", seed=4),
    SpectReg(0.3, side="input", every=2),
]
CASES = [
    *(("dense", reg) for reg in REGULARIZERS),
    *((name, reg) for name in ("conv", "normed", "attention", "batch_norm") for reg in REGULARIZERS[0:11:8]),
    *(("critic", reg) for reg in REGULARIZERS[2:11:4]),
]


def difference_error(reg: Regularizer) -> float:
    """A difference of outputs of order 1 that is divided by h has their roundoff over h, the reference's too."""
    smallest = min((term.lower().h for term in reg.terms if getattr(term, "method", "") == "difference"), default=1.0)
    return FLOAT64 / smallest


@pytest.mark.sample(30)
@pytest.mark.parametrize("backend", ["torch", "jax", "tensorflow"])
@pytest.mark.parametrize(
    ("name", "reg"),
    [pytest.param(name, case.values[0], id=f"{name}-{case.id}") for name, reg in CASES for case in named([reg])],
)
def test_float64_equals_the_reference(name: str, reg: Regularizer, backend: str) -> None:
    mode = {"torch": "eager", "jax": "jit", "tensorflow": "eager"}[backend]
    comparisons = agreement(backend, Case(network(name), reg, 4, step=2), mode=mode, of="total")
    assert max(comparison.relative for comparison in comparisons.values()) <= difference_error(reg)


# --- what the reference itself says ----------------------------------------------------------------------------------
def reference(reg: Regularizer, name: str = "dense", **options: Any) -> float:
    model, x, y = problem(name)
    return float(gradreg_numpy.penalty(model, x, y, reg, **options))


@pytest.mark.parametrize("name", ["dense", "conv", "normed"])
def test_all_basis_vectors_give_the_frobenius_norm_from_either_side(name: str) -> None:
    both = [reference(JacobianPenalty(1.0, projection=exact(), side=side), name) for side in ("output", "input")]
    assert both[0] == pytest.approx(both[1], rel=FLOAT64)
    assert both[0] == pytest.approx(reference(FrobReg(1.0), name), rel=FLOAT64)


def test_expectation_and_variance_are_the_same_from_either_side() -> None:
    """Var ||J v||^2 = 2 tr((J^T J)^2) = 2 tr((J J^T)^2) for Gaussian v; the mean is tr(J J^T)."""
    model, x, _ = problem("dense", batch=1)
    _, J = gradreg_numpy.jacobian(model.network, model.params, x)
    gram = J[0] @ J[0].T
    repeated = np.repeat(x, 4000, 0)
    one = Module(model.network, model.params, torch.float64)
    given = torch.tensor(repeated)
    for reg in (SpectReg(1.0), SpectReg(1.0, side="input")):
        drawn = gradreg_torch.penalty(one, given, None, reg)
        fourth = gradreg_torch.penalty(
            one, given, None, JacobianPenalty(1.0, side=reg.side, phi=target(0.0))
        )  # the mean of the squared squared norm
        error = np.sqrt(2 * np.trace(gram @ gram) / 4000)
        assert abs(drawn.item() - np.trace(gram)) < 5 * error  # five standard errors
        variance = fourth.item() - drawn.item() ** 2
        assert variance == pytest.approx(2 * np.trace(gram @ gram), rel=0.25)  # its own spread: about 5 % of it


def test_datagrad_along_inputs_is_unbiased() -> None:
    model, x, y = problem("dense", batch=1)
    one = Module(model.network, model.params, torch.float64)
    given, labels = torch.tensor(np.repeat(x, 4000, 0)), torch.tensor(np.repeat(y, 4000))
    wanted = gradreg_torch.penalty(one, given[:1], labels[:1], DataGrad(1.0)).item()
    value = gradreg_torch.penalty(one, given, labels, DataGrad(1.0, side="input")).item()
    assert abs(value - wanted) < 5 * wanted * np.sqrt(2 / 4000)  # (g . v)^2 is chi-squared: five standard errors


def test_the_difference_approaches_the_product_like_h_on_a_smooth_network() -> None:
    exact_value = reference(SpectReg(1.0, side="input"))
    errors = [abs(reference(SpectReg(1.0, side="input", method="difference", h=h)) - exact_value) for h in (1e-2, 1e-3)]
    assert errors[1] < 0.2 * errors[0]  # a tenth, and a little from the second order
    assert errors[0] < 0.05 * exact_value


def test_the_difference_feels_kinks_that_derivatives_never_see() -> None:
    """max(0, x) just below its kink: slope 0, but not over a distance."""
    model, x = nn.ReLU(), torch.tensor([[-1e-3]])
    directions = torch.tensor([[1.0]])
    jvp, difference = (
        gradreg_torch.penalty(
            model, x, None, JacobianPenalty(1.0, projection=direction(), side="input", **chosen), directions=directions
        ).item()
        for chosen in ({}, {"method": "difference", "h": 0.01})
    )
    assert jvp == 0.0
    assert difference == pytest.approx(0.9**2, rel=1e-5)  # (0.01 - 0.001) / 0.01


# --- directions of the caller ----------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax", "tensorflow"])
def test_given_directions_have_the_shape_of_the_input(backend: str) -> None:
    model, x, _ = problem("conv")
    rng = np.random.default_rng(0)
    for shape in ((36,), (6, 6, 1), (4, 36), (4, 6, 6, 1), (2, 4, 36)):
        v = rng.normal(size=shape)
        reg = JacobianPenalty(1.0, projection=direction(), side="input")
        wanted = gradreg_numpy.penalty(
            model, x, None, reg, directions=v.reshape(*shape[: len(shape) - 3], 36) if shape[-1] == 1 else v
        )
        value = penalty_in(backend, model, x, reg, directions=v)
        assert value == pytest.approx(wanted, rel=FLOAT64)


def penalty_in(backend: str, model: gradreg_numpy.Model, x: np.ndarray, reg: Regularizer, **options: Any) -> float:
    """The penalty of a reference model in a framework, in float64."""
    if backend == "torch":
        one = Module(model.network, model.params, torch.float64)
        options = {name: torch.tensor(value) for name, value in options.items()}
        return gradreg_torch.penalty(one, torch.tensor(x), None, reg, **options).item()
    apply = import_module(f"gradreg_{backend}.networks").apply
    if backend == "tensorflow":
        params = {path: tf.constant(value) for path, value in model.params.items()}
        options = {name: tf.constant(value) for name, value in options.items()}
        call = lambda x: apply(model.network, params, x)  # noqa: E731
        return float(gradreg_tensorflow.penalty(call, tf.constant(x), None, reg, **options))
    with enable_x64(True):
        call = lambda x: apply(model.network, model.params, x)  # noqa: E731
        return float(gradreg_jax.penalty(call, jax.numpy.asarray(x), None, reg, **options))


# --- masks and statistics --------------------------------------------------------------------------------------------
# With one dropout mask these models are linear, and both methods agree but for rounding over h; with two masks the
# difference would be of order 1 / h.
METHODS = [SpectReg(1.0, side="input", method=method) for method in ("jvp", "difference")]


def test_both_passes_of_a_difference_have_the_same_mask_in_torch() -> None:
    model = nn.Sequential(nn.Linear(5, 40), nn.Dropout(0.5), nn.Linear(40, 3)).train()
    x, y = torch.randn(6, 5), torch.zeros(6, dtype=torch.long)
    penalties = []
    for reg in METHODS:
        torch.manual_seed(1)
        _, parts = gradreg_torch.loss(model, x, y, reg)
        after = torch.rand(1)
        torch.manual_seed(1)
        assert torch.equal(parts.outputs, model(x))  # the loss is of the mask that the caller's generator gives
        assert torch.equal(after, torch.rand(1))  # which goes on by one pass
        penalties.append(parts.penalty[0].item())
    assert penalties[1] == pytest.approx(penalties[0], rel=1e-3)


def test_both_passes_of_a_difference_have_the_same_mask_in_keras() -> None:
    layers = tf.keras.layers
    model = tf.keras.Sequential([layers.Input((5,)), layers.Dropout(0.5, seed=3), layers.Dense(3)])
    x = tf.constant(np.random.default_rng(0).normal(size=(6, 5)), tf.float32)
    seed = model.layers[0].seed_generator.state.value
    start = seed.numpy()
    model(x, training=True)
    after = seed.numpy()
    penalties = []
    for reg in METHODS:
        seed.assign(start)
        penalties.append(float(gradreg_tensorflow.penalty(lambda x: model(x, training=True), x, None, reg)))
        assert np.array_equal(seed.numpy(), after)  # the generator went on by one pass
    assert penalties[1] == pytest.approx(penalties[0], rel=1e-3)


def test_both_passes_of_a_difference_have_the_same_mask_in_flax() -> None:
    from flax import nnx

    x = jax.numpy.asarray(np.random.default_rng(0).normal(size=(6, 5)), "float32")
    penalties = []
    for reg in METHODS:
        model = nnx.Sequential(nnx.Dropout(0.5, rngs=nnx.Rngs(0)), nnx.Linear(5, 3, rngs=nnx.Rngs(1)))
        penalties.append(float(gradreg_jax.penalty(model, x, None, reg)))
        assert int(model.layers[0].rngs.count[...]) == 1
    assert penalties[1] == pytest.approx(penalties[0], rel=1e-3)


@pytest.mark.parametrize("reg", METHODS)
def test_moving_statistics_move_once(reg: SpectReg) -> None:
    x, y = torch.randn(8, 5), torch.zeros(8, dtype=torch.long)
    plain, penalised = (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).train() for _ in range(2))
    penalised.load_state_dict(plain.state_dict())
    plain(x)
    gradreg_torch.loss(penalised, x, y, reg, batch_norm="allow")
    for mine, wanted in zip(penalised.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, wanted)


def test_the_difference_needs_no_second_derivative() -> None:
    """cdist has none in PyTorch, and ctc-like operations neither: the difference differentiates once."""
    table = nn.Parameter(torch.randn(3, 5))

    def model(x: torch.Tensor) -> torch.Tensor:
        return torch.cdist(x, table)

    x = torch.randn(4, 5)
    with pytest.raises(NotImplementedError, match="derivative of cdist is not implemented"):
        gradreg_torch.penalty(model, x, None, SpectReg(1.0)).backward()
    gradreg_torch.penalty(model, x, None, SpectReg(1.0, side="input", method="difference")).backward()
    assert table.grad is not None
    assert bool((table.grad != 0).any())


@pytest.mark.parametrize("norm", [nn.LayerNorm(6), nn.BatchNorm1d(6), nn.InstanceNorm1d(6, affine=True)])
def test_norms_of_pytorch_are_right_in_the_third_derivative(norm: nn.Module) -> None:
    """PyTorch's own are not: the second half of the test sees to it that this is still needed."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), norm, nn.Linear(6, 3)).double().train()
    x, v = torch.randn(2, 4, 5).double()
    if isinstance(norm, nn.InstanceNorm1d):
        model = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Unflatten(1, (6, 2)), norm, nn.Flatten()).double().train()

    def value(x: torch.Tensor) -> torch.Tensor:
        reg = JacobianPenalty(1.0, projection=direction(), side="input")
        return gradreg_torch.penalty(model, x, None, reg, directions=v, batch_norm="allow")

    def raw(x: torch.Tensor) -> torch.Tensor:
        return (torch.autograd.functional.jvp(model, x, v, create_graph=True)[1] ** 2).sum() / 4

    def slopes(function: Any) -> tuple[float, float]:
        """Along v: by autograd, and by central differences, good to h^2 = 1e-10 and roundoff / h = 1e-11."""
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(leaf), leaf)
        h = 1e-5
        numeric = (function(x + h * v) - function(x - h * v)) / (2 * h)
        return (gradient * v).sum().item(), numeric.item()

    slope, wanted = slopes(value)
    assert slope == pytest.approx(wanted, rel=1e-6)
    slope, wanted = slopes(raw)
    assert slope != pytest.approx(wanted, rel=1e-3)


@pytest.mark.slow
def test_compiled_equals_eager() -> None:
    model, x, y = problem("normed")
    one = Module(model.network, model.params, torch.float64)
    inputs, labels = torch.tensor(x), torch.tensor(y)
    reg = SpectReg(0.3, side="input") + DataGrad(1.0, side="input", method="difference")

    def total() -> torch.Tensor:
        return gradreg_torch.loss(one, inputs, labels, reg)[0]

    torch._dynamo.reset()
    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    gradients = [torch.autograd.grad(function(), list(one.parameters())) for function in (total, compiled)]
    for eager, traced in zip(*gradients, strict=True):
        # The difference divides the outputs' roundoff by h = 0.01.
        torch.testing.assert_close(traced, eager, rtol=1e-10, atol=1e-12)


# --- errors ----------------------------------------------------------------------------------------------------------
def test_inputs_that_cannot_be_used() -> None:
    model = nn.Linear(5, 3)
    difference = SpectReg(1.0, side="input", method="difference")
    with pytest.raises(InputTypeError, match="only floating-point inputs of 16 bits or more have a gradient"):
        gradreg_torch.penalty(lambda x: model(x.float()), torch.ones(2, 5, dtype=torch.long), None, difference)
    with pytest.raises(InputError, match="needs x in float32 or float64"):
        gradreg_torch.penalty(lambda x: model(x.float()), torch.ones(2, 5, dtype=torch.bfloat16), None, difference)
    with pytest.raises(InputError, match="needs outputs in float32 or float64"):
        gradreg_torch.penalty(lambda x: model(x).bfloat16(), torch.ones(2, 5), None, difference)
    reg = JacobianPenalty(1.0, projection=direction(), side="input")
    with pytest.raises(InputError, match="with 5 input components each"):
        gradreg_torch.penalty(nn.Linear(5, 3), torch.ones(2, 5), None, reg, directions=torch.ones(2, 3))
    dropout = nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.5)).train()
    compiled = torch.compile(
        lambda x: gradreg_torch.penalty(dropout, x, None, difference), backend="eager", fullgraph=True
    )
    with pytest.raises(torch._dynamo.exc.TorchDynamoException, match="cannot repeat a dropout mask"):
        compiled(torch.ones(2, 5))
