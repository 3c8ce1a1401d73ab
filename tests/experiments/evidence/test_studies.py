"""Derivative labels, a teacher, unlabelled images: formulas, a small run of each, and the published pages."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import gradreg_torch as gradreg
from gradreg_core.errors import InputError
from gradreg_experiments.evidence import advice, derivatives, distillation, kinks, residual, unlabelled
from gradreg_experiments.evidence.advice import make_advice, recommended
from gradreg_experiments.evidence.distillation import soft_losses
from gradreg_experiments.evidence.dynamics import SYSTEMS, flow
from gradreg_experiments.evidence.experiment import TASKS
from gradreg_experiments.evidence.stacked import Stack, batches, drawn_alike, fit, flops, penalties
from gradreg_experiments.evidence.study import Method, best, command, factor, gain, make_page, points, times, values
from gradreg_experiments.evidence.summary import Gain, compare, outcomes
from gradreg_experiments.evidence.unlabelled import pseudo_losses
from gradreg_experiments.results import Results

PUBLISHED = Path(__file__).parents[3] / "docs" / "evidence"
STUDIES = [module.STUDY for module in (derivatives, distillation, kinks, residual, unlabelled)]
NAMES = [study.name for study in STUDIES]


def states(name, count=5):
    return SYSTEMS[name].states(count, np.random.default_rng(0))


@pytest.mark.parametrize("name", SYSTEMS)
def test_jacobians_of_flows_are_differences_of_flows(name):
    """Central differences of step 1e-5 in float64: about 1e-10 of truncation, 1e-11 of rounding, times the slopes."""
    u = states(name)
    _, jacobians = flow(SYSTEMS[name], u)
    for column in range(u.shape[1]):
        h = 1e-5 * np.eye(u.shape[1])[column]
        difference = (flow(SYSTEMS[name], u + h)[0] - flow(SYSTEMS[name], u - h)[0]) / 2e-5
        np.testing.assert_allclose(jacobians[:, :, column], difference, rtol=1e-6, atol=1e-6)


def test_lorenz_shrinks_volumes_by_its_constant_divergence():
    """det V = exp(t tr f'), tr f' = -(10 + 1 + 8/3); the method's own error is of order h^4 = 6e-10 times slopes."""
    system = SYSTEMS["Lorenz 63"]
    _, jacobians = flow(system, states("Lorenz 63"))
    np.testing.assert_allclose(np.linalg.det(jacobians), math.exp(-(11 + 8 / 3) * system.time), rtol=1e-5)


def test_two_bodies_keep_their_energy_and_the_symplectic_form():
    """Both are exact for the flow; the method's error is of order h^4 = 6e-10 times slopes of about ten."""
    u = states("two bodies")
    after, V = flow(SYSTEMS["two bodies"], u)

    def energy(s):
        return (s[:, 2:] ** 2).sum(1) / 2 - 1 / np.linalg.norm(s[:, :2], axis=1)

    axis = -1 / (2 * energy(u))
    assert ((axis > 0.8) & (axis < 1.2)).all()
    np.testing.assert_allclose(energy(after), energy(u), rtol=1e-7)
    form = np.block([[np.zeros((2, 2)), np.eye(2)], [-np.eye(2), np.zeros((2, 2))]])
    np.testing.assert_allclose(np.swapaxes(V, 1, 2) @ form @ V, np.broadcast_to(form, V.shape), atol=1e-7)


def test_labels_of_the_derivatives_are_in_units_of_the_pool():
    """T is the slope of y by x there too: differences of neighbours on a line, by float32's rounding over the step."""
    system, (pool, _, _) = SYSTEMS["two bodies"], derivatives.samples("two bodies")
    assert pool.x.std(0, correction=0).tolist() == pytest.approx([1] * 4, abs=1e-5)
    assert pool.y.mean(0).tolist() == pytest.approx([0] * 4, abs=1e-5)
    raw = system.states(2000, np.random.default_rng(derivatives._SEED))[:600]
    after, V = flow(system, raw[:3])
    whole = flow(system, raw)[0]
    wanted = V * raw.std(0) / whole.std(0)[:, None]
    np.testing.assert_allclose(pool.T[:3].numpy(), wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pool.y[:3].numpy(), (after - whole.mean(0)) / whole.std(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reg", [gradreg.SobolevReg(1.0, projection=gradreg.exact()), gradreg.FrobReg(1.0)])
def test_every_network_of_a_stack_has_its_own_weight(reg):
    """Float64 against explicit Jacobians; both round about a hundred times, hence 1e-10."""
    stack = Stack((3, 4, 2), [0, 1, 2], torch.tanh)
    stack.params = [param.detach().double().requires_grad_() for param in stack.params]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3 * 5, 3, generator=generator, dtype=torch.float64)
    T = torch.randn(3 * 5, 2, 3, generator=generator, dtype=torch.float64)
    weights = torch.tensor([0.5, 0.0, 3.0], dtype=torch.float64)
    target = T if isinstance(reg, gradreg.SobolevReg) else None
    value = penalties(stack, x, reg, weights, 0, torch.arange(15), target)
    wanted = 0.0
    for index in range(3):
        for sample in range(5 * index, 5 * index + 5):
            J = torch.autograd.functional.jacobian(lambda a, n=index: stack.one(n)(a[None])[0], x[sample])
            wanted += weights[index].item() * (J - (0 if target is None else T[sample])).square().sum().item() / 5
    assert value.item() == pytest.approx(wanted, rel=1e-10)


def test_settings_of_a_seed_share_their_draws():
    stack = Stack((3, 4, 2), [0, 1, 0, 1], torch.tanh)
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1).reshape(-1, 3)
    ids = drawn_alike(2, 2, 5)
    values = [
        penalties(stack, x, gradreg.SpectReg(1.0), torch.eye(4)[index], 3, ids).item() for index in range(4)
    ]  # fmt: skip
    assert values[0] == pytest.approx(values[2], rel=1e-6) != values[1]
    assert values[1] == pytest.approx(values[3], rel=1e-6)


def test_a_stack_trains_like_its_networks_alone():
    """Adam with a rate and a decay of each network's own, against PyTorch's AdamW at a rate that does not fall."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 3, generator=generator), torch.randn(6, 2, generator=generator)
    stack = Stack((3, 4, 2), [0, 1], torch.tanh)
    rates, decay = torch.tensor([1e-2, 1e-3]), torch.tensor([0.1, 3.0])
    singles = [stack.one(index) for index in range(2)]
    fit(stack, lambda step: 2 * (stack(x.repeat(2, 1)) - y.repeat(2, 1)).square().mean(), 1, rates, decay)
    for index, single in enumerate(singles):
        optimizer = torch.optim.AdamW(single.params, lr=rates[index].item(), weight_decay=decay[index].item())
        (single(x) - y).square().mean().backward()
        optimizer.step()
        for one, many in zip(single.params, stack.params, strict=True):
            # Adam's first step is the sign of the gradient times the rate; float32 rounds it at 1e-7.
            torch.testing.assert_close(one[0], many[index], rtol=1e-5, atol=1e-6)


def test_batches_are_whole_and_every_epoch_has_all_samples_once():
    order = batches(10, 5, 5, seed=0)
    assert order.shape == (5, 5)
    assert sorted(order[:2].flatten().tolist()) == sorted(order[2:4].flatten().tolist()) == list(range(10))
    assert batches(3, 5, 2, seed=0).shape == (2, 3)


def test_soft_losses_are_those_of_the_formula():
    """Against the definition in float64; a handful of roundings."""
    z, t = torch.tensor([[1.0, 2.0, 0.5]]).double(), torch.tensor([[0.0, 3.0, 1.0]]).double()
    value = soft_losses(z, torch.tensor([2]), t, torch.tensor([2.0]).double(), torch.tensor([0.25]).double())
    own, other = (np.exp(a.numpy()[0] / 2) / np.exp(a.numpy()[0] / 2).sum() for a in (z, t))
    hard = -math.log(math.exp(0.5) / sum(math.exp(v) for v in (1.0, 2.0, 0.5)))
    wanted = 0.75 * hard + 0.25 * 4 * float((other * np.log(other / own)).sum())
    assert value.item() == pytest.approx(wanted, rel=1e-12)


def test_pseudo_losses_leave_out_the_uncertain():
    logits = torch.tensor([[4.0, 0.0], [0.1, 0.0]])
    losses = pseudo_losses(logits, torch.tensor([0.95, 0.95]))
    assert losses.tolist() == pytest.approx([-math.log(1 / (1 + math.exp(-4.0))), 0.0], rel=1e-5)


def test_one_projection_costs_about_as_much_as_the_step():
    """3 for a plain step, 3 more for a projection; the first layer has no pullback to the input in a plain one."""
    stack = Stack((8, 64, 64, 2), [0], torch.tanh)
    x, y = torch.randn(10, 8), torch.zeros(10, dtype=torch.int64)
    ratio = flops(stack, x, y, reg=gradreg.SpectReg(1.0)) / flops(stack, x, y)
    assert 1.9 < ratio < 2.3


@pytest.mark.parametrize("study", STUDIES, ids=NAMES)
def test_all_methods_try_as_many_settings(study):
    """The plain networks of the last experiment have nothing to tune."""
    assert len({len(method.settings) for method in study.methods if method.meaning}) == 1


@pytest.mark.parametrize("study", STUDIES, ids=NAMES)
def test_a_folder_without_runs_gets_a_page_that_says_so(study, tmp_path):
    done = CliRunner().invoke(command(study), ["--minutes", "0", "--out", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0
    text = (tmp_path / "README.md").read_text()
    assert "Not run yet." in text
    assert "Not run, or not with every method: " in text


@pytest.mark.parametrize("module", [derivatives, distillation], ids=["derivatives", "distillation"])
def test_a_run_is_kept_and_not_done_again(module, tmp_path, monkeypatch):
    methods = tuple(replace(method, settings=method.settings[:2]) for method in module.STUDY.methods)
    tiny = replace(module.STUDY, conditions=module.STUDY.conditions[:1], methods=methods, seeds=2, steps=3)
    monkeypatch.setattr(module, "STUDY", tiny)
    monkeypatch.setattr(distillation, "_TEACHER_STEPS", 3)
    done = CliRunner().invoke(command(tiny), ["--out", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0
    text = (tmp_path / "README.md").read_text()
    assert "All cells are run." in text
    refuses = replace(tiny, train=lambda *_: pytest.fail("trained again"))
    CliRunner().invoke(command(refuses), ["--out", str(tmp_path)], catch_exceptions=False)
    assert (tmp_path / "README.md").read_text() == text
    assert len(list(Results(tmp_path))) == len(methods)


def test_images_without_labels_need_their_folder():
    with pytest.raises(InputError, match="unlabelled: expected --data-dir with MNIST's four files, got none"):
        unlabelled._train(("MNIST", 100), unlabelled.STUDY.methods[0], [0], None)


def test_settings_are_chosen_on_validation_samples_and_compared_in_pairs():
    study = replace(STUDIES[0], larger_is_better=False)
    first = {"tried": [
        {"setting": [1.0], "validation": [5.0] * 3, "test": {"error": [2.0, 4.0, 6.0]}},
        {"setting": [2.0], "validation": [6.0] * 3, "test": {"error": [9.0, 9.0, 9.0]}},
    ]}  # fmt: skip
    second = {"tried": [{"setting": [3.0], "validation": [7.0] * 3, "test": {"error": [1.0, 2.0, 3.0]}}]}
    assert best(study, first)["setting"] == [1.0]
    assert best(replace(study, larger_is_better=True), first)["setting"] == [2.0]
    # Student's t with two degrees of freedom is 4.3027, the differences are 1, 2, 3 with deviation 1.
    own = gain(study, first, second, "error")
    assert points(own) == f"+2.00 ± {4.3027 / 3**0.5:.2f}"
    assert times(factor(study, first, second, "error")) == "**2.00 (2.00 to 2.00)**"


def test_seeds_that_did_not_search_train_with_the_chosen_setting_alone(tmp_path):
    method, condition = Method("a", "size", ((1.0,), (2.0,), (3.0,))), ("task", 10)
    by_setting = {1.0: [5, 0, 0], 2.0: [7, 1, 1], 3.0: [6, 9, 9]}
    study = replace(
        STUDIES[0], conditions=(condition,), methods=(method,), seeds=2, one_by_one=True, larger_is_better=True
    )
    study = replace(study, searched=1, more_seeds={condition: 3})
    results, trained = Results(tmp_path), []
    assert study.count_parts(condition, method) == 5
    while missing := [p for p in study.parts(results, condition, method) if study.key(condition, *p) not in results]:
        assert study.cell(results, condition, method) is None
        (((setting,),), (seed,)) = missing[0][0].settings, missing[0][1]
        trained.append((setting, seed))
        value = by_setting[setting][seed]
        run = {"setting": [setting], "validation": [value], "test": {"error": [10 * value]}}
        results.add({"key": study.key(condition, *missing[0]), "tried": [run]})
    assert trained == [(1.0, 0), (2.0, 0), (3.0, 0), (2.0, 1), (2.0, 2)]
    cell = study.cell(results, condition, method)
    # The third setting's one seed is above the mean of the chosen one's three; the first seed decides all the same.
    assert best(study, cell)["setting"] == [2.0]
    assert values(study, cell, "error") == [70, 10, 10]


@pytest.mark.parametrize("study", STUDIES, ids=NAMES)
def test_published_pages_are_those_of_the_published_results(study):
    folder = PUBLISHED / study.name
    results = Results(folder)
    known = {
        study.key(condition, *part)
        for condition in study.conditions
        for method in study.methods
        for part in study.parts(results, condition, method)
    }
    assert {result["key"] for result in results} <= known
    assert make_page(study, results) == (folder / "README.md").read_text()


def test_the_published_advice_is_that_of_the_published_results(tmp_path):
    assert make_advice(PUBLISHED.parent) == (PUBLISHED.parent / "when-to-use.md").read_text()
    done = CliRunner().invoke(advice.main, ["--docs", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0
    assert (tmp_path / "when-to-use.md").read_text().count("not run yet.") == 8


def test_the_published_tables_have_a_cell_for_every_heading():
    tables = re.findall(r"(?:^\|.*\n)+", (PUBLISHED.parent / "when-to-use.md").read_text(), re.M)
    assert tables
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_recommendations_follow_the_intervals():
    up, open_, down = Gain(2.0, 1.0), Gain(0.5, 1.0), Gain(-2.0, 1.0)
    assert [recommended([up, up], own) for own in ([up, open_], [open_])] == ["use it", "use it, or the rival"]
    assert recommended([up, open_], [up]) == "try it"
    assert [recommended(own, [open_]) for own in ([open_], [open_, down])] == ["do not use it here"] * 2
    assert recommended([up, down], [up]) == "try it, but check for a loss"
    assert [recommended([up, up], own) for own in ([down, down], [down, open_])] == [
        "use the rival",
        "use it, or the rival",
    ]


def test_the_readme_says_what_came_out():
    """Tables of small data, the range of the factors on the error, and that of the gains over soft labels."""
    readme = " ".join((PUBLISHED.parents[1] / "README.md").read_text().split())
    own = outcomes(Results(PUBLISHED))
    certain = {
        data: [compare(own[task.name]["SpectReg"], own[task.name]["none"]).sign for task in TASKS if task.data == data]
        for data in ("wine", "breast cancer")
    }
    assert (certain["wine"], sorted(certain["breast cancer"])) == ([0, 0, 0], [0, 0, 1])
    assert "wine: no certain gain; breast cancer: in one network of three" in readme
    study = derivatives.STUDY
    cells = study.cells(Results(PUBLISHED / study.name)).values()
    means = [math.exp(factor(study, cell["SobolevReg"], cell["values alone"], "error").mean) for cell in cells]
    assert f"leaves {min(means):.1f} to {max(means):.1f} of the error in two small systems" in readme
    study = distillation.STUDY
    cells = study.cells(Results(PUBLISHED / study.name)).values()
    gains = [gain(study, cell["soft labels, Jacobian"], cell["soft labels"], "accuracy") for cell in cells]
    assert min(one.sign for one in gains) == 1
    low, high = (round(pick(one.mean for one in gains)) for pick in (min, max))
    assert f"| {low} to {high} points | over soft labels |" in readme
    study = residual.STUDY
    cell = study.cells(Results(PUBLISHED / study.name))["CIFAR-10, BatchNorm", 1000]
    gains = {
        (name, measure): f"{gain(study, cell[name], cell['none'], measure).mean:.1f}"
        for name in ("SpectReg", "weight decay", "mixup")
        for measure in ("accuracy", "noisy")
    }
    ours = f"| {gains['SpectReg', 'accuracy']} points; {gains['SpectReg', 'noisy']} under noise |"
    rivals = (
        f" weight decay: {gains['weight decay', 'accuracy']} points; mixup: {gains['mixup', 'noisy']} under noise |"
    )
    assert ours + rivals in readme
