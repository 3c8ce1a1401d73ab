"""The demo, end to end and quick: what it writes, and that what it says of itself is true."""

import json
from dataclasses import replace

import matplotlib.image
import pytest
from click.testing import CliRunner

import numpy as np
import torch
from gradreg_core.errors import BackendImportError, BackendNotFoundError, InputError, UnsupportedError
from gradreg_core.presets import ConfidencePenalty, DataGrad, SpectReg, WeightDecay
from gradreg_experiments.demo import compare, runner
from gradreg_experiments.demo.command import demo
from gradreg_experiments.demo.data import Part, Split, draw, load_dataset, standardise
from gradreg_experiments.demo.experiment import Settings, Tuning, experiment, run_count, tune
from gradreg_experiments.demo.methods import METHODS
from gradreg_experiments.demo.recipe import Recipe, network_for
from gradreg_experiments.demo.runner import Runner, spread
from gradreg_numpy.networks import apply, jacobian
from gradreg_torch.training import train

TINY = Settings(
    train_size=20,
    seeds=1,
    tuning_seeds=1,
    recipe=Recipe(steps=4, batch=10),
    grid_limit=2,
    jacobian_points=20,
    workers=1,
)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits():
    return load_dataset()


@pytest.fixture(scope="module")
def results(digits):
    return experiment(digits, TINY)


def run(*arguments):
    return CliRunner().invoke(demo, list(map(str, arguments)), catch_exceptions=False)


