"""Every trainer against Adam (Kingma, Ba 2015, algorithm 1) on the reference's gradients, and what it leaves behind."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gradreg_numpy
from cases import relative
from gradreg_conformance.harness import load_harness
from gradreg_core.errors import InputError, UnsupportedError
from gradreg_core.portable.networks import Activation, Dense, Dropout, Network, Residual
from gradreg_core.presets import DataGrad, SpectReg, WeightDecay
from gradreg_experiments import trainers
from gradreg_experiments.demo.experiment import Settings, experiment
from gradreg_experiments.demo.recipe import Recipe
from gradreg_experiments.paper.run import run_curves
from gradreg_experiments.plan import Trained
from gradreg_experiments.trainers import load_trainer, trainable, usable
from gradreg_experiments.trainers.generic import GenericTrainer

TRAINERS = ("torch", "jax", "tensorflow", "generic")


@pytest.fixture(scope="module")
def trainer():
    """A function that loads a trainer."""
    return lambda name: GenericTrainer(load_harness("torch")) if name == "generic" else load_trainer(name)


def by_hand(plan) -> Trained:
    params, losses = dict(plan.params), []
    moments = {path: (np.zeros(shape), np.zeros(shape)) for path, shape in plan.network.weights().items()}
    for step, batch in enumerate(plan.batches):
        model = gradreg_numpy.Model(plan.network, params, plan.masks(step) if plan.masks else None)
        x, y = plan.x[batch], plan.y[batch]
        losses.append(float(gradreg_numpy.loss(model, x, y, plan.reg, step=step)[0]))
        slopes, _ = gradreg_numpy.gradient(model, x, y, plan.reg, step=step, of="total")
        for path, slope in slopes.items():
            first, second = moments[path]
            first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
            moments[path] = first, second
            unbiased = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
            params[path] = params[path] - plan.learning_rate(step) * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    return Trained(params, np.array(losses))


@pytest.fixture(scope="module")
def expected():
    """By hand, once."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINERS)
def test_training_in_float64_equals_the_reference(trainer, small_plan, expected, name):
    plan = small_plan()
    expected.setdefault("float64", by_hand(plan))
    before = {path: value.copy() for path, value in plan.params.items()}
    ticks = []
    trained, wanted = trainer(name).train(plan, ticks.append), expected["float64"]
    # Adam divides by the root of the second moment: where a gradient is small, roundoff grows by 1 / its size.
    assert relative(trained.params, wanted.params) < 1e-10
    np.testing.assert_allclose(trained.losses, wanted.losses, rtol=1e-10)
    assert trained.losses.dtype == np.float64
    assert ticks == [2, 2, 1]
    assert all(value.dtype == np.float64 for value in trained.params.values())
    np.testing.assert_array_equal(trained.params["1.mean"], plan.params["1.mean"])
    for path, value in before.items():
        np.testing.assert_array_equal(plan.params[path], value, "the plan's own arrays are not written into")


@pytest.mark.parametrize("name", TRAINERS)
def test_training_in_float32_without_regularizer_or_masks(trainer, small_plan, expected, name):
    plan = small_plan(dtype="float32", reg=None, masks=None)
    expected.setdefault("float32", by_hand(replace(plan, reg=DataGrad(0.0))))
    trained = trainer(name).train(plan)
    assert relative(trained.params, expected["float32"].params) < 1e-4  # float32, and Adam's division as above
    assert all(value.dtype == np.float32 for value in trained.params.values())
    assert trained.losses[-1] < trained.losses[0]


