"""Training many networks at once: the same norms, gradients and runs as one network has alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gradreg_experiments.weights.rules import RULES, State, find_rule
from gradreg_experiments.weights.tasks import TASKS, initial, load, outputs
from gradreg_experiments.weights.training import Seeds, norms, train

DENSE = next(task for task in TASKS if task.name == "wine")
CONVOLUTIONAL = next(task for task in TASKS if task.name == "digits, ConvNet")


def networks(task, count=2):
    """(parameters of several networks, stacked, float64; a batch for each, labels, directions)."""
    parts = [load(task, seed) for seed in range(count)]
    x = torch.stack([part.train[0][:4] for part in parts]).double()
    y = torch.stack([part.train[1][:4] for part in parts])
    arrays = [initial(task, x.shape[2:], seed) for seed in range(count)]
    params = [torch.stack(stack).double().requires_grad_() for stack in zip(*arrays, strict=True)]
    generator = torch.Generator().manual_seed(0)
    return params, x, y, torch.randn(*y.shape, params[-1].shape[-1], generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("task", [DENSE, CONVOLUTIONAL], ids=lambda task: task.name)
@pytest.mark.parametrize("penalty", ["spectreg", "datagrad"])
def test_norms_and_their_gradients_are_those_of_the_jacobians_of_single_networks(task, penalty):
    params, x, y, r = networks(task)
    loss, n = norms(task, params, x, y, r, penalty)
    gradients = torch.autograd.grad(n.sum(), params, allow_unused=True, materialize_grads=True)
    for index in range(len(x)):
        own = [param[index].detach().requires_grad_() for param in params]

        def logits(sample, own=own):
            return outputs(task, [param[None] for param in own], sample[None, None])[0, 0]

        squares = []
        for sample, label, direction in zip(x[index], y[index], r[index], strict=True):
            jacobian = torch.func.jacrev(logits)(sample).flatten(1)
            w = direction if penalty == "spectreg" else logits(sample).softmax(0) - F.one_hot(label, len(direction))
            squares.append((w @ jacobian).square().sum())
        alone = torch.stack(squares).mean()
        losses = F.cross_entropy(torch.stack([logits(sample) for sample in x[index]]), y[index])
        # The same sums of float64 numbers in another order.
        torch.testing.assert_close(n[index], alone, rtol=1e-11, atol=0)
        torch.testing.assert_close(loss[index], losses, rtol=1e-11, atol=0)
        wanted = torch.autograd.grad(alone, own, allow_unused=True, materialize_grads=True)
        for gradient, single in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(gradient[index], single, rtol=1e-9, atol=1e-14)


@pytest.fixture(scope="module")
def short():
    """Six steps of a small task, with the norms of its runs without a penalty."""
    seeds = Seeds.make(replace(DENSE, steps=6, seeds=2))
    train(seeds, RULES[0], RULES[0].settings)
    return seeds


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.name} {rule.penalty}")
def test_a_setting_gives_the_same_result_in_company_as_alone(short, rule):
    settings = [rule.settings[0], rule.settings[-1]]
    together, (alone,) = train(short, rule, settings), train(short, rule, settings[1:])
    assert together[1]["setting"] == alone["setting"]
    for name in ("norm", "start"):
        # float32, products of stacked matrices in another order, over six steps.
        np.testing.assert_allclose(together[1][name], alone[name], rtol=2e-3)


def test_seeds_draw_other_training_sets_and_the_same_test_sets():
    first, second = load(DENSE, 0), load(DENSE, 1)
    assert not torch.equal(first.train[1], second.train[1])
    assert torch.equal(first.test[1], second.test[1])
    assert len(first.train[1]) == DENSE.train


def test_inputs_are_standardised_and_scaled():
    for task in (DENSE, replace(DENSE, scale=10.0), CONVOLUTIONAL):
        x = load(task, 0).train[0]
        assert x.mean().item() == pytest.approx(0, abs=1e-5 * task.scale)
        assert x.std(correction=0).item() == pytest.approx(task.scale, rel=1e-5)


def state(**changes):
    """One run with n = 8, loss 0.5, n_0 = 2, s^2 = 4, n_u = 16, ratio 3, and settings 0.1 and 10."""
    values = {"n": 8.0, "loss": 0.5, "start": 2.0, "inputs": 4.0, "plain": 16.0, "ratio": 3.0, "multiplier": 1.0}
    arrays = {name: torch.tensor([value]) for name, value in (values | changes).items()}
    return State(settings=[torch.tensor([0.1]), torch.tensor([0.25])], **arrays)


@pytest.mark.parametrize(
    ("rule", "weight"),
    [
        ("plain", 0.1),
        ("inputs", 0.1 * 4),
        ("start", 0.1 / 2),
        ("log, start", 0.1 / (8 + 0.25 * 2)),
        ("log, inputs", 0.1 / (8 + 0.25 / 4)),
        ("hinge, start", 2 * 0.1 * (8 / 0.5 - 1) / 0.5),
        ("hinge, unregularized", 2 * 0.1 * (8 / 4 - 1) / 4),
        ("hinge, inputs", 2 * 0.1 * (8 / 0.0625 - 1) / 0.0625),
        ("log hinge, inputs", 0.1 / 8),
        ("target, start", 0.01 * np.exp(0.03) / (0.1 * 2)),
        ("target, unregularized", 0.01 * np.exp(0.03) / 1.6),
        ("target, inputs", 0.01 * np.exp(0.03) / (0.1 / 4)),
        ("gradient share", 0.1 * 3),
        ("loss share", 0.1 * 0.5 / (8 + 0.25)),
    ],
)
def test_the_weight_of_a_rule_is_the_derivative_of_its_formula(rule, weight):
    assert find_rule(rule).weight(state()).item() == pytest.approx(weight, rel=1e-5)


def test_a_hinge_costs_nothing_below_and_a_target_eases():
    for name in ("hinge, inputs", "log hinge, inputs"):
        assert find_rule(name).weight(state(n=0.01)).item() == 0
    lower = state(n=1e-3)
    weights = [find_rule("target, inputs").weight(lower).item() for _ in range(2)]
    assert weights[1] == pytest.approx(weights[0] * np.exp(-0.03), rel=1e-5)