def test_the_command_writes_table_picture_and_numbers(tmp_path, monkeypatch):
    monkeypatch.delenv("GRADREG_BACKEND", raising=False)
    out = tmp_path / "new" / "folder"
    done = run("--quick", "--seeds", 2, "--train-size", 40, "--out", out)
    assert done.exit_code == 0
    assert "--quick" in done.output
    assert "the numbers mean nothing" in done.output
    assert sorted(path.name for path in out.iterdir()) == ["demo.png", "results.json"]
    numbers = json.loads((out / "results.json").read_text())
    assert numbers["settings"]["train_size"] == 40
    assert numbers["settings"]["backend"] == "torch"
    assert numbers["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert list(numbers["methods"]) == [method.name for method in METHODS]
    for name, each in numbers["methods"].items():
        accuracies = [100 * run["accuracy"] for run in each["runs"]]
        assert [run["seed"] for run in each["runs"]] == [0, 1]
        assert each["test_accuracy_percent"]["mean"] == pytest.approx(np.mean(accuracies))
        assert each["test_accuracy_percent"]["sd"] == pytest.approx(np.std(accuracies, ddof=1))
        assert f"{np.mean(accuracies):.2f} ± {np.std(accuracies, ddof=1):.2f}" in done.output
        assert all(run["jacobian_frobenius"] > 0 and run["seconds"] > 0 for run in each["runs"])
        assert name in done.output
        tried = each["validation_accuracy"]
        assert len(tried) == (0 if name == "none" else 2)
        assert not tried or tried[f"{each['chosen']:g}"] == max(tried.values())
    picture = matplotlib.image.imread(out / "demo.png")
    assert picture.shape[1] >= 1600
    coloured = np.ptp(picture[..., :3], axis=-1) > 0.3
    assert 0.001 < coloured.mean() < 0.2
    assert coloured[:, : picture.shape[1] // 2].any()
    assert coloured[:, picture.shape[1] // 2 :].any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--backend", "numpy"], UnsupportedError, "does not train; choose one of torch, jax, tensorflow"),
        (["--backend", "torhc"], BackendNotFoundError, "Did you mean 'torch'"),
        (["--backend", "torch", "--backend", "jax"], InputError, "expected one --backend without --compare"),
        (["--train-size", 598], InputError, "must be between 1 and 597"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        run("--quick", "--out", tmp_path, *arguments)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot make this folder"):
        run("--out", tmp_path / "file")


def test_the_backend_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADREG_BACKEND", "numpy")
    with pytest.raises(UnsupportedError, match="the numpy backend does not train"):
        run("--out", tmp_path)


def poisoned(part):
    generator = np.random.default_rng(0)
    return Part(generator.permutation(part.x.ravel()).reshape(part.x.shape), (part.y + 1) % 10)


def test_tuning_never_sees_the_test_part(digits, results):
    spoilt = experiment(digits._replace(test=poisoned(digits.test)), TINY)
    assert spoilt.tunings == results.tunings
    assert spoilt.outcomes["none"][0].accuracy != results.outcomes["none"][0].accuracy
    # The same poison in the validation part is noticed, so the test can fail.
    misled = tune(digits.pool, poisoned(digits.validation), TINY, lambda outcome: None)
    assert misled != results.tunings


def test_tuning_takes_the_best_on_validation_over_seeds_of_its_own(digits):
    seen = []
    tunings = tune(digits.pool, digits.validation, replace(TINY, tuning_seeds=2, seeds=3), seen.append)
    assert {each.job.seed for each in seen}.isdisjoint(range(3))
    for name, tuning in tunings.items():
        for weight, score in tuning.scores.items():
            runs = [each.accuracy for each in seen if (each.job.method, each.job.weight) == (name, weight)]
            assert score == pytest.approx(np.mean(runs))
            assert len(runs) == 2
        assert all(score <= tuning.scores[tuning.weight] for score in tuning.scores.values())


def test_of_equal_scores_the_smallest_weight_is_taken_and_edges_are_told():
    assert Tuning(1.0, {1.0: 0.5, 2.0: 0.5, 3.0: 0.1}).at_edge
    assert not Tuning(2.0, {1.0: 0.4, 2.0: 0.5, 3.0: 0.1}).at_edge
    assert not Tuning(0.0, {}).at_edge


def without_seconds(results):
    return {name: [each._replace(seconds=0) for each in runs] for name, runs in results.outcomes.items()}


def test_the_same_comparison_gives_the_same_numbers(digits, results):
    ticks = []
    again = experiment(digits, TINY, ticks.append)
    assert without_seconds(again) == without_seconds(results)
    assert len(ticks) == run_count(TINY)


def test_results_do_not_depend_on_the_number_of_processes(digits, results):
    jobs = [runs[0].job for runs in results.outcomes.values()][-2:]
    from gradreg_experiments.demo.experiment import _run

    calls = [
        (job, draw(digits.pool, TINY.train_size, job.seed), digits.test, TINY, TINY.jacobian_points) for job in jobs
    ]
    spreaded = {outcome.job: outcome for outcome in spread(_run, calls, workers=2)}
    for job in jobs:
        expected = results.outcomes[job.method][0]
        assert spreaded[job].accuracy == expected.accuracy
        assert spreaded[job].jacobian == pytest.approx(expected.jacobian, rel=1e-5)


def test_the_parts_of_the_digits_have_no_image_in_common(digits):
    assert [len(part.y) for part in (digits.pool, digits.validation, digits.test)] == [597, 600, 600]
    parts = [{image.tobytes() for image in part.x} for part in (digits.pool, digits.validation, digits.test)]
    assert len(set.union(*parts)) == sum(map(len, parts))


def test_a_split_is_standardised_by_its_training_part_and_drawn_by_its_seed(digits):
    parts = [standardise(draw(digits.pool, 80, seed), digits.validation, digits.test) for seed in (0, 1, 0)]
    split, other, again = (Split(*each) for each in parts)
    assert split.train.x.dtype == np.float32
    assert split.train.x.shape == (80, 8, 8, 1)
    assert split.train.x.mean() == pytest.approx(0, abs=1e-6)
    assert split.train.x.std() == pytest.approx(1, abs=1e-6)
    assert abs(split.test.x.mean()) > 1e-6
    np.testing.assert_array_equal(split.train.x, again.train.x)
    assert not np.array_equal(split.train.y, other.train.y)
    np.testing.assert_array_equal(split.test.y, other.test.y)
    with pytest.raises(InputError, match="every pixel of the training images is 0"):
        standardise(Part(np.zeros((2, 8, 8, 1), np.uint8), np.zeros(2, np.int64)))


def test_the_methods_of_a_seed_differ_in_nothing_but_the_regularizer(digits):
    (part,) = standardise(draw(digits.pool, 60, seed=3))
    recipe = Recipe(steps=7)
    plain, penalised = recipe.plan(part, None, seed=3, rate=0.5), recipe.plan(part, DataGrad(1.0), seed=3, rate=0.5)
    weak, other = recipe.plan(part, None, seed=3, rate=0.2), recipe.plan(part, None, seed=4, rate=0.5)
    np.testing.assert_array_equal(plain.batches, penalised.batches)
    assert plain.batches.shape == (7, 50)
    assert all(len(set(batch)) == 50 for batch in plain.batches.tolist())
    assert not np.array_equal(plain.batches, other.batches)
    for path in plain.params:
        np.testing.assert_array_equal(plain.params[path], penalised.params[path])
    (mask,), (same,), (fewer,) = (each.masks(5).values() for each in (plain, penalised, weak))
    np.testing.assert_array_equal(mask, same)
    assert set(np.unique(mask)) == {0, 2}
    assert ((fewer > 0) >= (mask > 0)).all()
    rates = [plain.learning_rate(step) / recipe.learning_rate for step in (0, 3, 4, 5, 6)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_the_methods_are_what_their_names_say():
    made = {method.name: (method.make(0.5, 7), method.rate(0.5)) for method in METHODS}
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


@pytest.mark.parametrize("reg", [None, SpectReg(0.1) + WeightDecay(0.01)])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-4)])
def test_torch_trains_as_adam_says_and_leaves_no_trace(digits, reg, dtype, tolerance):
    (part,) = standardise(draw(digits.pool, 60, seed=0))
    plan = replace(Recipe(steps=3).plan(part, reg, seed=0, rate=0.5), dtype=dtype)
    before = {path: value.copy() for path, value in plan.params.items()}
    state = torch.random.get_rng_state()
    with torch.no_grad():
        trained = train(plan, threads=2)
        assert not torch.is_grad_enabled()
    assert torch.get_num_threads() == 1
    assert torch.equal(torch.random.get_rng_state(), state)
    for path, value in before.items():
        np.testing.assert_array_equal(plan.params[path], value)
    params, losses = by_hand(plan)
    np.testing.assert_allclose(trained.losses, losses, rtol=tolerance)
    for path, value in trained.params.items():
        np.testing.assert_allclose(value, params[path], rtol=0, atol=tolerance)


def by_hand(plan):
    """The plan by a module and Adam's formulas."""
    import gradreg_torch
    from gradreg_torch.networks import Module

    dtype = getattr(torch, plan.dtype)
    module = Module(plan.network, plan.params, dtype).eval()
    x, y = torch.tensor(plan.x, dtype=dtype), torch.tensor(plan.y)
    moments = [(torch.zeros_like(each), torch.zeros_like(each)) for each in module.parameters()]
    losses = []
    for step, batch in enumerate(plan.batches):
        masks = {path: torch.tensor(mask, dtype=dtype) for path, mask in plan.masks(step).items()}
        module.forward = lambda inputs, masks=masks: masked(module, inputs, masks)
        total, _ = gradreg_torch.loss(module, x[batch], y[batch], plan.reg, step=step)
        gradients = torch.autograd.grad(total, list(module.parameters()))
        for weight, gradient, (first, second) in zip(module.parameters(), gradients, moments, strict=True):
            first.mul_(0.9).add_(0.1 * gradient)
            second.mul_(0.999).add_(0.001 * gradient**2)
            mean, square = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
            weight.data -= plan.learning_rate(step) * mean / (square.sqrt() + 1e-8)
        losses.append(total.item())
    return {path: value.detach().numpy() for path, value in module.named_arrays().items()}, losses


def masked(module, inputs, masks):
    from gradreg_torch.networks import apply

    return apply(module.network, module.named_arrays(), inputs, masks)


def test_evaluation_agrees_with_numpy(digits):
    part, evaluated = standardise(draw(digits.pool, 40, seed=0), digits.test)
    plan = Recipe().plan(part, None, seed=0)
    x = evaluated.x[:12]
    expected, matrix = jacobian(plan.network, plan.params, x)
    norms = np.linalg.norm(matrix, axis=(1, 2))
    torch_runner = Runner("torch")
    params = {path: value.astype(np.float32) for path, value in plan.params.items()}
    np.testing.assert_allclose(torch_runner.logits(plan.network, params, x), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(torch_runner.jacobian_norms(plan.network, params, x), norms, rtol=1e-4)
    whole = torch_runner.logits(plan.network, params, evaluated.x)
    np.testing.assert_allclose(whole, apply(plan.network, plan.params, evaluated.x), rtol=1e-4, atol=1e-4)


def test_frameworks_draw_the_same_and_train_the_same(tmp_path):
    for module in ("jax", "optax"):
        pytest.importorskip(module)
    done = run("--quick", "--compare", "--backend", "torch", "--backend", "jax", "--out", tmp_path)
    assert done.exit_code == 0
    numbers = json.loads((tmp_path / "compare.json").read_text())
    assert numbers["reference"] == "torch"
    for dtype, tolerance in (("float32", 1e-4), ("float64", 1e-11)):
        assert list(numbers["losses"][dtype]) == ["torch", "jax"]
        ours, theirs = map(np.array, numbers["losses"][dtype].values())
        assert ours[-1] < ours[0]
        np.testing.assert_allclose(ours, theirs, rtol=tolerance)
        worst = float(np.max(np.abs(theirs - ours) / ours))
        assert numbers["drift"][dtype]["jax"][str(len(ours))] == pytest.approx(worst)
        assert f"{worst:.1e}" in done.output
    picture = matplotlib.image.imread(tmp_path / "compare.png")
    assert (np.ptp(picture[..., :3], axis=-1) > 0.3).mean() > 0.001


def only(*installed):
    def find(name):
        if name not in installed:
            raise BackendImportError(f"{name!r} is not installed. Install it with: pip install {name}")

    return find


def test_frameworks_that_are_not_installed_are_left_out_unless_they_are_named(monkeypatch):
    monkeypatch.setattr(runner, "find_backend", only("torch", "tensorflow"))
    found = compare.available()
    assert found.names == ("torch", "tensorflow")
    assert list(found.skipped) == ["jax"]
    assert "'jax' is not installed" in found.skipped["jax"]
    assert compare.available(["tensorflow", "torch"]).names == ("tensorflow", "torch")
    with pytest.raises(BackendImportError, match="'jax' is not installed"):
        compare.available(["torch", "jax"])
    with pytest.raises(InputError, match=r"two backends or more, got torch\. Name another with --backend"):
        compare.available(["torch", "torch"])
    monkeypatch.setattr(runner, "find_backend", only("torch"))
    with pytest.raises(InputError, match=r"two backends or more, got torch\. 'jax' is not installed.*'tensorflow'"):
        compare.available()


def compared(names=("torch", "jax"), train=None, recipe=None):
    curves = {"torch": np.array([1.0, 2.0, 4.0, 2.0]), "jax": np.array([1.0, 2.5, 3.0, 2.0])}
    return compare.Comparison({dtype: {name: curves[name] for name in names} for dtype in compare.DTYPES})


def test_what_is_left_out_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "find_backend", only("torch", "jax"))
    monkeypatch.setattr(compare, "run_comparison", compared)
    done = run("--compare", "--out", tmp_path)
    assert "tensorflow is left out: 'tensorflow' is not installed. Install it with" in done.output
    assert "2.5e-01" in done.output


def test_drift_is_the_largest_relative_difference_so_far():
    assert compared().drift("float32", "jax") == pytest.approx([0, 0.25, 0.25, 0.25])
    assert compared(("jax", "torch")).drift("float32", "torch") == pytest.approx([0, 0.2, 1 / 3, 1 / 3])
    steps = compare.as_json(
        compare.Comparison({each: {"a": np.ones(300), "b": np.ones(300)} for each in compare.DTYPES})
    )
    assert steps["drift"]["float64"]["b"] == {"1": 0, "10": 0, "100": 0, "300": 0}