@pytest.mark.parametrize("name", TRAINERS)
def test_no_steps_change_nothing(trainer, small_plan, name):
    plan = small_plan(batches=np.zeros((0, 4), int))
    trained = trainer(name).train(plan)
    assert trained.losses.shape == (0,)
    np.testing.assert_array_equal(trained.params["0.weight"], plan.params["0.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINERS[1:])
def test_terms_apart_mixing_losses_and_scales_are_those_of_torch(trainer, small_plan, expected, name):
    plan = small_plan(
        y=np.random.default_rng(1).normal(size=12),
        apart=SpectReg(lambda step: 0.2 + 0.1 * step, seed=3),
        apart_masks=lambda step: {"3": 2.0 * np.random.default_rng([step, 1]).integers(0, 2, (4, 5))},
        mixing=lambda step: (np.roll(np.arange(4), 1), 0.7),
        loss_fn=half_square,
        scale=4.0,
    )
    if "mixed" not in expected:
        expected["mixed"] = trainer("torch").train(plan)
    wanted, trained = expected["mixed"], trainer(name).train(plan)
    np.testing.assert_allclose(trained.losses, wanted.losses, rtol=1e-10)
    assert relative(trained.params, wanted.params) < 1e-9
    for change in ({"apart": None}, {"mixing": None}, {"scale": 1.0}, {"apart_masks": None}):
        assert abs(trainer("torch").train(replace(plan, **change)).losses / wanted.losses - 1).max() > 1e-3, change


def half_square(outputs, y):
    return 0.5 * (outputs[:, 0] - y) ** 2


@pytest.mark.parametrize("name", TRAINERS)
def test_evaluation_equals_the_reference(trainer, small_plan, name):
    plan = small_plan(dtype="float32")
    params = {path: np.float32(value) for path, value in plan.params.items()}
    x = plan.x.astype(np.float32)
    logits, matrix = gradreg_numpy.networks.jacobian(plan.network, params, x)
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    residual = shifted / shifted.sum(-1, keepdims=True) - np.eye(3)[plan.y]
    native = trainer(name)
    np.testing.assert_allclose(native.logits(plan.network, params, x), logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        native.jacobian_norms(plan.network, params, x), np.linalg.norm(matrix, axis=(1, 2)), rtol=1e-4
    )
    slopes = native.input_gradient(plan.network, params, x, plan.y)
    np.testing.assert_allclose(slopes, np.einsum("bm,bmn->bn", residual, matrix), rtol=1e-4, atol=1e-5)


def test_torch_leaves_no_trace(trainer, small_plan):
    state = torch.random.get_rng_state()
    with torch.no_grad():
        trainer("torch").train(small_plan())
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.slow
def test_jax_keeps_its_setting_of_float64(trainer, small_plan):
    trainer("jax").train(small_plan())
    assert jnp.zeros(1).dtype == jnp.float32


@pytest.mark.slow
def test_several_seeds_in_jax_train_as_alone(trainer, small_plan):
    def plan(seed):
        rng = np.random.default_rng(seed)
        return small_plan(batches=rng.integers(0, 12, (5, 4)), reg=SpectReg(1.0, seed=seed) + WeightDecay(0.1))

    together = trainer("jax").train_together([plan(1), plan(2)])
    for seed, trained in zip((1, 2), together, strict=True):
        alone = trainer("jax").train(plan(seed))
        np.testing.assert_allclose(trained.losses, alone.losses, rtol=1e-12)
        assert relative(trained.params, alone.params) < 1e-10
    assert abs(together[0].losses - together[1].losses).min() > 1e-6


def test_runs_that_cannot_train_together_are_refused(trainer, small_plan):
    for regs, message in (
        ((SpectReg(1.0), SpectReg(2.0)), "several networks or regularizers"),
        ((SpectReg(1.0, seed=1) + DataGrad(1.0), SpectReg(1.0, seed=2) + DataGrad(1.0)), "expected one seed"),
    ):
        with pytest.raises(InputError, match=message):
            trainer("jax").train_together([small_plan(reg=reg) for reg in regs])
    with pytest.raises(UnsupportedError, match="--backend jax"):
        trainer("torch").train_together([small_plan(), small_plan()])


def test_the_generic_trainer_says_what_it_lacks(trainer, small_plan):
    with pytest.raises(UnsupportedError, match="no dropout masks"):
        GenericTrainer(load_harness("numpy"))
    network = Network((4,), (Residual((Dropout(), Activation("tanh"))), Dense(3)))
    plan = small_plan(
        network=network,
        params=gradreg_numpy.initialize(network, 0),
        masks=lambda step: {"0.0": np.ones((4, 4))},
    )
    with pytest.raises(UnsupportedError, match="inside a residual block"):
        trainer("generic").train(plan)
    with pytest.raises(UnsupportedError, match=r"a dtype of the harness \(float64, .*got int8"):
        trainer("generic").train(small_plan(dtype="int8"))


def test_a_backend_with_a_harness_alone_demos_and_reproduces(monkeypatch, digits, make_job, tiny, files):
    """As a third party's: PyTorch's description without its trainer."""
    records = tuple(
        replace(record, description=replace(record.description, trainer="")) if record.name == "torch" else record
        for record in trainers.backends()
    )
    monkeypatch.setattr(trainers, "backends", lambda: records)
    monkeypatch.setattr(trainers, "find_backend", lambda name: {record.name: record for record in records}[name])
    assert trainable() == ("torch", "jax", "tensorflow")
    assert isinstance(load_trainer("torch"), GenericTrainer)
    settings = Settings(
        train_size=10, seeds=1, tuning_seeds=1, recipe=Recipe(steps=2, batch=5), grid_limit=1, workers=1
    )
    assert 0 <= experiment(digits, settings).runs["dropout + DataGrad"][0]["accuracy"] <= 1
    job = make_job(protocol=replace(tiny, steps=2, before_last="dropout", mixup=0.2), reg=SpectReg(0.1))
    (generic,) = run_curves([job], files)
    monkeypatch.undo()
    assert generic["every_loss"] == pytest.approx(run_curves([job], files)[0]["every_loss"], rel=1e-4)  # float32


def test_backends_that_train_are_known_by_their_descriptions():
    assert trainable() == ("torch", "jax", "tensorflow")
    assert usable(["torch", "torch"]) == (("torch",), {})
    with pytest.raises(UnsupportedError, match="numpy backend does not train; choose one of torch, jax, tensorflow"):
        load_trainer("numpy")
